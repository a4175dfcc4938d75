//! One `/load` stream for each pod of an autoscaled app: connects, reads, and connects again.
//!
//! What a pod says becomes a report of its ledger, and nothing else: [`scaledapp_scale`] bounds the
//! numbers. A pod runs a user's code, so a line may have any content, length and frequency. Of the
//! lines that have arrived only the newest is parsed, because lines count since the process began,
//! and a stream is read at most [`READS_PER_SECOND`] times a second. What a pod sends beyond that
//! waits in its own socket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_runtime::{LineDecoder, LineEvent, MalformedLines};
use scaledapp_scale::{BalancerLedger, BalancerReport, PodLedger, PodReport};
use scaledapp_units::Backoff;
use scaledapp_wire::{BalancerLoad, PodLoad};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::demand::{AppName, Demand};
use crate::admin_target::Target;

/// How long opening a connection may take. A lost SYN is sent again after one second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// A stream without a line for this long is given up: the peer may have vanished without closing
/// it. A line comes every second.
const SILENCE: Duration = Duration::from_secs(5);
/// The pause before the next attempt to connect.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
/// How often a server without `/load` is asked again. It is a pod of an older version, or another
/// program.
const ASK_AGAIN_INTERVAL: Duration = Duration::from_secs(10);
/// How often a stream is read if its pod always has something to say, and how many reads may follow
/// each other at once.
const READS_PER_SECOND: u32 = 10;
const BURST: u32 = 20;
/// How long before a decision the lines of a stream come: at least and at most this. So a decision
/// is about the present, and a second has one wave of lines instead of a wake-up for each of them.
const LEAD: (Duration, Duration) = (Duration::from_millis(60), Duration::from_millis(200));
/// How often decisions are made and lines come.
const PERIOD: Duration = Duration::from_secs(1);
/// The size of a read, in bytes.
const READ_BYTES: usize = 1 << 10;
/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 4 << 10;
/// The longest line, in bytes. A line of `/load` has about two hundred.
const MAX_LINE: usize = 4 << 10;

/// The lines of one pod since its last report.
#[derive(Debug)]
enum Ledger {
    Balancer(BalancerLedger),
    Pod(PodLedger),
}

/// What a stream shares with the loop.
#[derive(Debug)]
struct Heard {
    ledger: Ledger,
    /// When the last line came, on the clock of [`Streams`].
    last: Option<Duration>,
}

#[derive(Debug)]
struct Stream {
    target: Target,
    heard: Arc<Mutex<Heard>>,
    task: AbortHandle,
}

impl Stream {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }
}

/// The running streams, one task for each pod.
#[derive(Debug)]
pub(crate) struct Streams {
    by_uid: HashMap<String, Stream>,
    demand: Arc<Demand>,
    clock: Instant,
}

impl Streams {
    /// Starts without streams. `demand` hears of requests that wait; times are counted from
    /// `clock`.
    pub(crate) fn new(demand: Arc<Demand>, clock: Instant) -> Self {
        Self {
            by_uid: HashMap::new(),
            demand,
            clock,
        }
    }

    /// Follows exactly these pods from now on, and starts the new ones immediately.
    pub(crate) fn follow(&mut self, targets: impl Iterator<Item = Target>) {
        let mut before = std::mem::take(&mut self.by_uid);
        for target in targets {
            let kept = before
                .remove(&target.uid)
                .filter(|stream| stream.target == target || drop_task(stream));
            let stream = kept.unwrap_or_else(|| self.start(target));
            self.by_uid.insert(stream.target.uid.clone(), stream);
        }
        for stream in before.values() {
            stream.task.abort();
        }
    }

    fn start(&self, target: Target) -> Stream {
        let ledger = if target.balancer {
            Ledger::Balancer(BalancerLedger::default())
        } else {
            Ledger::Pod(PodLedger::default())
        };
        let heard = Arc::new(Mutex::new(Heard { ledger, last: None }));
        let reader = Reader {
            app: AppName {
                namespace: target.namespace.clone(),
                name: target.app.clone(),
            },
            target: target.clone(),
            heard: Arc::clone(&heard),
            demand: Arc::clone(&self.demand),
            clock: self.clock,
            backoff: BACKOFF,
        };
        let task = tokio::spawn(reader.run()).abort_handle();
        Stream {
            target,
            heard,
            task,
        }
    }

    /// The report of a balancer since the last call; `None` if no line has come.
    pub(crate) fn balancer(&self, uid: &str) -> Option<BalancerReport> {
        match &mut self.by_uid.get(uid)?.heard().ledger {
            Ledger::Balancer(ledger) => ledger.take(),
            Ledger::Pod(_) => None,
        }
    }

    /// The report of a pod of the app since the last call; `None` if no line has come.
    pub(crate) fn pod(&self, uid: &str) -> Option<PodReport> {
        match &mut self.by_uid.get(uid)?.heard().ledger {
            Ledger::Pod(ledger) => ledger.take(),
            Ledger::Balancer(_) => None,
        }
    }

    /// Whether a line of this pod has ever come.
    pub(crate) fn has_heard(&self, uid: &str) -> bool {
        let stream = self.by_uid.get(uid);
        stream.is_some_and(|stream| stream.heard().last.is_some())
    }

    /// How many balancers, and how many pods of apps, are followed and have been silent for
    /// [`SILENCE`].
    pub(crate) fn silent(&self) -> (usize, usize) {
        let now = self.clock.elapsed();
        let is_silent = |stream: &&Stream| {
            let last = stream.heard().last;
            last.is_none_or(|last| now.saturating_sub(last) >= SILENCE)
        };
        let silent = self.by_uid.values().filter(is_silent);
        silent.fold((0, 0), |(balancers, pods), stream| {
            if stream.target.balancer {
                (balancers + 1, pods)
            } else {
                (balancers, pods + 1)
            }
        })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.follow(std::iter::empty());
    }
}

/// Ends the task of a stream that is not kept; always false.
fn drop_task(stream: &Stream) -> bool {
    stream.task.abort();
    false
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    // Each change is one call: a panic leaves nothing half done.
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    NoConnection,
    #[error("the connection failed")]
    Broken(#[from] std::io::Error),
    #[error(transparent)]
    Malformed(#[from] MalformedLines),
    #[error("the admin port answers {0} to /load")]
    NoLoad(u16),
    #[error("a line of /load is none")]
    NoLine(#[from] serde_json::Error),
    #[error("no line for {SILENCE:?}")]
    Silent,
    #[error("the pod ended its stream")]
    Over,
}

/// How long to wait before a stream is opened, so that its lines, which come each second from then
/// on, come shortly before decisions. These are made each full second of the clock that shows
/// `elapsed`. `random` spreads the streams; it is from 0 to 1.
fn until_slot(elapsed: Duration, random: f64) -> Duration {
    let lead = LEAD.0 + LEAD.1.saturating_sub(LEAD.0).mul_f64(random);
    let slot = PERIOD.saturating_sub(lead);
    let now = Duration::from_nanos(elapsed.subsec_nanos().into());
    if now <= slot {
        slot.saturating_sub(now)
    } else {
        (PERIOD + slot).saturating_sub(now)
    }
}

/// How many reads a stream may make now.
#[derive(Debug)]
struct Budget {
    left: f64,
    since: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: f64::from(BURST),
            since: now,
        }
    }

    /// Takes one read. Returns how long to wait before it.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let rate = f64::from(READS_PER_SECOND);
        let earned = (now - self.since).as_secs_f64() * rate;
        self.left = (self.left + earned).min(f64::from(BURST)) - 1.0;
        self.since = now;
        (self.left < 0.0).then(|| Duration::from_secs_f64(-self.left / rate))
    }
}

/// The task of one stream.
struct Reader {
    target: Target,
    app: AppName,
    heard: Arc<Mutex<Heard>>,
    demand: Arc<Demand>,
    clock: Instant,
    backoff: Backoff,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let Err(end) = self.stream().await;
            tracing::debug!(
                namespace = self.app.namespace,
                app = self.app.name,
                address = %self.target.address,
                error = &end as &dyn std::error::Error,
                "the load of a pod cannot be read; the connection is opened again"
            );
            let pause = match end {
                End::NoLoad(400..500) | End::NoLine(_) | End::Malformed(_) => ASK_AGAIN_INTERVAL,
                _ => self.backoff.next(fastrand::f64()),
            };
            sleep(pause).await;
        }
    }

    /// Handles one connection from its opening to its end.
    async fn stream(&mut self) -> Result<std::convert::Infallible, End> {
        sleep(until_slot(self.clock.elapsed(), fastrand::f64())).await;
        let mut stream = timeout(CONNECT_TIMEOUT, self.open())
            .await
            .map_err(|_elapsed| End::NoConnection)??;
        let mut decoder = LineDecoder::new(MAX_HEAD, MAX_LINE);
        let mut buffer = [0; READ_BYTES];
        let mut last = Instant::now();
        let mut budget = Budget::new(last);
        loop {
            let read = timeout_at(last + SILENCE, stream.read(&mut buffer));
            let length = read.await.map_err(|_elapsed| End::Silent)??;
            if length == 0 {
                return Err(End::Over);
            }
            let (mut newest, mut is_over) = (None, false);
            for event in decoder.feed(&buffer[..length])? {
                match event {
                    LineEvent::Status(200) => {}
                    LineEvent::Status(status) => return Err(End::NoLoad(status)),
                    LineEvent::Line(line) => newest = Some(line),
                    LineEvent::End => is_over = true,
                }
            }
            let now = Instant::now();
            if let Some(line) = newest {
                self.take(now, &line)?;
                self.backoff.reset();
                last = now;
            }
            if is_over {
                return Err(End::Over);
            }
            if let Some(pause) = budget.take(now) {
                sleep(pause).await;
            }
        }
    }

    async fn open(&self) -> std::io::Result<TcpStream> {
        let address = self.target.address;
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET /load HTTP/1.1\r\nHost: {address}\r\nUser-Agent: scaledapp-operator\r\nAccept: application/x-ndjson\r\n\r\n"
        );
        // The request fits into any send buffer, so this does not wait for the peer.
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    }

    fn take(&self, now: Instant, line: &[u8]) -> serde_json::Result<()> {
        let elapsed = now - self.clock;
        let mut heard = lock(&self.heard);
        heard.last = Some(elapsed);
        match &mut heard.ledger {
            Ledger::Balancer(ledger) => {
                let load: BalancerLoad = serde_json::from_slice(line)?;
                let waits = load.queued > 0;
                ledger.on(load);
                drop(heard);
                if waits {
                    self.demand.wake(&self.app);
                }
            }
            Ledger::Pod(ledger) => {
                let load: PodLoad = serde_json::from_slice(line)?;
                ledger.on(elapsed, load);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\n\r\n";

    fn target(address: SocketAddr, balancer: bool) -> Target {
        Target {
            uid: "u".to_owned(),
            namespace: "default".to_owned(),
            app: "hello".to_owned(),
            address,
            balancer,
        }
    }

    fn hello() -> AppName {
        AppName {
            namespace: "default".to_owned(),
            name: "hello".to_owned(),
        }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Waits until `look` gives something.
    async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "nothing has come in time");
            sleep(Duration::from_millis(2)).await;
        }
    }

    #[test]
    fn a_burst_of_reads_is_free_and_then_they_are_paced() {
        let begun = Instant::now();
        let mut budget = Budget::new(begun);
        for _ in 0..BURST {
            assert_eq!(budget.take(begun), None);
        }
        let pause = budget.take(begun).unwrap();
        assert!(pause >= Duration::from_millis(99), "{pause:?}");
        // One line per second is never delayed.
        let mut budget = Budget::new(begun);
        for second in 0..1000 {
            assert_eq!(budget.take(begun + Duration::from_secs(second)), None);
        }
    }

    #[test]
    fn streams_are_opened_shortly_before_a_decision() {
        for (elapsed, random, expected) in [(5_000, 0.0, 940), (7_900, 1.0, 900), (7_800, 1.0, 0)] {
            let elapsed = Duration::from_millis(elapsed);
            let expected = Duration::from_millis(expected);
            assert_eq!(until_slot(elapsed, random), expected, "{elapsed:?}");
        }
    }

    #[tokio::test]
    async fn lines_become_reports_across_connections_and_a_waiting_request_wakes_the_app() {
        let (listener, address) = listener().await;
        let demand = Arc::new(Demand::default());
        demand.set_asleep(&hello(), true);
        let mut streams = Streams::new(Arc::clone(&demand), Instant::now());
        streams.follow(std::iter::once(target(address, true)));
        let (mut stream, _) = listener.accept().await.unwrap();
        let line = |arrivals: u64, queued: u32| {
            format!("{{\"arrivals\":{arrivals},\"queued\":{queued},\"run\":\"a\"}}\n")
        };
        let first = format!("{HEAD}{}", line(5, 0));
        stream.write_all(first.as_bytes()).await.unwrap();
        let report = until(|| streams.balancer("u")).await;
        assert_eq!((report.arrivals, report.queued), (0, 0));
        assert_eq!(streams.balancer("u"), None);
        // The connection breaks, and the next one goes on with the same counters.
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        let second = format!("{HEAD}{}", line(8, 2));
        stream.write_all(second.as_bytes()).await.unwrap();
        assert_eq!(demand.next().await, hello());
        let report = until(|| streams.balancer("u")).await;
        assert_eq!((report.arrivals, report.queued), (3, 2));
        assert!(streams.has_heard("u"));
        assert_eq!(streams.silent(), (0, 0));
        streams.follow(std::iter::empty());
        assert!(!streams.has_heard("u"));
    }

    #[tokio::test]
    async fn a_pod_that_sends_without_end_is_read_at_its_pace_only() {
        let (listener, address) = listener().await;
        let mut streams = Streams::new(Arc::default(), Instant::now());
        streams.follow(std::iter::once(target(address, false)));
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(HEAD.as_bytes()).await.unwrap();
        let mut sent = 0;
        let flood = async {
            let lines = "{\"workers\":4000000000,\"cpuSeconds\":1e300}\n".repeat(100);
            loop {
                stream.write_all(lines.as_bytes()).await.unwrap();
                sent += lines.len();
            }
        };
        drop(timeout(Duration::from_secs(1), flood).await);
        assert!(streams.pod("u").is_some());
        // What was sent lies in the buffers of the kernel: about 30 reads were made.
        let most = 16 << 20;
        assert!(sent < most, "{sent}");
    }

    #[tokio::test]
    async fn what_is_no_load_gives_no_report() {
        for answer in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            format!("{HEAD}7\n"),
            format!("{HEAD}{{\"workers\":-1}}\n"),
            "SSH-2.0-x\r\n\r\n".to_owned(),
            format!("{HEAD}{}", "x".repeat(8000)),
        ] {
            let (listener, address) = listener().await;
            let mut streams = Streams::new(Arc::default(), Instant::now());
            streams.follow(std::iter::once(target(address, false)));
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            // The operator closes the connection.
            let closed = timeout(Duration::from_secs(30), stream.read_to_end(&mut rest));
            drop(closed.await.unwrap());
            assert_eq!(streams.pod("u"), None, "{answer}");
        }
    }
}
