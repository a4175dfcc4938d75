//! Sends requests at a fixed rate, independent of the answers, each on its own connection. Times
//! count from when a request should have been sent, so that a stall of the server counts for every
//! request that was due during it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use scaledapp_tests::http::{self, Failure, Request};

/// Highest rate, in requests per second.
const MAX_PER_SECOND: u32 = 2000;
/// How many requests may wait for an answer at the same time, each in a thread of its own.
const CLIENTS: u64 = 256;

/// What to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenLoop {
    /// The target, on this machine.
    pub(crate) to: SocketAddr,
    /// Requests per second.
    pub(crate) rate: u32,
    /// Number of requests.
    pub(crate) requests: u64,
    /// Time-out for the connection, and for the exchange.
    pub(crate) timeout: Duration,
    /// The path of every hundredth request; all others have `/`.
    pub(crate) hundredth: &'static str,
}

/// The result of a load.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Requests sent.
    pub(crate) sent: u64,
    /// Times of answered requests, from the intended time of sending to the end of the answer.
    pub(crate) times: Vec<Duration>,
    /// How the other requests failed.
    pub(crate) failures: BTreeMap<Failure, u64>,
}

impl Measured {
    /// Adds another result.
    pub(crate) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.times.extend(other.times);
        for (kind, count) in other.failures {
            *self.failures.entry(kind).or_default() += count;
        }
    }

    /// The number of requests that were answered later than this, or not at all.
    pub(crate) fn later_than(&self, limit: Duration) -> u64 {
        let late = self.times.iter().filter(|time| **time > limit).count() as u64;
        late + self.failures.values().sum::<u64>()
    }

    /// `1200 sent, 3 failed, 3 reset`.
    pub(crate) fn summary(&self) -> String {
        let failed: u64 = self.failures.values().sum();
        let mut text = format!("{} sent, {failed} failed", self.sent);
        for (kind, count) in &self.failures {
            let _infallible = write!(text, ", {count} {kind}");
        }
        text
    }
}

impl OpenLoop {
    /// When the request with this index is due, counted from the start of the load.
    fn due(&self, index: u64) -> Duration {
        Duration::from_secs_f64(index as f64 / f64::from(self.rate))
    }

    fn path(&self, index: u64) -> &'static str {
        if index % 100 == 50 {
            self.hundredth
        } else {
            "/"
        }
    }

    /// Sends all requests.
    ///
    /// # Errors
    /// The address is not on this machine, or the rate is out of bounds.
    pub(crate) fn run(self) -> anyhow::Result<Measured> {
        ensure!(
            self.to.ip().is_loopback() && (1..=MAX_PER_SECOND).contains(&self.rate),
            "load goes to loopback addresses, at most {MAX_PER_SECOND} requests per second"
        );
        let next = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let clients: Vec<_> = (0..CLIENTS.min(self.requests))
            .map(|_| {
                let next = Arc::clone(&next);
                std::thread::spawn(move || self.client(start, &next))
            })
            .collect();
        let mut all = Measured::default();
        for client in clients {
            if let Ok(measured) = client.join() {
                all.add(measured);
            }
        }
        Ok(all)
    }

    fn client(&self, start: Instant, next: &AtomicU64) -> Measured {
        let mut measured = Measured::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.requests {
                return measured;
            }
            let due = start + self.due(index);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            measured.sent += 1;
            match http::one_shot(self.to, self.timeout, &Request::get(self.path(index))) {
                Ok(response) if response.status == 200 => measured.times.push(due.elapsed()),
                Ok(response) => {
                    let kind = Failure::Status(response.status);
                    *measured.failures.entry(kind).or_default() += 1;
                }
                Err(failure) => *measured.failures.entry(failure).or_default() += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scaledapp_tests::upstream::Upstream;

    fn load(to: SocketAddr) -> OpenLoop {
        OpenLoop {
            to,
            rate: 1000,
            requests: 200,
            timeout: Duration::from_secs(5),
            hundredth: "/block/1",
        }
    }

    #[test]
    fn every_request_is_sent_once_and_timed() {
        let upstream = Upstream::answering("{}").unwrap();
        let measured = load(upstream.address()).run().unwrap();
        assert_eq!((measured.sent, measured.times.len()), (200, 200));
        assert_eq!(upstream.all_received().matches("GET /block/1 ").count(), 2);
        assert_eq!(measured.summary(), "200 sent, 0 failed");
    }

    #[test]
    fn what_fails_counts_as_late() {
        let measured = load(scaledapp_tests::ports::local().unwrap())
            .run()
            .unwrap();
        assert_eq!(measured.later_than(Duration::from_mins(1)), 200);
        assert_eq!(measured.failures.get(&Failure::Refused), Some(&200));
    }

    #[test]
    fn only_this_machine_is_loaded() {
        assert!(load(SocketAddr::from(([192, 0, 2, 1], 80))).run().is_err());
    }
}
