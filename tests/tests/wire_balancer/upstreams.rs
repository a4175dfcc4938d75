//! Upstreams that refuse, reset or close connections, send malformed answers, or stop sending.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scaledapp_tests::balancer::Launch;
use scaledapp_tests::http::{self, Connection, Failure, Request};
use scaledapp_tests::load::Load;
use scaledapp_tests::upstream::{Upstream, ok};
use scaledapp_tests::{ports, wait};

use crate::SOON;

fn post(to: SocketAddr) -> Result<http::Response, Failure> {
    http::one_shot(to, SOON, &Request::post("/", b"order"))
}

#[test]
fn a_refusing_upstream_fails_no_request_of_any_kind() {
    let upstream = Upstream::answering("client 0 request").unwrap();
    let nobody = ports::local().unwrap();
    for keep_alive in [true, false] {
        let balancer = Launch::to(&[nobody, upstream.address()])
            .unwrap()
            .ready()
            .unwrap();
        let load = Load {
            keep_alive,
            clients: 4,
            post_every: 0,
            ..Load::on(&[balancer.address()])
        };
        let report = load.run(300).unwrap();
        assert_eq!(report.failed(), 0, "{report}");
        // Nothing was written to the upstream that refused the connection, so even a POST may be
        // sent to another one.
        for _ in 0..20 {
            assert_eq!(post(balancer.address()).unwrap().status, 200);
        }
    }
}

#[test]
fn a_reset_before_the_answer_repeats_a_get_and_never_a_post() {
    let resets = || {
        Upstream::start(|mut peer| {
            while peer.read_request().is_some() {
                if peer.index == 0 {
                    return peer.reset();
                }
                peer.write(&ok("second try"));
            }
        })
        .unwrap()
    };
    let upstream = resets();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let got = http::get(balancer.address(), "/").unwrap();
    assert_eq!((got.status, got.text().as_str()), (200, "second try"));

    let upstream = resets();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    assert_eq!(post(balancer.address()).unwrap().status, 502);
    assert_eq!(upstream.all_received().matches("POST ").count(), 1);
}

#[test]
fn a_kept_connection_that_the_upstream_has_closed_fails_no_request() {
    // This upstream closes its connection after every answer, but sends no `Connection: close`.
    let upstream = Upstream::start(|mut peer| {
        peer.read_request();
        peer.write(&ok("once"));
    })
    .unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let load = Load {
        clients: 2,
        post_every: 0,
        ..Load::on(&[balancer.address()])
    };
    let report = load.run(500).unwrap();
    assert_eq!(report.failed(), 0, "{report}");
}

#[test]
fn a_malformed_answer_is_a_bad_gateway() {
    for (name, answer) in [
        ("not HTTP", &b"SSH-2.0-OpenSSH\r\n\r\n"[..]),
        (
            "CL and TE",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two CL",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        ),
        (
            "folded length",
            b"HTTP/1.1 200 OK\r\nX: a\r\nContent-Length:\r\n 1\r\n\r\nx",
        ),
        (
            "coding in HTTP/1.0",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "two codings",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "chunk with bare LF",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n",
        ),
        (
            "NUL",
            b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 1\r\n\r\nx",
        ),
        ("cut off in the head", b"HTTP/1.1 200 OK\r\nContent-"),
        ("silent close", b""),
    ] {
        let upstream = Upstream::start(move |mut peer| {
            peer.read_request();
            peer.write(answer);
        })
        .unwrap();
        let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
        let response = post(balancer.address());
        assert_eq!(
            response.as_ref().map(|response| response.status),
            Ok(502),
            "{name}: {response:?}"
        );
    }
}

/// Old apps send such irregular answers, and RFC 9112 lets a proxy repair them
/// (envoyproxy/envoy#31009).
#[test]
fn an_irregular_answer_is_repaired() {
    for (answer, status, policy) in [
        (
            &b"HTTP/1.1 200 OK\nContent-Security-Policy: a\nContent-Length: 1\n\nx"[..],
            200,
            "a",
        ),
        (b"HTTP/1.0 404\nContent-Security-Policy: a\n\nx", 404, "a"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Security-Policy:\r\n    a;\r\n\tb\r\nContent-Length: 1\r\n\r\nx",
            200,
            "a;  \tb",
        ),
    ] {
        let upstream = Upstream::start(move |mut peer| {
            peer.read_request();
            // The folded line may arrive separately.
            let middle = answer.len() / 2;
            peer.write(&answer[..middle]);
            std::thread::sleep(Duration::from_millis(20));
            peer.write(&answer[middle..]);
        })
        .unwrap();
        let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
        let got = http::get(balancer.address(), "/").unwrap();
        assert_eq!((got.status, got.text().as_str()), (status, "x"));
        let named = got.field("content-security-policy");
        assert_eq!(named, Some(policy), "{got:?}");
    }
}

/// The log must name the cause of a 502: the field, the rule and the flag.
#[test]
fn the_log_says_what_is_wrong_with_an_answer() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(5000));
    for (answer, words) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx".to_owned(),
            "Content-Length is given more than once",
        ),
        (
            "HTTP/1.1 200 OK\r\nSet Cookie: secret\r\n\r\n".to_owned(),
            "field=Set Cookie",
        ),
        (long, "raise --head-bytes"),
    ] {
        let upstream = Upstream::start(move |mut peer| {
            peer.read_request();
            peer.write(answer.as_bytes());
        })
        .unwrap();
        let balancer = Launch::to(&[upstream.address()])
            .unwrap()
            .with(&["--head-bytes=4096"])
            .ready()
            .unwrap();
        assert_eq!(
            post(balancer.address()).map(|response| response.status),
            Ok(502)
        );
        wait::until(SOON, "the log says it", || {
            let log = balancer.process.stderr();
            let says = log.contains(words) && !log.contains("secret");
            if says { Ok(()) } else { Err(log) }
        })
        .unwrap();
    }
}

#[test]
fn a_body_that_is_cut_off_never_looks_complete() {
    for (name, answer) in [
        (
            "by length",
            &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"[..],
        ),
        (
            "in chunks",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
        ),
        (
            "by a bad chunk",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nxyz\r\n",
        ),
    ] {
        let upstream = Upstream::start(move |mut peer| {
            peer.read_request();
            peer.write(answer);
        })
        .unwrap();
        let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
        let result = http::get(balancer.address(), "/");
        // The balancer may also notice the end before it has sent the head, and answer 502.
        let honest = match &result {
            Err(Failure::Truncated | Failure::Reset | Failure::Malformed(_)) => true,
            Ok(response) => response.status == 502,
            Err(_) => false,
        };
        assert!(honest, "{name}: {result:?}");
    }
}

#[test]
fn without_an_upstream_the_answer_says_when_to_retry() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("endpoints.json");
    std::fs::write(&file, "[]").unwrap();
    let balancer = Launch::new(&["--endpoints-file", &file.to_string_lossy()])
        .unwrap()
        .ready()
        .unwrap();
    let response = http::one_shot(
        balancer.address(),
        Duration::from_mins(1),
        &Request::get("/"),
    )
    .unwrap();
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.field("retry-after").is_some(), "{response:?}");
}

#[test]
fn the_upstream_connection_of_a_client_that_leaves_is_closed() {
    let gone = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&gone);
    let upstream = Upstream::start(move |mut peer| {
        peer.read_request();
        peer.read_to_close();
        seen.store(true, Ordering::Release);
    })
    .unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let mut connection = Connection::open(balancer.address(), SOON).unwrap();
    connection
        .write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    wait::until_true(SOON, "the request is upstream", || {
        upstream.all_received().contains("/endless")
    })
    .unwrap();
    connection.reset_on_drop().unwrap();
    drop(connection);
    wait::until_true(SOON, "the upstream sees the end", || {
        gone.load(Ordering::Acquire)
    })
    .unwrap();
}

#[test]
fn a_failing_upstream_is_ejected_and_comes_back() {
    let healthy = Upstream::answering("healthy").unwrap();
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let flaky = Upstream::start(move |mut peer| {
        while peer.read_request().is_some() {
            if state.load(Ordering::Acquire) {
                return peer.reset();
            }
            peer.write(&ok("flaky"));
        }
    })
    .unwrap();
    let balancer = Launch::to(&[healthy.address(), flaky.address()])
        .unwrap()
        .ready()
        .unwrap();
    let load = || Load {
        clients: 2,
        post_every: 0,
        keep_alive: false,
        ..Load::on(&[balancer.address()])
    };
    let report = load().run(200).unwrap();
    assert_eq!(report.failed(), 0, "GETs go on elsewhere: {report}");
    let tried = flaky.accepted();
    assert!(
        tried < 60,
        "{tried} of 200 requests went to an upstream that resets all"
    );
    broken.store(false, Ordering::Release);
    let back = || {
        let response = http::get(balancer.address(), "/").map_err(|failure| failure.to_string())?;
        if response.text() == "flaky" {
            Ok(())
        } else {
            Err(response.text())
        }
    };
    wait::until(Duration::from_secs(30), "it is tried again", back).unwrap();
}
