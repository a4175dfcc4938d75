//! The dashboard's port, spoken to with raw bytes: what it answers, to whom, and what it refuses. And
//! how large its frames are.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use scaledapp_dashboard::{App, Dashboard, Fact, Observation, Pod, Running, Source, StartError};
use scaledapp_wire::{Status, Worker, WorkerState};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(20);

/// A source whose observations the test sends.
#[derive(Debug)]
struct Told(mpsc::Receiver<Observation>);

impl Source for Told {
    fn title(&self) -> String {
        "a test".to_owned()
    }

    fn run(
        mut self: Box<Self>,
        found: mpsc::Sender<Observation>,
        _open: watch::Receiver<BTreeSet<String>>,
    ) -> Running {
        Box::pin(async move {
            while let Some(observation) = self.0.recv().await {
                found.send(observation).await.unwrap();
            }
            std::future::pending::<()>().await;
        })
    }
}

#[derive(Debug)]
struct Served {
    address: SocketAddr,
    token: String,
    tell: mpsc::Sender<Observation>,
}

async fn serve() -> Served {
    let dashboard = Dashboard::bind(0).await.unwrap();
    let url = dashboard.url();
    let (address, token) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once("/#t=")
        .unwrap();
    let (tell, told) = mpsc::channel(10_000);
    let served = Served {
        address: address.parse().unwrap(),
        token: token.to_owned(),
        tell,
    };
    tokio::spawn(dashboard.serve(Told(told)));
    served
}

impl Served {
    /// Sends a head, in which PORT and TOKEN are replaced, and returns the whole answer.
    async fn ask(&self, head: &str) -> String {
        let head = head.replace("PORT", &self.address.port().to_string());
        let head = head.replace("TOKEN", &self.token);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(LONG, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn status(&self, head: &str) -> u16 {
        let answer = self.ask(head).await;
        let status = answer.split(' ').nth(1).unwrap_or("0");
        status.parse().unwrap_or_else(|_| panic!("{answer}"))
    }

    /// Opens the stream of an app; returns a reader of its lines.
    async fn stream(&self, app: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (address, token) = (self.address, &self.token);
        let head = format!(
            "GET /api/v1/stream?app={app} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        BufReader::new(stream)
    }

    async fn tell(&self, app: &str, fact: Fact) {
        let app = app.to_owned();
        self.tell.send(Observation::Of { app, fact }).await.unwrap();
    }
}

/// The next frame, without the framing of chunks.
async fn frame(stream: &mut BufReader<TcpStream>) -> Value {
    loop {
        let mut line = String::new();
        let read = timeout(LONG, stream.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "the stream has ended");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

fn app(name: &str, pods: usize) -> App {
    let pods = (0..pods).map(|pod| Pod {
        name: format!("{name}-{pod}"),
        ..Pod::default()
    });
    App {
        name: name.to_owned(),
        pods: pods.collect(),
        ..App::default()
    }
}

fn status(workers: u32, second: u32) -> Box<Status> {
    let workers: Vec<_> = (0..workers)
        .map(|slot| Worker {
            slot,
            pid: 10_000 + slot,
            state: WorkerState::Ready,
            in_flight: (second * 7 + slot) % 5,
            rss_bytes: u64::from(50 + second + slot) << 20,
            cpu_seconds: Some(f64::from(second * (slot % 7)) / 3.0),
            ..Worker::default()
        })
        .collect();
    Box::new(Status {
        desired: workers.len() as u32,
        ready: workers.len() as u32,
        workers,
        ..Status::default()
    })
}

#[tokio::test]
async fn the_page_has_every_protecting_header_and_no_other_site_may_read_it() {
    let served = serve().await;
    let answer = served
        .ask("GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n")
        .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    for field in [
        "http/1.1 200 ok",
        "content-type: text/html; charset=utf-8",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
        "cross-origin-opener-policy: same-origin",
        "cross-origin-resource-policy: same-origin",
        "content-security-policy: default-src 'none'; script-src 'sha256-",
        "frame-ancestors 'none'",
        "connection: close",
    ] {
        assert!(head.contains(field), "{field} in\n{head}");
    }
    assert!(!head.contains("access-control"), "{head}");
    assert!(!head.contains("set-cookie"), "{head}");
    assert!(
        !body.contains(&served.token),
        "the page does not tell the token"
    );
    assert!(body.len() <= 200 << 10, "{} bytes", body.len());
    for path in ["/api/v1/snapshot", "/none"] {
        let answer = served
            .ask(&format!(
                "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n"
            ))
            .await;
        assert!(
            answer.contains("x-content-type-options: nosniff"),
            "{answer}"
        );
        assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
    }
}

#[tokio::test]
async fn each_condition_of_a_request_is_checked() {
    let served = serve().await;
    let host = "Host: 127.0.0.1:PORT\r\n";
    let token = "Authorization: Bearer TOKEN\r\n";
    for (expected, head) in [
        (
            200,
            format!("GET /api/v1/snapshot HTTP/1.1\r\n{host}{token}\r\n"),
        ),
        (
            200,
            format!("HEAD /api/v1/snapshot HTTP/1.1\r\n{host}{token}\r\n"),
        ),
        (
            200,
            format!("HEAD /api/v1/stream HTTP/1.1\r\n{host}{token}\r\n"),
        ),
        (
            200,
            "GET / HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n".to_owned(),
        ),
        (
            421,
            "GET / HTTP/1.1\r\nHost: evil.example:PORT\r\n\r\n".to_owned(),
        ),
        (421, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_owned()),
        (421, "GET / HTTP/1.0\r\n\r\n".to_owned()),
        (
            421,
            format!("GET /api/v1/snapshot HTTP/1.1\r\nHost: evil.example\r\n{token}\r\n"),
        ),
        (401, format!("GET /api/v1/snapshot HTTP/1.1\r\n{host}\r\n")),
        (
            401,
            format!("GET /api/v1/snapshot?t=TOKEN HTTP/1.1\r\n{host}\r\n"),
        ),
        (
            401,
            format!("GET /api/v1/snapshot HTTP/1.1\r\n{host}Cookie: t=TOKEN\r\n\r\n"),
        ),
        (401, format!("GET /favicon.ico HTTP/1.1\r\n{host}\r\n")),
        (
            403,
            format!("GET / HTTP/1.1\r\n{host}Origin: https://evil.example\r\n\r\n"),
        ),
        (
            403,
            format!("GET / HTTP/1.1\r\n{host}Sec-Fetch-Site: cross-site\r\n\r\n"),
        ),
        (404, format!("GET /none HTTP/1.1\r\n{host}{token}\r\n")),
        (
            405,
            format!("POST /api/v1/snapshot HTTP/1.1\r\n{host}{token}Content-Length: 2\r\n\r\nxx"),
        ),
        (
            405,
            format!("OPTIONS / HTTP/1.1\r\n{host}Origin: http://127.0.0.1:PORT\r\n\r\n"),
        ),
        (405, format!("DELETE / HTTP/1.1\r\n{host}\r\n")),
    ] {
        assert_eq!(served.status(&head).await, expected, "{head}");
    }
    let answer = served.ask(&format!("PUT / HTTP/1.1\r\n{host}\r\n")).await;
    assert!(answer.contains("allow: GET, HEAD"), "{answer}");
}

#[tokio::test]
async fn each_run_has_a_token_of_its_own_of_128_bits() {
    let (one, other) = (serve().await, serve().await);
    assert_ne!(one.token, other.token);
    assert_eq!(one.token.len(), 32);
    assert!(one.token.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(one.address.ip().is_loopback());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_holder() {
    let served = serve().await;
    let error = Dashboard::bind(served.address.port()).await.unwrap_err();
    assert!(matches!(error, StartError::Taken { .. }), "{error:?}");
    let text = error.to_string();
    let pid = format!("pid {}", std::process::id());
    assert!(text.contains(&pid) && text.contains("--port"), "{text}");
}

#[tokio::test]
async fn silent_and_half_sent_connections_are_closed_in_time() {
    let served = serve().await;
    for begun in ["", "GET / HTTP/1.1\r\nHost: 127"] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let start = Instant::now();
        let mut rest = Vec::new();
        let ended = timeout(LONG, stream.read_to_end(&mut rest)).await.unwrap();
        let is_reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(
            ended
                .as_ref()
                .is_ok_and(|_| !rest.starts_with(b"HTTP/1.1 200"))
                || ended.as_ref().is_err_and(is_reset)
        );
        assert!(start.elapsed() >= Duration::from_secs(4), "{begun:?}");
    }
}

#[tokio::test]
async fn many_idle_connections_keep_nobody_out() {
    let served = serve().await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(served.address).await.unwrap());
    }
    let head = "GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n";
    assert_eq!(served.status(head).await, 200);
    let mut open = 0;
    for stream in &mut idle {
        let read = timeout(Duration::from_millis(5), stream.read_u8()).await;
        open += usize::from(read.is_err());
    }
    assert!(open <= 64, "{open} connections are open");
}

#[tokio::test]
async fn pages_beyond_a_number_are_refused_and_a_closed_one_makes_room() {
    let served = serve().await;
    let mut pages = Vec::new();
    for _ in 0..16 {
        let mut page = served.stream("").await;
        frame(&mut page).await;
        pages.push(page);
    }
    let head = "GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nAuthorization: Bearer TOKEN\r\n\r\n";
    assert_eq!(served.status(head).await, 503);
    drop(pages.pop());
    let start = Instant::now();
    loop {
        let mut page = served.stream("").await;
        let mut line = String::new();
        timeout(LONG, page.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        if line.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(start.elapsed() < LONG, "{line}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_change_is_sent_at_once_and_other_figures_each_second() {
    let served = serve().await;
    served
        .tell
        .send(Observation::Apps(vec![app("shop", 1)]))
        .await
        .unwrap();
    served
        .tell("shop", Fact::Pod("shop-0".to_owned(), status(4, 0), None))
        .await;
    let mut page = served.stream("shop").await;
    let first = frame(&mut page).await;
    assert_eq!(first["snapshot"]["open"]["app"], "shop");
    let mut killed = status(4, 0);
    killed.ready = 3;
    killed.workers[2].state = WorkerState::Starting;
    killed.workers[2].restarts = 1;
    sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    served
        .tell("shop", Fact::Pod("shop-0".to_owned(), killed, None))
        .await;
    loop {
        let next = frame(&mut page).await;
        if next["patch"]["apps"]["shop"]["strip"] == "ooso" {
            assert_eq!(next["patch"]["apps"]["shop"]["ready"], 3);
            assert_eq!(next["patch"]["open"]["workers"]["shop-0/2"][0], "Starting");
            let event = &next["patch"]["events"]["1"];
            assert_eq!(event[3], "worker 2 of shop-0 ended");
            break;
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    let mut points = 0;
    for _ in 0..4 {
        points += frame(&mut page).await["points"].as_array().unwrap().len();
    }
    assert!((3..=5).contains(&points), "{points}");
}

#[tokio::test]
async fn frames_are_small_for_fifty_apps_of_two_hundred_workers() {
    let served = serve().await;
    let names: Vec<_> = (0..50).map(|number| format!("app-{number}")).collect();
    let apps = names.iter().map(|name| app(name, 10)).collect();
    served.tell.send(Observation::Apps(apps)).await.unwrap();
    let everything = async |second| {
        for name in &names {
            for pod in 0..10 {
                let fact = Fact::Pod(format!("{name}-{pod}"), status(20, second), None);
                served.tell(name, fact).await;
            }
        }
    };
    everything(0).await;
    sleep(Duration::from_secs(1)).await;
    let mut page = served.stream("app-7").await;
    let first = frame(&mut page).await;
    let apps = first["snapshot"]["apps"].as_object().unwrap();
    assert_eq!(apps.len(), 50);
    assert_eq!(apps["app-7"]["ready"], 200);
    assert_eq!(
        first["snapshot"]["open"]["workers"]
            .as_object()
            .unwrap()
            .len(),
        200
    );
    let size = first.to_string().len();
    assert!(size <= 200 << 10, "the first frame has {size} bytes");
    for second in 1..4 {
        everything(second).await;
        let size = frame(&mut page).await.to_string().len();
        assert!(size <= 20 << 10, "a frame has {size} bytes");
    }
}
