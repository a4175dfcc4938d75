//! A proxy to be tested, and upstreams that the test controls.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use scaledapp_proxy::{
    Callers, Config, Counters, EndedBy, Endpoint, Limits, Metrics, Process, Proxy, Site, Table,
};
use tokio::sync::watch;

/// A short time, for limits that a test waits for.
pub(crate) const MOMENT: Duration = Duration::from_millis(150);
pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

pub(crate) struct Running {
    pub(crate) proxy: Proxy,
    pub(crate) table: watch::Sender<Arc<Table>>,
    pub(crate) address: SocketAddr,
    registry: Registry,
}

/// A balancer in front of `endpoints`.
pub(crate) fn start(endpoints: Vec<Arc<Endpoint>>, limits: Limits) -> Running {
    start_with(
        endpoints,
        Config {
            limits,
            ..Config::balancer()
        },
    )
}

pub(crate) fn start_with(endpoints: Vec<Arc<Endpoint>>, config: Config) -> Running {
    start_for(endpoints, config, Callers::default())
}

/// As [`start_with`], where `callers` are believed about their clients.
pub(crate) fn start_for(
    endpoints: Vec<Arc<Endpoint>>,
    config: Config,
    callers: Callers,
) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry, "x");
    let (table, seen) = watch::channel(Arc::new(Table { endpoints }));
    Running {
        proxy: Proxy::start(
            config,
            vec![listener.into()],
            seen,
            metrics,
            callers,
            Site::default(),
        )
        .unwrap(),
        table,
        address,
        registry,
    }
}

impl Running {
    /// Whether the metrics have this line.
    pub(crate) fn counts(&self, line: &str) -> bool {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text.lines().any(|shown| shown == line)
    }

    /// The value of a metric without labels.
    pub(crate) fn value(&self, name: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    }

    /// Sends `bytes` on a new connection; returns everything that comes back.
    pub(crate) fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read_all(&mut stream)
    }
}

/// Reads everything until the end.
pub(crate) fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}, after {}", String::from_utf8_lossy(&answer)),
    }
    String::from_utf8(answer).unwrap()
}

/// An upstream that sends `answer` to every head, after `pause`.
pub(crate) fn upstream(answer: &'static str, pause: Duration) -> Arc<Endpoint> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).is_ok_and(|read| read > 0) {
                    std::thread::sleep(pause);
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Endpoint::new("one", address)
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The default limits, after `change` has been applied.
pub(crate) fn short(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// Waits until the condition holds, with a deadline.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a request for `path` on a new connection.
pub(crate) fn ask(running: &Running, path: &str) -> TcpStream {
    let mut stream = running.connect();
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// An upstream whose requests the test answers one by one.
pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) requests: mpsc::Receiver<Request>,
}

/// A request that waits for the test to act on it. Dropping it closes the connection.
pub(crate) struct Request {
    /// All bytes that were read of it.
    pub(crate) text: String,
    /// The number of its connection at this upstream, and its own number on that
    /// connection.
    pub(crate) at: (usize, usize),
    stream: TcpStream,
    next: mpsc::Sender<()>,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.text.split(' ').nth(1).unwrap()
    }

    /// Sends bytes that are not a complete answer.
    pub(crate) fn begin(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).unwrap();
    }

    /// As [`Self::begin`], if the proxy may have closed the connection.
    pub(crate) fn try_begin(&mut self, bytes: &str) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_bytes())
    }

    /// Waits until the proxy has closed the connection; returns the bytes that it sent
    /// until then.
    pub(crate) fn is_left(&mut self) -> Vec<u8> {
        let time = Duration::from_secs(20);
        self.stream.set_read_timeout(Some(time)).unwrap();
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("not left: {error}"),
        }
        rest
    }

    /// Reads the next bytes.
    pub(crate) fn more(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 64 << 10];
        let read = self.stream.read(&mut bytes).unwrap();
        bytes.truncate(read);
        bytes
    }

    /// Closes the connection immediately, even if the upstream has announced otherwise.
    pub(crate) fn close(self) {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// Sends the rest of the answer; the connection may carry another request.
    pub(crate) fn answer(mut self, bytes: &str) {
        self.begin(bytes);
        self.next.send(()).unwrap();
    }
}

impl Stage {
    pub(crate) fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().flatten().enumerate() {
                let sender = sender.clone();
                std::thread::spawn(move || play(&stream, connection, &sender));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn endpoint(&self) -> Arc<Endpoint> {
        Endpoint::new("one", self.address)
    }

    /// As [`Self::endpoint`], but as a ScaledApp dispatcher, which may hand requests back.
    pub(crate) fn pod(&self) -> Arc<Endpoint> {
        let endpoint = self.endpoint();
        endpoint.set_hands_back(true);
        endpoint
    }

    /// As [`Self::endpoint`], but as a process. `runs` says whether the process certainly runs,
    /// and `ended` says what ended it.
    pub(crate) fn process(&self, runs: bool, ended: Option<EndedBy>) -> Arc<Endpoint> {
        let process = Box::new(Runs(runs));
        let endpoint = Endpoint::of_process("one", self.address, &Counters::new("0"), process);
        if let Some(by) = ended {
            endpoint.ended(by);
        }
        endpoint
    }

    pub(crate) fn next(&self) -> Request {
        self.requests.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

/// Whether the process certainly runs.
#[derive(Debug)]
struct Runs(bool);

impl Process for Runs {
    fn surely_runs(&self) -> bool {
        self.0
    }

    fn may_reset(&self) -> bool {
        false
    }

    fn refuses(&self) {}
}

fn play(stream: &TcpStream, connection: usize, sender: &mpsc::Sender<Request>) {
    for count in 0.. {
        let mut bytes = [0; 4096];
        let Ok(read @ 1..) = (&*stream).read(&mut bytes) else {
            return;
        };
        let (next, answered) = mpsc::channel();
        let request = Request {
            text: String::from_utf8_lossy(&bytes[..read]).into_owned(),
            at: (connection, count),
            stream: stream.try_clone().unwrap(),
            next,
        };
        // The request was dropped without an answer, or the test is over.
        if sender.send(request).is_err() || answered.recv().is_err() {
            return;
        }
    }
}
