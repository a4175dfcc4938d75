//! How requests and answers are forwarded.

use std::net::SocketAddr;
use std::time::Duration;

use scaledapp_tests::balancer::Launch;
use scaledapp_tests::http::{self, Connection, Request};
use scaledapp_tests::load::Load;
use scaledapp_tests::proc;
use scaledapp_tests::upstream::{Upstream, ok};

use crate::SOON;

fn field<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let named = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.trim()).collect()
}

#[test]
fn a_request_arrives_canonical_and_with_its_origin() {
    let upstream = Upstream::answering("x").unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let fields = [
        ("Host", "shop.example"),
        ("Connection", "X-Hop, keep-alive"),
        ("X-Hop", "must stay here"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Kept", "a, b"),
    ];
    let request = Request::post("/path?q=1", b"hello").with(&fields);
    assert_eq!(
        http::one_shot(balancer.address(), SOON, &request)
            .unwrap()
            .status,
        200
    );
    let head = upstream.all_received();
    assert!(head.starts_with("POST /path?q=1 HTTP/1.1\r\n"), "{head}");
    for gone in ["X-Hop", "Keep-Alive", "Proxy-Connection"] {
        assert_eq!(field(&head, gone), [""; 0], "{gone} in {head}");
    }
    assert_eq!(field(&head, "host"), ["shop.example"]);
    assert_eq!(field(&head, "content-length"), ["5"]);
    assert_eq!(field(&head, "x-kept"), ["a, b"]);
    assert_eq!(
        field(&head, "x-forwarded-for").join(", "),
        "203.0.113.7, 127.0.0.1"
    );
    // At the edge, the scheme that a client claims is ignored.
    assert_eq!(field(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(field(&head, "x-forwarded-host"), ["shop.example"]);
    assert_eq!(field(&head, "x-request-id").len(), 1, "{head}");
    assert!(head.ends_with("\r\n\r\nhello"), "{head}");
}

#[test]
fn chunks_are_encoded_anew() {
    let upstream = Upstream::answering("x").unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let mut connection = Connection::open(balancer.address(), SOON).unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection
        .write(
            &[
                head,
                &b"3;evil=\"x\"\r\nabc\r\n00002\r\nde\r\n0\r\nTrailer-Field: x\r\n\r\n"[..],
            ]
            .concat(),
        )
        .unwrap();
    assert_eq!(connection.read("POST").unwrap().status, 200);
    let received = upstream.all_received();
    assert!(
        !received.contains("evil") && !received.contains("Trailer-Field"),
        "{received}"
    );
    assert_eq!(field(&received, "transfer-encoding"), ["chunked"]);
    assert_eq!(field(&received, "content-length"), [""; 0]);
    let body: String = received.split("\r\n\r\n").nth(1).unwrap().to_owned();
    assert!(body.contains("abc") && body.contains("de"), "{body}");
}

#[test]
fn connections_are_kept_on_both_sides() {
    let upstream = Upstream::answering("x").unwrap();
    let balancer = Launch::to(&[upstream.address()])
        .unwrap()
        .with(&["--threads", "1"])
        .ready()
        .unwrap();
    let mut connection = Connection::open(balancer.address(), SOON).unwrap();
    for _ in 0..50 {
        assert!(connection.is_reusable());
        assert_eq!(connection.send(&Request::get("/")).unwrap().text(), "x");
    }
    for _ in 0..10 {
        assert_eq!(http::get(balancer.address(), "/").unwrap().status, 200);
    }
    assert_eq!(
        upstream.accepted(),
        1,
        "60 requests over one upstream connection"
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start(|mut peer| {
        while let Some(head) = peer.read_request() {
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            peer.write(&ok(&path));
        }
    })
    .unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let mut connection = Connection::open(balancer.address(), SOON).unwrap();
    let requests: Vec<String> = (0..10)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    connection.write(requests.concat().as_bytes()).unwrap();
    for n in 0..10 {
        assert_eq!(connection.read("GET").unwrap().text(), format!("/{n}"));
    }
}

#[test]
fn an_old_client_gets_no_chunks() {
    let upstream = Upstream::start(|mut peer| {
        while peer.read_request().is_some() {
            peer.write(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            );
        }
    })
    .unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let answer = http::raw(balancer.address(), SOON, b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        !answer.to_ascii_lowercase().contains("transfer-encoding"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    // The upstream gets HTTP/1.1, which requires a Host.
    assert!(upstream.all_received().starts_with("GET / HTTP/1.1\r\n"));
    assert_eq!(field(&upstream.all_received(), "host").len(), 1);
}

#[test]
fn bodiless_answers_leave_the_connection_usable() {
    for (method, answer) in [
        (
            "HEAD",
            &b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"[..],
        ),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
        ),
    ] {
        let upstream =
            Upstream::start(
                move |mut peer| while peer.read_request().is_some() && peer.write(answer) {},
            )
            .unwrap();
        let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
        let mut connection = Connection::open(balancer.address(), SOON).unwrap();
        for _ in 0..3 {
            let request = Request {
                method,
                ..Request::get("/")
            };
            assert_eq!(connection.send(&request).unwrap().body, b"");
            assert!(connection.is_reusable(), "{method}");
        }
    }
}

#[test]
fn large_bodies_pass_both_ways() {
    let upstream = Upstream::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            let length = field(&head, "content-length")[0].parse().unwrap();
            let Some(body) = peer.read_exactly(length) else {
                return;
            };
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes());
            peer.write(&body);
        }
    })
    .unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let body: Vec<u8> = (0..8u32 << 20).map(|n| (n >> 3) as u8).collect();
    let response = http::one_shot(
        balancer.address(),
        Duration::from_secs(30),
        &Request::post("/", &body),
    )
    .unwrap();
    assert!(
        response.body == body,
        "{} of {} bytes",
        response.body.len(),
        body.len()
    );
    let resident = proc::resident_bytes(balancer.process.pid()).unwrap();
    println!(
        "balancer after 8 MiB both ways: {:.1} MiB resident",
        resident as f64 / f64::from(1 << 20)
    );
    assert!(
        resident < 24 << 20,
        "bodies are relayed, not kept: {resident}"
    );
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let upstream = Upstream::start(|mut peer| {
        peer.read_head();
        peer.write(
            b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
        peer.finish();
    })
    .unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let mut connection = Connection::open(balancer.address(), SOON).unwrap();
    // Only the beginning of the body is sent.
    connection
        .write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbeginning")
        .unwrap();
    assert_eq!(connection.read("POST").unwrap().status, 413);
    assert!(!connection.is_reusable());
}

#[test]
fn an_expectation_is_passed_on() {
    let upstream = Upstream::start(|mut peer| {
        peer.read_head();
        peer.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        peer.read_exactly(5);
        peer.write(&ok("done"));
    })
    .unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let mut connection = Connection::open(balancer.address(), SOON).unwrap();
    connection
        .write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(connection.read_bytes(interim.len()).unwrap(), interim);
    connection.write(b"hello").unwrap();
    assert_eq!(connection.read("POST").unwrap().text(), "done");
}

#[test]
fn a_client_that_has_shut_down_sending_still_gets_its_answer() {
    let upstream = Upstream::start(|mut peer| {
        peer.read_request();
        std::thread::sleep(Duration::from_millis(100));
        peer.write(&ok("late"));
    })
    .unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let mut connection = Connection::open(balancer.address(), SOON).unwrap();
    connection
        .write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    connection.finish().unwrap();
    assert_eq!(connection.read("GET").unwrap().text(), "late");
}

fn echo_after_upgrade() -> Upstream {
    Upstream::start(|mut peer| {
        let Some(head) = peer.read_head() else { return };
        if field(&head, "upgrade") != ["echo"] || !field(&head, "connection").join(",").to_ascii_lowercase().contains("upgrade") {
            peer.write(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        peer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwelcome");
        while let Some(byte) = peer.read_exactly(1) {
            peer.write(&byte);
        }
        peer.write(b"bye");
    })
    .unwrap()
}

#[test]
fn after_an_upgrade_bytes_flow_both_ways_until_both_have_finished() {
    let upstream = echo_after_upgrade();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let mut connection = Connection::open(balancer.address(), SOON).unwrap();
    let upgrade = Request::get("/").with(&[("Connection", "Upgrade"), ("Upgrade", "echo")]);
    assert_eq!(connection.send(&upgrade).unwrap().status, 101);
    assert_eq!(connection.read_bytes(7).unwrap(), b"welcome");
    connection.write(b"\x81\0\xffping").unwrap();
    assert_eq!(connection.read_bytes(7).unwrap(), b"\x81\0\xffping");
    // After the half-close, the rest of the upstream's bytes still arrives.
    connection.finish().unwrap();
    assert_eq!(connection.read_to_close().unwrap(), b"bye");
}

#[test]
fn an_upgrade_that_was_not_requested_is_an_error() {
    let upstream = Upstream::start(|mut peer| {
        peer.read_head();
        peer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        );
        peer.read_to_close();
    })
    .unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    assert_eq!(http::get(balancer.address(), "/").unwrap().status, 502);
}

#[test]
fn idle_connections_cost_little() {
    let upstream = Upstream::answering("x").unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let load = Load {
        post_every: 0,
        ..Load::on(&[balancer.address()])
    };
    let report = load.run(2000).unwrap();
    println!("balancer in front of one scripted upstream: {report}");
    assert_eq!(report.failed(), 0, "{report}");
    let pid = balancer.process.pid();
    let before = proc::resident_bytes(pid).unwrap();
    let connect = |address: SocketAddr| {
        let mut connection = Connection::open(address, SOON).unwrap();
        assert_eq!(connection.send(&Request::get("/")).unwrap().status, 200);
        connection
    };
    // The test keeps the other ends open, so their number is below the usual limit of 1,024 open
    // files.
    let held: Vec<Connection> = (0..700).map(|_| connect(balancer.address())).collect();
    let after = proc::resident_bytes(pid).unwrap();
    let each = (after.saturating_sub(before)) / held.len() as u64;
    println!(
        "balancer: {:.1} MiB resident, {each} bytes per idle connection",
        before as f64 / f64::from(1 << 20)
    );
    assert!(each < 16 << 10, "{each} bytes per idle connection");
    assert!(before < 24 << 20, "{before}");
}
