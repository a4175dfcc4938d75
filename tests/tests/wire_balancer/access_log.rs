//! The access log on stdout: which requests have a line, and that no reader of stdout can delay
//! the balancer.
//!
//! `scaledapp-proxy` tests how a line is written.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::http::{self, Connection, Request};
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::{process, wait};
use serde_json::Value;

use crate::SOON;
use crate::http2::{Client, run};

fn logged(upstream: &Upstream, options: &[&str]) -> Balancer {
    let launch = Launch::to(&[upstream.address()]).unwrap();
    let launch = launch.with(&["--access-log", "json", "--threads", "1"]);
    launch.with(options).ready().unwrap()
}

/// The lines so far, once there are `count`.
fn lines(balancer: &Balancer, count: usize) -> Vec<Value> {
    wait::until_true(SOON, "the lines are written", || {
        balancer.process.stdout().lines().count() >= count
    })
    .unwrap();
    let text = balancer.process.stdout();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), count, "{text}");
    lines
}

#[test]
fn a_request_has_one_line_that_says_what_happened() {
    let upstream = Upstream::answering("hello").unwrap();
    let balancer = logged(&upstream, &["--forwarded-from", "127.0.0.1"]);
    let mut client = Connection::open(balancer.address(), SOON).unwrap();
    let fields = [
        ("User-Agent", "test \"1\"\t\u{9b}2J"),
        ("Referer", "https://a.test/?x"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Request-Id", "abc"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ];
    let request = Request::post("/a?b=c", b"12345678").with(&fields);
    assert_eq!(client.send(&request).unwrap().status, 200);
    let line = &lines(&balancer, 1)[0];
    for (name, wanted) in [
        ("client", "192.0.2.7"),
        ("method", "POST"),
        ("target", "/a?b=c"),
        ("protocol", "HTTP/1.1"),
        ("requestId", "abc"),
        ("userAgent", "test \"1\"\t\u{9b}2J"),
        ("referer", "https://a.test/?x"),
        ("traceId", "4bf92f3577b34da6a3ce929d0e0e4736"),
    ] {
        assert_eq!(line[name], wanted, "{line}");
    }
    assert_eq!(line["endpoint"], upstream.address().to_string());
    for (name, wanted) in [
        ("status", 200),
        ("bytesIn", 8),
        ("bytesOut", 5),
        ("attempts", 1),
    ] {
        assert_eq!(line[name], wanted, "{line}");
    }
    let duration = line["durationMs"].as_f64().unwrap();
    assert!(line["upstreamHeadMs"].as_f64().unwrap() <= duration);
    assert!(line.get("reason").is_none() && line.get("tls").is_none());
}

/// The kernel moves these bytes, so the balancer never sees them.
#[test]
fn a_large_answer_is_logged_with_its_length() {
    const LENGTH: usize = 3_000_000;
    let upstream = Upstream::start(|mut peer| {
        while peer.read_request().is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            peer.write(head.as_bytes());
            peer.write(&vec![b'x'; LENGTH]);
        }
    })
    .unwrap();
    let balancer = logged(&upstream, &[]);
    let answer = http::get(balancer.address(), "/").unwrap();
    assert_eq!(answer.body.len(), LENGTH);
    assert_eq!(lines(&balancer, 1)[0]["bytesOut"], LENGTH);
}

#[test]
fn what_the_balancer_refuses_or_gives_up_has_a_line_too() {
    let upstream = Upstream::start(|mut peer| {
        while let Some(head) = peer.read_request() {
            if head.starts_with("GET /cut ") {
                peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf");
                return;
            }
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
    .unwrap();
    let balancer = logged(&upstream, &["--access-log-query", "false"]);
    let to = balancer.address();
    let raw = |bytes: &[u8]| http::raw(to, SOON, bytes).unwrap_or_default();
    raw(b"GET /a?secret=1 HTTP/1.1\r\nHost: a b\r\n\r\n");
    raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n");
    raw(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
    raw(b"HEAD /b?secret=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nReferer: /c?secret=1\r\n\r\n");
    let mut lines = lines(&balancer, 4);
    lines.sort_by_key(|line| line["time"].to_string());
    let found: Vec<(u64, &str, &str)> = lines
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default();
            let reason = text("reason");
            (line["status"].as_u64().unwrap(), reason, text("line"))
        })
        .collect();
    assert_eq!(found[0], (400, "host", "GET /a"), "{lines:?}");
    assert_eq!(found[1].0, 400);
    assert!(
        found[1].2.starts_with("\u{16}\u{3}\u{1}\u{2}\0"),
        "{found:?}"
    );
    assert_eq!(found[2], (200, "upstream-cut-off", ""));
    assert_eq!(lines[2]["bytesOut"], 4);
    assert_eq!(found[3], (200, "", ""));
    assert!(!balancer.process.stdout().contains("secret"));
}

#[test]
fn a_tunnel_has_its_line_at_its_end_with_the_bytes_of_both_directions() {
    let upstream = Upstream::start(|mut peer| {
        peer.read_head();
        peer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhi",
        );
        peer.read_exactly(5);
        peer.write(b"bye");
    })
    .unwrap();
    let balancer = logged(&upstream, &[]);
    let mut client = Connection::open(balancer.address(), SOON).unwrap();
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    client.write(head).unwrap();
    assert_eq!(client.read("GET").unwrap().status, 101);
    client.read_bytes(2).unwrap();
    assert_eq!(balancer.process.stdout(), "");
    client.write(b"12345").unwrap();
    assert_eq!(client.read_to_close().unwrap(), b"bye");
    drop(client);
    let line = &lines(&balancer, 1)[0];
    assert_eq!(
        (&line["status"], &line["bytesIn"], &line["bytesOut"]),
        (&101.into(), &5.into(), &5.into()),
        "{line}"
    );
}

#[test]
fn each_stream_of_http2_has_a_line() {
    run(async {
        let upstream = Upstream::answering("hello").unwrap();
        let balancer = logged(&upstream, &[]);
        let mut client = Client::open(balancer.address()).await;
        for path in ["/1", "/2"] {
            let uri = format!("http://a.test{path}");
            let request = ::http::Request::get(uri).body(()).unwrap();
            let (answer, _) = client.send(request, true).await;
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        // A request that HTTP/2 allows and this proxy does not.
        let request = ::http::Request::builder()
            .method("CONNECT")
            .uri("a.test:80");
        let (answer, _) = client.send(request.body(()).unwrap(), true).await;
        let _refused = answer.await;
        let lines = lines(&balancer, 3);
        for (line, path) in lines.iter().zip(["/1", "/2"]) {
            assert_eq!(line["target"], path, "{line}");
            assert_eq!(line["protocol"], "HTTP/2.0", "{line}");
            assert_eq!(line["host"], "a.test", "{line}");
            assert_eq!(line["bytesOut"], 5, "{line}");
        }
        assert!(lines[2]["status"].as_u64().unwrap() >= 400);
    });
}

/// A path with a byte that is not ASCII ends the connection in the `h2` crate, before there is a
/// request.
#[test]
fn an_http2_client_that_sends_no_http2_has_a_line_too() {
    let upstream = Upstream::answering("hello").unwrap();
    let balancer = logged(&upstream, &[]);
    let mut client = TcpStream::connect(balancer.address()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    client.write_all(b"\0\0\0\x04\0\0\0\0\0").unwrap();
    // GET, http, the path as a literal, and the authority `a`.
    let fields = b"\x82\x86\x04\x02/\xff\x01\x01a";
    let header = [0, 0, 9, 1, 5, 0, 0, 0, 1];
    client.write_all(&[&header[..], fields].concat()).unwrap();
    let mut answer = Vec::new();
    let _ended = client.read_to_end(&mut answer);
    let line = &lines(&balancer, 1)[0];
    assert_eq!(line["status"], 400, "{line}");
    assert_eq!(line["reason"], "http2", "{line}");
    balancer.process.says(SOON, "not HTTP/2").unwrap();
}

#[test]
fn a_sample_leaves_requests_out_but_no_error() {
    let upstream = Upstream::start(|mut peer| {
        while let Some(head) = peer.read_request() {
            let status = if head.starts_with("GET /bad ") {
                500
            } else {
                200
            };
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            peer.write(answer.as_bytes());
        }
    })
    .unwrap();
    let balancer = logged(&upstream, &["--access-log-sample", "10"]);
    let mut client = Connection::open(balancer.address(), SOON).unwrap();
    for _ in 0..200 {
        client.send(&Request::get("/")).unwrap();
    }
    for _ in 0..50 {
        client.send(&Request::get("/bad")).unwrap();
    }
    let count = |text: &str, status: &str| text.matches(&format!("\"status\":{status}")).count();
    wait::until_true(SOON, "all errors are logged", || {
        count(&balancer.process.stdout(), "500") == 50
    })
    .unwrap();
    let sampled = count(&balancer.process.stdout(), "200");
    assert!((2..60).contains(&sampled), "{sampled}");
}

#[test]
fn without_the_flag_nothing_is_on_stdout() {
    let upstream = Upstream::answering("hello").unwrap();
    let launch = Launch::to(&[upstream.address()]).unwrap();
    let mut balancer = launch.with(&["--drain-min", "0s"]).ready().unwrap();
    http::get(balancer.address(), "/").unwrap();
    balancer.process.signal(Signal::TERM).unwrap();
    let ended = balancer.process.wait(SOON).unwrap();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""));
}

#[test]
fn what_was_logged_last_is_written_before_the_end() {
    let upstream = Upstream::answering("hello").unwrap();
    let mut balancer = logged(&upstream, &["--drain-min", "0s"]);
    for _ in 0..50 {
        http::get(balancer.address(), "/").unwrap();
    }
    balancer.process.signal(Signal::TERM).unwrap();
    let ended = balancer.process.wait(SOON).unwrap();
    assert_eq!((ended.code, ended.stdout.lines().count()), (0, 50));
}

/// A balancer whose stdout nobody reads, unless the test does.
struct Unread {
    child: Child,
    stdout: Option<ChildStdout>,
    launch: Launch,
}

impl Unread {
    fn start(upstream: &Upstream) -> Self {
        let launch = Launch::to(&[upstream.address()]).unwrap();
        let launch = launch.with(&[
            "--access-log",
            "json",
            "--threads",
            "1",
            "--drain-min",
            "0s",
        ]);
        let words = launch.words().unwrap();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take();
        let unread = Self {
            child,
            stdout,
            launch,
        };
        wait::until_true(SOON, "the balancer is ready", || {
            http::get(unread.launch.admin, "/readyz").is_ok_and(|answer| answer.status == 200)
        })
        .unwrap();
        unread
    }

    /// Sends `count` requests with a long User-Agent; returns the longest wait for an answer.
    fn load(&self, count: usize) -> Duration {
        let agent = "x".repeat(500);
        let fields = [("User-Agent", agent.as_str())];
        let mut client = Connection::open(self.launch.listen, SOON).unwrap();
        let mut longest = Duration::ZERO;
        for _ in 0..count {
            let begun = Instant::now();
            let answer = client.send(&Request::get("/").with(&fields)).unwrap();
            assert_eq!(answer.status, 200);
            longest = longest.max(begun.elapsed());
        }
        longest
    }

    fn dropped(&self) -> u64 {
        let metrics = http::get(self.launch.admin, "/metrics").unwrap().text();
        let name = "scaledapp_balancer_access_log_dropped_lines_total ";
        let value = metrics.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap().parse().unwrap()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn a_reader_that_stops_reading_delays_no_request_and_no_stop() {
    let upstream = Upstream::answering("hello").unwrap();
    let mut balancer = Unread::start(&upstream);
    // Lines of about 800 bytes fill the pipe (64 KiB) and the queue.
    let longest = balancer.load(4000);
    println!("the longest wait was {longest:?}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    let dropped = balancer.dropped();
    assert!((500..4000).contains(&dropped), "{dropped}");
    // A reader that reads again gets whole lines again, and nothing but lines.
    let mut stdout = balancer.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    wait::until_true(SOON, "the queue is empty", || {
        let before = balancer.dropped();
        balancer.load(50);
        balancer.dropped() == before
    })
    .unwrap();
    let dropped = balancer.dropped();
    process::send(balancer.child.id(), Signal::TERM).unwrap();
    assert!(balancer.child.wait().unwrap().success());
    let text = reader.join().unwrap();
    let is_whole = |line: &str| serde_json::from_str::<Value>(line).is_ok();
    assert!(text.lines().all(is_whole));
    println!("{} lines, {dropped} dropped", text.lines().count());
    assert!(text.lines().count() as u64 + dropped >= 4050);

    // A reader that never reads again delays the end by one second at most.
    let balancer = Unread::start(&upstream);
    balancer.load(4000);
    let begun = Instant::now();
    process::send(balancer.child.id(), Signal::TERM).unwrap();
    let mut balancer = balancer;
    assert!(balancer.child.wait().unwrap().success());
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_reader_that_has_gone_does_not_end_the_balancer() {
    let upstream = Upstream::answering("hello").unwrap();
    let mut balancer = Unread::start(&upstream);
    drop(balancer.stdout.take());
    balancer.load(300);
    wait::until_true(SOON, "lost lines are counted", || balancer.dropped() == 300).unwrap();
    assert!(balancer.child.try_wait().unwrap().is_none());
}

#[test]
fn a_client_that_leaves_before_its_answer_is_logged_with_499() {
    let upstream = Upstream::start(|mut peer| {
        peer.read_request();
        std::thread::sleep(Duration::from_millis(300));
        peer.read_to_close();
    })
    .unwrap();
    let balancer = logged(&upstream, &[]);
    let mut client = TcpStream::connect(balancer.address()).unwrap();
    client
        .write_all(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(client);
    let line = &lines(&balancer, 1)[0];
    assert_eq!(line["status"], 499, "{line}");
    assert_eq!(line["reason"], "client-gone", "{line}");
}
