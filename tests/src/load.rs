//! Load with every request counted: how many were sent, how many failed and how, and the longest
//! time without a success.
//!
//! Each client is a thread that sends one request at a time and never retries. The number of
//! requests and the time are always limited.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{self, Connection, Failure, Request, Response};
use crate::wait;

/// The largest number of requests of a load.
const MAX_REQUESTS: u64 = 500_000;
/// Longest time of a load.
const MAX_TIME: Duration = Duration::from_mins(2);

/// The load to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// The targets; client `i` sends to target `i` modulo their number.
    pub targets: Vec<SocketAddr>,
    /// Number of clients, each a thread.
    pub clients: usize,
    /// Whether clients keep their connections, or open one for each request.
    pub keep_alive: bool,
    /// Path of GET requests.
    pub path: String,
    /// Path of POST requests.
    pub post_path: String,
    /// Every n-th request of a client is a POST; 0: none.
    pub post_every: u64,
    /// Requests per second of all clients together. `None`: as fast as answers arrive.
    pub rate: Option<u32>,
    /// How long connecting may take, and how long the whole exchange may take.
    pub timeout: Duration,
    /// Key of the JSON answer (such as `pid`) by whose value answers are counted.
    pub tally: Option<&'static str>,
}

impl Load {
    /// Eight keep-alive clients on `/`, as fast as answers arrive. One request in four is a POST.
    pub fn on(targets: &[SocketAddr]) -> Self {
        Self {
            targets: targets.to_vec(),
            clients: 8,
            keep_alive: true,
            path: "/".to_owned(),
            post_path: "/".to_owned(),
            post_every: 4,
            rate: None,
            timeout: Duration::from_secs(10),
            tally: None,
        }
    }

    /// Starts the clients.
    ///
    /// # Errors
    /// There is no target or no client.
    pub fn start(self) -> anyhow::Result<Running> {
        anyhow::ensure!(
            !self.targets.is_empty() && self.clients > 0,
            "load needs targets and clients"
        );
        let shared = Arc::new(Shared {
            started: Instant::now(),
            load: self,
            ..Shared::default()
        });
        let clients = (0..shared.load.clients)
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || Client::new(index, &shared).run())
            })
            .collect();
        Ok(Running { shared, clients })
    }

    /// Runs until `requests` have been sent.
    ///
    /// # Errors
    /// As [`Load::start`], or the requests take longer than two minutes.
    pub fn run(self, requests: u64) -> anyhow::Result<Report> {
        let running = self.start()?;
        running.wait_sent(requests, MAX_TIME)?;
        Ok(running.stop())
    }

    /// Sends load before, during and after `act`. `act` starts when `more` requests have been
    /// answered, and the load stops when `more` further requests have been answered after `act`.
    ///
    /// # Errors
    /// As [`Load::start`], or the requests are not answered by the deadline.
    pub fn around(
        self,
        more: u64,
        deadline: Duration,
        act: impl FnOnce(),
    ) -> anyhow::Result<Report> {
        let running = self.start()?;
        running.wait_more(more, deadline)?;
        act();
        running.wait_more(more, deadline)?;
        Ok(running.stop())
    }
}

#[derive(Debug)]
struct Shared {
    load: Load,
    started: Instant,
    sent: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            load: Load::on(&[]),
            started: Instant::now(),
            sent: AtomicU64::new(0),
            ok: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }
}

/// Running clients. If this value is dropped, each client stops after its present request.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Client>>,
}

impl Running {
    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Requests answered correctly so far.
    pub fn ok(&self) -> u64 {
        self.shared.ok.load(Ordering::Relaxed)
    }

    /// Requests failed so far.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Waits until `requests` have been sent in all.
    ///
    /// # Errors
    /// The requests are not sent by the deadline.
    pub fn wait_sent(&self, requests: u64, deadline: Duration) -> anyhow::Result<()> {
        wait::until(deadline, &format!("{requests} requests are sent"), || {
            let sent = self.sent();
            if sent >= requests {
                Ok(())
            } else {
                Err(format!("{sent}"))
            }
        })
    }

    /// Waits until `more` further requests have been answered.
    ///
    /// # Errors
    /// The requests are not answered by the deadline.
    pub fn wait_more(&self, more: u64, deadline: Duration) -> anyhow::Result<()> {
        let before = self.ok();
        wait::until(
            deadline,
            &format!("{more} more requests are answered"),
            || {
                let now = self.ok() - before;
                if now >= more {
                    Ok(())
                } else {
                    Err(format!("{now}, {} failed in all", self.failed()))
                }
            },
        )
    }

    /// Lets each client finish its request, and returns the sums over all clients.
    pub fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        let clients = std::mem::take(&mut self.clients);
        let clients: Vec<Client> = clients
            .into_iter()
            .filter_map(|client| client.join().ok())
            .collect();
        Report::of(&self.shared, clients)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// The state and results of one client.
#[derive(Debug)]
struct Client {
    shared: Arc<Shared>,
    index: usize,
    connection: Option<Connection>,
    connections: u64,
    sent: u64,
    posts: u64,
    successes: Vec<(Instant, Duration)>,
    failures: BTreeMap<(Method, Failure), u64>,
    tally: BTreeMap<String, u64>,
}

/// The method of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// GET, which a proxy may repeat.
    Get,
    /// POST, which a proxy must not repeat.
    Post,
}

impl Client {
    fn new(index: usize, shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            index,
            connection: None,
            connections: 0,
            sent: 0,
            posts: 0,
            successes: Vec::new(),
            failures: BTreeMap::new(),
            tally: BTreeMap::new(),
        }
    }

    fn run(mut self) -> Self {
        let shared = Arc::clone(&self.shared);
        let load = &shared.load;
        let end = shared.started + MAX_TIME;
        while !shared.stop.load(Ordering::Relaxed) && Instant::now() < end {
            if let Some(rate) = load.rate {
                // The clients take turns on a common schedule, so a slow answer delays only the
                // requests of its own client.
                let turn = self.sent * load.clients as u64 + self.index as u64;
                let at = shared.started + Duration::from_secs_f64(turn as f64 / f64::from(rate));
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
            }
            if shared.sent.fetch_add(1, Ordering::Relaxed) >= MAX_REQUESTS {
                shared.sent.fetch_sub(1, Ordering::Relaxed);
                break;
            }
            self.one();
        }
        self.connection = None;
        self
    }

    fn one(&mut self) {
        let shared = Arc::clone(&self.shared);
        let load = &shared.load;
        self.sent += 1;
        let post =
            load.post_every > 0 && (self.sent + self.index as u64).is_multiple_of(load.post_every);
        let body = format!("client {} request {}", self.index, self.sent);
        let request = if post {
            Request::post(&load.post_path, body.as_bytes())
        } else {
            Request::get(&load.path)
        };
        self.posts += u64::from(post);
        let start = Instant::now();
        let result = self
            .send(&request)
            .and_then(|response| judge(&response, post.then_some(body.as_str())));
        match result {
            Ok(response) => {
                self.successes.push((Instant::now(), start.elapsed()));
                if let Some(key) = load.tally
                    && let value @ (serde_json::Value::String(_) | serde_json::Value::Number(_)) =
                        &response.json()[key]
                {
                    let value = value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned);
                    *self.tally.entry(value).or_default() += 1;
                }
                shared.ok.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                self.connection = None;
                let method = if post { Method::Post } else { Method::Get };
                *self.failures.entry((method, failure)).or_default() += 1;
                shared.failed.fetch_add(1, Ordering::Relaxed);
                // A refused connection fails immediately. Without a pause, the load would send a
                // hundred thousand requests to a dead server.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    fn send(&mut self, request: &Request<'_>) -> Result<Response, Failure> {
        let load = &self.shared.load;
        let to = load.targets[self.index % load.targets.len()];
        if !load.keep_alive {
            self.connections += 1;
            return http::one_shot(to, load.timeout, request);
        }
        if !self
            .connection
            .as_ref()
            .is_some_and(Connection::is_reusable)
        {
            self.connections += 1;
            self.connection = Some(Connection::open(to, load.timeout)?);
        }
        match &mut self.connection {
            Some(connection) => connection.send(request),
            None => Err(Failure::Io("no connection".to_owned())),
        }
    }
}

/// Checks an answer: it must be a 200, and after a POST its body must contain what was sent.
fn judge(response: &Response, posted: Option<&str>) -> Result<Response, Failure> {
    if response.status != 200 {
        return Err(Failure::Status(response.status));
    }
    if posted.is_some_and(|posted| !response.text().contains(posted)) {
        return Err(Failure::WrongBody);
    }
    Ok(response.clone())
}

/// The results of a load.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered correctly.
    pub ok: u64,
    /// POSTs among the requests sent.
    pub posts: u64,
    /// Failures by method and kind.
    pub failures: BTreeMap<(Method, Failure), u64>,
    /// Longest time without any success, from the start to the end.
    pub longest_gap: Duration,
    /// The number of answers for each value of the key [`Load::tally`].
    pub tally: BTreeMap<String, u64>,
    /// Connections opened.
    pub connections: u64,
    /// Median time of successes.
    pub p50: Duration,
    /// 99th percentile of the time of successes.
    pub p99: Duration,
    /// The time from start to end.
    pub elapsed: Duration,
}

impl Report {
    fn of(shared: &Shared, clients: Vec<Client>) -> Self {
        let mut report = Self {
            elapsed: shared.started.elapsed(),
            ..Self::default()
        };
        let (mut times, mut instants) = (Vec::new(), Vec::new());
        for client in clients {
            report.sent += client.sent;
            report.posts += client.posts;
            report.connections += client.connections;
            for (instant, time) in client.successes {
                instants.push(instant);
                times.push(time);
            }
            for (kind, count) in client.failures {
                *report.failures.entry(kind).or_default() += count;
            }
            for (value, count) in client.tally {
                *report.tally.entry(value).or_default() += count;
            }
        }
        report.ok = times.len() as u64;
        times.sort_unstable();
        report.p50 = percentile(&times, 50);
        report.p99 = percentile(&times, 99);
        instants.push(shared.started);
        instants.push(shared.started + report.elapsed);
        instants.sort_unstable();
        let gaps = instants.windows(2).map(|pair| pair[1] - pair[0]);
        report.longest_gap = gaps.max().unwrap_or_default();
        report
    }

    /// Requests that failed in any way.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Requests of one method that failed in any way.
    pub fn failed_of(&self, method: Method) -> u64 {
        let of = self
            .failures
            .iter()
            .filter(|((failed, _), _)| *failed == method);
        of.map(|(_, count)| count).sum()
    }

    /// Requests that failed in one way.
    pub fn failed_with(&self, failure: &Failure) -> u64 {
        let of = self
            .failures
            .iter()
            .filter(|((_, kind), _)| kind == failure);
        of.map(|(_, count)| count).sum()
    }

    /// Failed requests, not counting refused connections: a client that connects after a port was
    /// closed has lost no request.
    pub fn lost(&self) -> u64 {
        self.failed() - self.failed_with(&Failure::Refused)
    }

    /// Adds the counts of another report, and keeps the worse one of each pair of times.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.sent += other.sent;
        self.ok += other.ok;
        self.posts += other.posts;
        self.connections += other.connections;
        for (kind, count) in &other.failures {
            *self.failures.entry(kind.clone()).or_default() += count;
        }
        for (value, count) in &other.tally {
            *self.tally.entry(value.clone()).or_default() += count;
        }
        self.longest_gap = self.longest_gap.max(other.longest_gap);
        self.p50 = self.p50.max(other.p50);
        self.p99 = self.p99.max(other.p99);
        self.elapsed = self.elapsed.max(other.elapsed);
        self
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "{} sent ({} POST, {} connections), {} failed, longest gap {:.0} ms, p50 {:.1} ms, p99 {:.1} ms, {:.0}/s",
            self.sent,
            self.posts,
            self.connections,
            self.failed(),
            milliseconds(self.longest_gap),
            milliseconds(self.p50),
            milliseconds(self.p99),
            self.sent as f64 / self.elapsed.as_secs_f64().max(1e-9),
        )?;
        for ((method, kind), count) in &self.failures {
            write!(f, "; {count} {method:?} {kind}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Upstream, ok};

    #[test]
    fn every_request_is_counted_once() {
        let upstream = Upstream::answering(r#"{"pid": 7}"#).unwrap();
        let load = Load {
            post_every: 0,
            tally: Some("pid"),
            clients: 3,
            ..Load::on(&[upstream.address()])
        };
        let report = load.run(300).unwrap();
        assert!(report.sent >= 300, "{report}");
        assert_eq!(
            (report.sent, report.failed(), report.connections),
            (report.ok, 0, 3),
            "{report}"
        );
        assert_eq!(report.tally["7"], report.ok);
    }

    #[test]
    fn failures_have_their_kind_and_method() {
        // Every second connection is reset, and the body of a POST is not echoed.
        let upstream = Upstream::start(|mut peer| {
            if peer.read_request().is_none() || peer.index % 2 == 1 {
                return peer.reset();
            }
            peer.write(&ok("x"));
        })
        .unwrap();
        let load = Load {
            keep_alive: false,
            clients: 1,
            post_every: 4,
            ..Load::on(&[upstream.address()])
        };
        let report = load.run(40).unwrap();
        assert_eq!(report.ok + report.failed(), report.sent, "{report}");
        assert!(report.failed_with(&Failure::Reset) >= 20, "{report}");
        assert!(report.failed_of(Method::Post) >= 10, "{report}");
    }

    #[test]
    fn a_pause_of_the_server_is_the_longest_gap() {
        let upstream = Upstream::start(|mut peer| {
            let mut requests = 0;
            while peer.read_request().is_some() {
                requests += 1;
                if requests == 20 {
                    std::thread::sleep(Duration::from_millis(150));
                }
                peer.write(&ok("x"));
            }
        })
        .unwrap();
        let load = Load {
            clients: 1,
            post_every: 0,
            rate: Some(500),
            ..Load::on(&[upstream.address()])
        };
        let report = load.run(50).unwrap();
        assert!(report.longest_gap >= Duration::from_millis(150), "{report}");
    }
}
