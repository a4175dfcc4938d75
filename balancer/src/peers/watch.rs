//! Reads one `/watch` stream for each backend that has an admin port: connects, reads, and
//! connects again.
//!
//! [`Health`] decides what a stream means for its backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use scaledapp_proxy::Endpoint;
use scaledapp_runtime::{LineError, LineStream};
use scaledapp_units::Backoff;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::health::{self, Health, word};
use crate::metrics::{Loss, Metrics};

/// How long opening a connection may take. In a cluster it takes a few milliseconds, and a
/// lost SYN is sent again after one second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// A connection without a line for this long is given up: the peer may have vanished
/// without closing it. The endpoint becomes suspect much earlier.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause before the next attempt to connect to a lost supervisor.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
/// How often `/watch` is tried again on a server without it.
const ASK_AGAIN_INTERVAL: Duration = Duration::from_secs(5);
/// How long a container may take from getting its address to its supervisor's first answer.
/// After that, the log says that no answer has come.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// The longest line, in bytes. Lines have about a hundred.
const MAX_LINE: usize = 64 << 10;
/// The name that the balancer gives itself in its requests.
const AGENT: &str = "scaledapp-balancer";

/// A supervisor to listen to, and the endpoint that it reports on.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) admin: SocketAddr,
    /// As in [`crate::discovery::Backend`].
    pub(crate) selected: bool,
    pub(crate) endpoint: Arc<Endpoint>,
}

/// Name, address and admin address.
type Key = (String, SocketAddr, SocketAddr);

/// The running streams, one task for each target.
#[derive(Debug)]
pub(crate) struct Watches {
    tasks: BTreeMap<Key, JoinHandle<()>>,
    changed: Arc<Notify>,
    metrics: Arc<Metrics>,
}

impl Watches {
    /// Starts without streams; `changed` is notified when a standing changes.
    pub(crate) fn new(changed: Arc<Notify>, metrics: Arc<Metrics>) -> Self {
        Self {
            tasks: BTreeMap::new(),
            changed,
            metrics,
        }
    }

    /// Follows exactly these `targets` from now on, and starts the new ones immediately.
    /// While a key is among the targets, it must stand for the same endpoint.
    pub(crate) fn follow(&mut self, targets: impl Iterator<Item = Target>) {
        let mut before = std::mem::take(&mut self.tasks);
        for target in targets {
            let endpoint = &target.endpoint;
            let key = (endpoint.name().to_owned(), endpoint.address(), target.admin);
            let task = before.remove(&key).unwrap_or_else(|| {
                let listener = Listener {
                    health: Health::new(target.selected),
                    target,
                    since: Some(Instant::now()),
                    backoff: BACKOFF,
                    changed: Arc::clone(&self.changed),
                    metrics: Arc::clone(&self.metrics),
                };
                tokio::spawn(listener.run())
            });
            self.tasks.insert(key, task);
        }
        for task in before.into_values() {
            task.abort();
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.follow(std::iter::empty());
    }
}

/// Waits until `at`; forever without it.
async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What the end of a stream means.
fn end_of(error: &LineError) -> End {
    let loss = match error {
        // It is not a supervisor, or the balancer may not watch it. Neither says anything about
        // the app.
        LineError::Status(400..500) => return End::NoWatch,
        LineError::Status(_) => Loss::Refused,
        LineError::Malformed(_) => Loss::Malformed,
        LineError::Silent(_) => Loss::Silent,
        LineError::Connect(_) | LineError::NoConnection(_) => Loss::Unreachable,
        LineError::Broken(_) | LineError::Closed | LineError::Ended => Loss::Closed,
    };
    End::Lost(loss, format!("/watch: {error}"))
}

/// How a stream ended.
#[derive(Debug)]
enum End {
    /// An HTTP server answers, but has no `/watch`.
    NoWatch,
    Lost(Loss, String),
}

/// The task of one stream.
struct Listener {
    target: Target,
    health: Health,
    /// Since when the first answer is awaited; `None` once the delay has been logged.
    since: Option<Instant>,
    backoff: Backoff,
    changed: Arc<Notify>,
    metrics: Arc<Metrics>,
}

impl Listener {
    async fn run(mut self) {
        loop {
            let pause = match self.stream().await {
                End::NoWatch => {
                    self.health.has_no_watch();
                    self.show("its admin port has no /watch");
                    self.backoff.reset();
                    ASK_AGAIN_INTERVAL
                }
                End::Lost(loss, reason) => {
                    self.metrics.lost(loss);
                    self.health.lost();
                    self.show(&reason);
                    tracing::debug!(endpoint = self.target.endpoint.name(), reason, "no /watch");
                    self.backoff.next(fastrand::f64())
                }
            };
            self.tell_if_unknown();
            sleep(pause).await;
        }
    }

    /// Logs once that no supervisor has answered for a long time.
    fn tell_if_unknown(&mut self) {
        let is_late = self
            .since
            .is_some_and(|since| since.elapsed() >= START_TIMEOUT);
        if is_late && self.health.is_unknown() {
            self.since = None;
            let (endpoint, admin) = (&self.target.endpoint, self.target.admin);
            tracing::warn!(
                endpoint = endpoint.name(),
                %admin,
                "no supervisor has ever answered at the endpoint's admin port, so the endpoint gets no requests while the supervisor of another pod answers: is the endpoint a pod of this app, and does a NetworkPolicy keep balancers from that port?"
            );
        }
    }

    /// Handles one connection from its opening to its end.
    async fn stream(&mut self) -> End {
        let admin = self.target.admin;
        let opened = LineStream::open(admin, "/watch", AGENT, CONNECT_TIMEOUT, MAX_LINE).await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                return End::Lost(Loss::Unreachable, format!("its admin port: {error}"));
            }
        };
        loop {
            let suspect_at = self.health.deadline().map(Instant::from_std);
            let line = tokio::select! {
                // Data that has arrived counts, however late this task runs.
                biased;
                line = stream.next(SILENCE_TIMEOUT) => line,
                () = sleep_until_some(suspect_at) => {
                    self.health.tick(Instant::now().into_std());
                    self.show("it is silent");
                    continue;
                }
            };
            let ended = match line {
                Ok(line) => self.take(&line),
                Err(error) => Err(end_of(&error)),
            };
            if let Err(end) = ended {
                return end;
            }
        }
    }

    /// Takes a line of the stream.
    fn take(&mut self, line: &[u8]) -> Result<(), End> {
        let snapshot = health::parse(line).ok_or_else(|| {
            let reason = "a line of /watch is no snapshot".to_owned();
            End::Lost(Loss::Malformed, reason)
        })?;
        self.health.line(Instant::now().into_std(), snapshot);
        let endpoint = &self.target.endpoint;
        endpoint.report(health::report(snapshot));
        endpoint.set_hands_back(health::hands_back(snapshot));
        self.backoff.reset();
        self.show("as it says");
        Ok(())
    }

    /// Passes a changed standing to the forwarding path.
    fn show(&self, reason: &str) {
        let (endpoint, standing) = (&self.target.endpoint, self.health.standing());
        if endpoint.standing() != standing {
            endpoint.set_standing(standing);
            self.changed.notify_one();
            tracing::info!(
                endpoint = endpoint.name(),
                address = %endpoint.address(),
                standing = word(standing),
                reason,
                "an endpoint changed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use scaledapp_proxy::Standing;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    fn chunk(line: &str) -> String {
        format!("{:x}\r\n{line}\n\r\n", line.len() + 1)
    }

    struct Peer {
        listener: TcpListener,
        endpoint: Arc<Endpoint>,
        watches: Watches,
        changed: Arc<Notify>,
    }

    impl Peer {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = Endpoint::new("pod-0", "127.0.0.1:1".parse().unwrap());
            endpoint.set_standing(Standing::Suspect);
            let changed = Arc::new(Notify::new());
            let mut watches = Watches::new(Arc::clone(&changed), Arc::default());
            let target = Target {
                admin: listener.local_addr().unwrap(),
                selected: false,
                endpoint: Arc::clone(&endpoint),
            };
            watches.follow(std::iter::once(target));
            Self {
                listener,
                endpoint,
                watches,
                changed,
            }
        }

        /// Accepts the next connection, reads its request and sends `answer`.
        async fn answer(&self, answer: &str) -> TcpStream {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            assert!(request.starts_with(b"GET /watch HTTP/1.1\r\nHost: 127.0.0.1:"));
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        }

        async fn becomes(&self, standing: Standing) {
            let seen = async {
                while self.endpoint.standing() != standing {
                    self.changed.notified().await;
                }
            };
            let waited = timeout(Duration::from_secs(10), seen).await;
            waited.unwrap_or_else(|_| panic!("{:?}", self.endpoint.standing()));
        }
    }

    #[tokio::test]
    async fn lines_change_the_standing_and_an_endpoint_is_suspect_while_its_stream_is_closed() {
        let peer = Peer::new().await;
        let mut stream = peer
            .answer(&(OK.to_owned() + &chunk(r#"{"ready":true}"#)))
            .await;
        peer.becomes(Standing::Serving).await;
        let draining = chunk(r#"{"ready":false,"draining":true}"#);
        stream.write_all(draining.as_bytes()).await.unwrap();
        peer.becomes(Standing::Draining).await;
        stream
            .write_all(chunk(r#"{"ready":true}"#).as_bytes())
            .await
            .unwrap();
        peer.becomes(Standing::Serving).await;
        drop(stream);
        peer.becomes(Standing::Suspect).await;
        let again = peer
            .answer(&(OK.to_owned() + &chunk(r#"{"ready":false}"#)))
            .await;
        peer.becomes(Standing::Unready).await;
        drop(again);
    }

    #[tokio::test]
    async fn a_silent_endpoint_is_suspect_until_a_late_line() {
        let peer = Peer::new().await;
        let mut stream = peer
            .answer(&(OK.to_owned() + &chunk(r#"{"ready":true}"#)))
            .await;
        peer.becomes(Standing::Serving).await;
        peer.becomes(Standing::Suspect).await;
        stream
            .write_all(chunk(r#"{"ready":true}"#).as_bytes())
            .await
            .unwrap();
        peer.becomes(Standing::Serving).await;
        // After a longer silence the stream is given up and opened again.
        let again = peer
            .answer(&(OK.to_owned() + &chunk(r#"{"ready":true}"#)))
            .await;
        peer.becomes(Standing::Serving).await;
        drop((stream, again));
    }

    #[tokio::test]
    async fn a_server_without_watch_serves_and_one_that_fails_is_suspect() {
        let peer = Peer::new().await;
        let failing = peer
            .answer("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            .await;
        let none = peer
            .answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            .await;
        peer.becomes(Standing::Serving).await;
        drop((failing, none));
    }

    #[tokio::test]
    async fn an_endpoint_that_sends_nonsense_is_suspect() {
        let peer = Peer::new().await;
        for nonsense in ["SSH-2.0-x\r\n\r\n", &(OK.to_owned() + &chunk("hello"))] {
            let good = peer
                .answer(&(OK.to_owned() + &chunk(r#"{"ready":true}"#)))
                .await;
            peer.becomes(Standing::Serving).await;
            drop(good);
            peer.becomes(Standing::Suspect).await;
            drop(peer.answer(nonsense).await);
        }
        assert_eq!(peer.endpoint.standing(), Standing::Suspect);
    }

    #[tokio::test]
    async fn a_stream_that_is_no_longer_followed_is_closed() {
        let mut peer = Peer::new().await;
        let mut stream = peer.answer(OK).await;
        peer.watches.follow(std::iter::empty());
        // The end may be a reset, if the answer was not read before.
        assert!(matches!(stream.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    }
}
