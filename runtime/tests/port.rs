//! Tests of the admin port over real sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where a fact that it relies on does not hold"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use scaledapp_runtime::{Admin, Page, Probe, Routes};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);

struct Example {
    ready: AtomicBool,
    values: Option<watch::Receiver<Bytes>>,
    /// The result of the app's metrics, if there are any.
    page: Option<Result<String, String>>,
}

impl Routes for Example {
    fn live(&self) -> Probe {
        Ok(())
    }
    fn ready(&self) -> Probe {
        if self.ready.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("no worker is ready".to_owned())
        }
    }
    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
    fn status(&self) -> serde_json::Value {
        json!({"workers": 2})
    }
    fn watch(&self) -> Option<watch::Receiver<Bytes>> {
        self.values.clone()
    }
    fn app_metrics(&self) -> Option<Page> {
        let page = self.page.clone()?;
        Some(Box::pin(async move {
            tokio::task::yield_now().await;
            page.map(Bytes::from)
        }))
    }
}

async fn start(values: Option<watch::Receiver<Bytes>>) -> (SocketAddr, Arc<Example>) {
    start_with(values, None).await
}

async fn start_with(
    values: Option<watch::Receiver<Bytes>>,
    page: Option<Result<String, String>>,
) -> (SocketAddr, Arc<Example>) {
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = admin.local_addr();
    let routes = Arc::new(Example {
        ready: AtomicBool::new(true),
        values,
        page,
    });
    tokio::spawn(admin.serve(Arc::clone(&routes) as Arc<dyn Routes>));
    (address, routes)
}

async fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Sends one request on a new connection; returns the complete answer.
async fn ask(address: SocketAddr, line: &str) -> String {
    let mut stream = send(
        address,
        &format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    )
    .await;
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}

/// Reads until the text so far fulfils `enough`.
async fn read_until(stream: &mut TcpStream, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !enough(&text) {
        let read = timeout(DEADLINE, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert_ne!(read, 0, "the stream ended after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

const WATCH: &str = "GET /watch HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn each_path_answers_with_its_type_and_content() {
    let (address, _routes) = start(None).await;
    for (path, kind, content) in [
        ("/livez", "text/plain; charset=utf-8", "ok\n"),
        ("/readyz?verbose", "text/plain; charset=utf-8", "ok\n"),
        (
            "/metrics",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "# EOF\n",
        ),
        ("/status", "application/json", "{\"workers\":2}\n"),
    ] {
        let answer = ask(address, &format!("GET {path}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            answer.contains(&format!("content-type: {kind}\r\n")),
            "{answer}"
        );
        assert!(answer.ends_with(&format!("\r\n\r\n{content}")), "{answer}");
    }
}

#[tokio::test]
async fn the_metrics_of_an_app_are_awaited_if_there_are_any() {
    let (address, _routes) = start_with(None, Some(Ok("a 1\n".to_owned()))).await;
    for (method, end) in [("GET", "\r\n\r\na 1\n"), ("HEAD", "\r\n\r\n")] {
        let answer = ask(address, &format!("{method} /metrics/app")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
        assert!(answer.ends_with(end), "{answer}");
    }
    let answer = ask(address, "POST /metrics/app").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    let (address, _routes) = start_with(None, Some(Err("busy".to_owned()))).await;
    let answer = ask(address, "GET /metrics/app").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("busy\n"),
        "{answer}"
    );
    let (address, _routes) = start(None).await;
    let answer = ask(address, "HEAD /metrics/app").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn an_unready_program_answers_503_with_the_reason() {
    let (address, routes) = start(None).await;
    routes.ready.store(false, Ordering::Relaxed);
    let answer = ask(address, "GET /readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nno worker is ready\n"), "{answer}");
}

#[tokio::test]
async fn head_gives_the_headers_of_get_without_content() {
    let (_sender, values) = watch::channel(Bytes::from_static(b"{}"));
    let (address, _routes) = start(Some(values)).await;
    let answer = ask(address, "HEAD /status").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("content-length: 14\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = ask(address, "HEAD /watch").await;
    assert!(
        answer.contains("content-type: application/x-ndjson\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn other_paths_are_404_and_other_methods_405() {
    let (address, _routes) = start(None).await;
    for path in ["/", "/livez/", "/Livez", "/watch"] {
        assert!(
            ask(address, &format!("GET {path}"))
                .await
                .starts_with("HTTP/1.1 404 ")
        );
    }
    for method in ["POST", "PUT", "DELETE", "BREW"] {
        let answer = ask(address, &format!("{method} /status")).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn watch_sends_the_value_immediately_then_each_change_and_heartbeats() {
    let (sender, values) = watch::channel(Bytes::from_static(b"{\"n\":1}"));
    let (address, _routes) = start(Some(values)).await;
    let started = Instant::now();
    let mut stream = send(address, WATCH).await;
    let head = read_until(&mut stream, |text| text.contains("{\"n\":1}\n")).await;
    assert!(
        head.contains("content-type: application/x-ndjson\r\n"),
        "{head}"
    );
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    sender.send(Bytes::from_static(b"{\"n\":2}")).unwrap();
    read_until(&mut stream, |text| text.contains("8\r\n{\"n\":2}\n\r\n")).await;
    read_until(&mut stream, |text| text.matches("{\"n\":2}\n").count() >= 3).await;
    assert!(
        started.elapsed() >= Duration::from_millis(700),
        "three heartbeats take 750 ms"
    );
}

#[tokio::test]
async fn watch_ends_when_its_producer_does() {
    let (sender, values) = watch::channel(Bytes::from_static(b"{}"));
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = admin.local_addr();
    tokio::spawn(admin.serve(Arc::new(Example {
        page: None,
        ready: AtomicBool::new(true),
        values: Some(values),
    })));
    let mut stream = send(address, WATCH).await;
    drop(sender);
    read_until(&mut stream, |text| text.ends_with("0\r\n\r\n")).await;
}

#[tokio::test]
async fn many_watches_leave_room_for_probes() {
    let (_sender, values) = watch::channel(Bytes::from_static(b"{}"));
    let (address, _routes) = start(Some(values)).await;
    let mut streams = Vec::new();
    for _ in 0..24 {
        let mut stream = send(address, WATCH).await;
        read_until(&mut stream, |text| text.contains("{}\n")).await;
        streams.push(stream);
    }
    assert!(
        ask(address, "GET /watch")
            .await
            .starts_with("HTTP/1.1 503 ")
    );
    assert!(
        ask(address, "GET /livez")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    streams.pop();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut stream = send(address, WATCH).await;
        let answer = read_until(&mut stream, |text| text.contains("\r\n\r\n")).await;
        if answer.starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "a watch that ended frees its place"
        );
    }
}

#[tokio::test]
async fn a_connection_that_sends_no_request_is_closed_after_five_seconds() {
    let (address, _routes) = start(None).await;
    let started = Instant::now();
    let mut stream = send(address, "GET /livez HT").await;
    let mut rest = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(started.elapsed() >= Duration::from_secs(4));
}

#[tokio::test]
async fn dropping_the_server_ends_its_connections() {
    let (_sender, values) = watch::channel(Bytes::from_static(b"{}"));
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = admin.local_addr();
    let server = tokio::spawn(admin.serve(Arc::new(Example {
        page: None,
        ready: AtomicBool::new(true),
        values: Some(values),
    })));
    let mut stream = send(address, WATCH).await;
    read_until(&mut stream, |text| text.contains("{}\n")).await;
    server.abort();
    let mut rest = Vec::new();
    // The connection may end with a reset or with a close.
    drop(
        timeout(DEADLINE, stream.read_to_end(&mut rest))
            .await
            .unwrap(),
    );
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_cure() {
    let (address, _routes) = start(None).await;
    let message = Admin::bind(address).await.unwrap_err().to_string();
    assert!(message.contains(&address.to_string()), "{message}");
    assert!(
        message.contains("another process listens there"),
        "{message}"
    );
    assert!(message.contains("--admin"), "{message}");
}

#[tokio::test]
async fn a_foreign_address_is_named_with_the_cure() {
    let message = Admin::bind("192.0.2.1:0".parse().unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("192.0.2.1") && message.contains("no such address"),
        "{message}"
    );
}

const MANY: usize = 1000;

/// A connection from the address `from` of this machine.
fn connect_from(from: &str, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    socket.bind(&from.into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// A server on its own thread, because the clients of the tests that use it block.
fn start_apart(values: Option<watch::Receiver<Bytes>>) -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            sender.send(admin.local_addr()).unwrap();
            let routes = Example {
                ready: AtomicBool::new(true),
                values,
                page: None,
            };
            admin.serve(Arc::new(routes)).await;
        });
    });
    address.recv().unwrap()
}

/// Sends a probe as the kubelet does; returns the time that it took.
fn probe(from: &str, to: SocketAddr, path: &str) -> Duration {
    use std::io::{Read, Write};
    let started = Instant::now();
    let mut stream = connect_from(from, to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    started.elapsed()
}

/// Checks that `/livez` and `/readyz` answer the flooding address and another one.
fn probes_answer(to: SocketAddr) {
    for from in ["127.0.0.1", "127.0.0.9"] {
        for path in ["/livez", "/readyz"] {
            let took = probe(from, to, path);
            assert!(
                took < Duration::from_secs(2),
                "{path} from {from}: {took:?}"
            );
        }
    }
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

#[test]
fn silent_and_slow_clients_and_stuck_readers_do_not_keep_probes_out() {
    use std::io::Write;
    raise_open_files();
    let (sender, values) = watch::channel(Bytes::from(vec![b'x'; 32 << 10]));
    let address = start_apart(Some(values));
    let mut held = Vec::new();
    for _ in 0..MANY {
        held.push(connect_from("127.0.0.1", address).unwrap());
    }
    probes_answer(address);
    for _ in 0..MANY {
        let mut slow = connect_from("127.0.0.1", address).unwrap();
        // Earlier connections have been closed to make room for this one.
        drop(slow.write_all(b"GET /livez HTTP/1.1\r\nX: "));
        held.push(slow);
    }
    probes_answer(address);
    for at in 0..200 {
        let mut watches = connect_from("127.0.0.1", address).unwrap();
        watches.write_all(WATCH.as_bytes()).unwrap();
        held.push(watches);
        if at % 10 == 0 {
            sender.send_replace(Bytes::from(vec![b'y'; 32 << 10]));
        }
    }
    probes_answer(address);
}

#[test]
fn a_flood_of_new_connections_keeps_no_probe_out() {
    raise_open_files();
    let address = start_apart(None);
    let over = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = ["127.0.0.1", "127.0.0.2"]
        .map(|from| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                let mut held = std::collections::VecDeque::new();
                while !over.load(Ordering::Relaxed) {
                    // A local port may be in use for the moment.
                    held.extend(connect_from(from, address).ok());
                    if held.len() > 500 {
                        held.pop_front();
                    }
                }
            })
        })
        .into_iter()
        .collect();
    for _ in 0..50 {
        probes_answer(address);
    }
    over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
}
