//! How long the proxy waits for a client that does not send or read a body.
//!
//! A fixed deadline would cut off large bodies, and a deadline between two bytes would let
//! one byte a minute block a worker for hours. So waiting time has to be earned: a client
//! starts with a small allowance, and each byte that it moves adds to it (as in Apache's
//! `mod_reqtimeout` with `MinRate`). Only time spent waiting for the client alone counts:
//! an app that takes its time to read an upload costs the client nothing. Time is an
//! argument.
//!
//! An [`Allowance`] also records since when the client has been behind. If there are too many
//! connections and none has been idle for long, the connection whose client has been behind for
//! longest ends. To catch up, a client must have moved as many bytes as the rate asks for in the
//! time for which it has been behind, so a byte now and then is not enough.

use std::time::Duration;

use crate::config::Limits;

/// How long the proxy may still wait for one body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// How many bytes earn a second of waiting; 0: waiting need not be earned, and only `stall` and
    /// `total` limit it.
    rate: u32,
    /// The waiting time that is left.
    left: Duration,
    /// The most waiting time that can be saved up.
    most: Duration,
    /// The longest single wait, however much is left.
    stall: Duration,
    /// The most waiting time in total, whatever has been earned.
    total: Duration,
    /// The start of the current wait.
    since: Option<Duration>,
    /// Since when the client has been behind, while the proxy waits for it.
    behind: Option<Duration>,
    /// The bytes that the client has moved since `behind`.
    bytes: u64,
}

impl Allowance {
    /// The allowance for sending the body of a request.
    pub(crate) fn to_send(limits: &Limits) -> Self {
        Self {
            rate: limits.body_rate,
            left: limits.body_grace,
            most: limits.body_grace * 3,
            stall: limits.stall_time,
            total: limits.body_time,
            since: None,
            behind: None,
            bytes: 0,
        }
    }

    /// The allowance for reading an answer. A reader may pause, as a browser does with a
    /// video.
    pub(crate) fn to_take(limits: &Limits) -> Self {
        Self {
            rate: limits.body_rate,
            left: limits.stall_time,
            most: limits.stall_time,
            stall: limits.stall_time,
            total: Duration::MAX,
            since: None,
            behind: None,
            bytes: 0,
        }
    }

    /// The proxy waits for the client at `now`, and may have waited before. Returns when
    /// this wait must end.
    pub(crate) fn wait(&mut self, now: Duration) -> Duration {
        let since = *self.since.get_or_insert(now);
        self.behind.get_or_insert(now);
        let paid = if self.rate == 0 {
            Duration::MAX
        } else {
            self.left
        };
        since.saturating_add(paid.min(self.stall).min(self.total))
    }

    /// The proxy no longer waits for the client.
    pub(crate) fn pause(&mut self, now: Duration) {
        self.settle(now);
        (self.behind, self.bytes) = (None, 0);
    }

    /// Since when the client has been behind, if the proxy waits for it.
    pub(crate) fn stalled(&self) -> Option<Duration> {
        self.behind
    }

    /// Deducts the time waited so far.
    fn settle(&mut self, now: Duration) {
        if let Some(since) = self.since.take() {
            let waited = now.saturating_sub(since);
            self.left = self.left.saturating_sub(waited);
            self.total = self.total.saturating_sub(waited);
        }
    }

    /// The client has moved this many bytes.
    pub(crate) fn moved(&mut self, bytes: usize, now: Duration) {
        self.settle(now);
        if self.rate > 0 && self.left < self.most {
            let earned = self.worth(bytes as u64);
            self.left = self.left.saturating_add(earned).min(self.most);
        }
        self.bytes += bytes as u64;
        let is_even = |since| now.saturating_sub(since) <= self.worth(self.bytes);
        if self.behind.is_some_and(is_even) {
            (self.behind, self.bytes) = (None, 0);
        }
    }

    /// The waiting time that this many bytes earn.
    fn worth(&self, bytes: u64) -> Duration {
        match u64::from(self.rate) {
            0 => Duration::MAX,
            rate => Duration::from_micros(bytes.saturating_mul(1_000_000) / rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            body_rate: 500,
            body_grace: SECOND * 20,
            body_time: SECOND * 3600,
            stall_time: SECOND * 300,
            ..Limits::default()
        }
    }

    /// The seconds after which a client that moves `bytes` in each interval of `every` is
    /// given up.
    fn ends(mut allowance: Allowance, bytes: usize, every: Duration) -> Option<u64> {
        let mut now = Duration::ZERO;
        while now < SECOND * 100_000 {
            let until = allowance.wait(now);
            if until < now + every {
                return Some(until.as_secs());
            }
            now += every;
            allowance.moved(bytes, now);
        }
        None
    }

    #[test]
    fn a_trickle_is_given_up_and_a_stream_at_the_rate_is_not() {
        let send = || Allowance::to_send(&limits());
        assert_eq!(ends(send(), 1, SECOND * 30), Some(20));
        assert_eq!(ends(send(), 1, SECOND), Some(20));
        assert_eq!(ends(send(), 250, SECOND), Some(39), "half of the rate");
        assert_eq!(ends(send(), 500, SECOND), Some(3600), "the total");
        let endless = Limits {
            body_time: Duration::MAX,
            ..limits()
        };
        assert_eq!(ends(Allowance::to_send(&endless), 500, SECOND), None);
    }

    #[test]
    fn a_reader_may_pause_but_not_trickle() {
        let take = || Allowance::to_take(&limits());
        assert_eq!(ends(take(), 1 << 20, SECOND * 299), None);
        assert_eq!(ends(take(), 1 << 20, SECOND * 301), Some(300));
        let drips = ends(take(), 10, SECOND).unwrap();
        assert!((300..320).contains(&drips), "{drips}");
    }

    #[test]
    fn many_bytes_at_once_do_not_earn_hours() {
        let mut send = Allowance::to_send(&limits());
        send.moved(1 << 30, SECOND);
        assert_eq!(send.wait(SECOND), SECOND * 61);
    }

    #[test]
    fn only_waiting_for_the_client_counts() {
        let mut send = Allowance::to_send(&limits());
        send.wait(SECOND);
        send.pause(SECOND * 11);
        // Meanwhile the app does not read.
        assert_eq!(send.wait(SECOND * 1000), SECOND * 1010);
    }

    #[test]
    fn a_client_is_behind_until_it_has_caught_up() {
        let mut send = Allowance::to_send(&limits());
        let at = |seconds| SECOND * seconds;
        assert_eq!(send.stalled(), None);
        send.wait(at(1));
        send.moved(1, at(2));
        send.wait(at(2));
        assert_eq!(send.stalled(), Some(at(1)), "one byte is not enough");
        send.moved(999, at(3));
        assert_eq!(send.stalled(), None, "two seconds at the rate");
        send.wait(at(3));
        assert_eq!(send.stalled(), Some(at(3)));
        send.pause(at(4));
        assert_eq!(send.stalled(), None, "the proxy does not wait for it");
        let mut free = Allowance::to_send(&Limits {
            body_rate: 0,
            ..limits()
        });
        free.wait(at(1));
        free.moved(1, at(9));
        assert_eq!(free.stalled(), None, "any byte is enough");
    }

    #[test]
    fn without_a_rate_only_a_stall_and_the_total_count() {
        let free = Limits {
            body_rate: 0,
            ..limits()
        };
        let send = || Allowance::to_send(&free);
        assert_eq!(ends(send(), 1, SECOND * 299), Some(3588 + 12));
        assert_eq!(ends(send(), 1, SECOND * 301), Some(300));
    }
}
