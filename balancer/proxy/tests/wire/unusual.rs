//! What servers and clients send besides requests and answers: bytes that answer no
//! request, floods of interim answers, large heads, and HTTP/2.

use std::io::{Read, Write};
use std::time::Duration;

use scaledapp_proxy::{Config, Endpoint, Limits};

use crate::peers::{OK, Stage, ask, read_all, short, start, start_with, upstream};

const TIMEOUT: &str =
    "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[test]
fn a_408_for_an_idle_connection_is_no_answer() {
    for config in [Config::dispatcher(), Config::balancer()] {
        let stage = Stage::open();
        // One attempt must suffice, because an attempt that is answered with 408 does not count.
        let mut config = config;
        config.limits.attempts = 1;
        let running = start_with(vec![stage.endpoint()], config);
        for method in ["GET", "POST"] {
            let mut client = ask(&running, "/warm");
            stage.next().answer(OK);
            read_all(&mut client);
            let mut client = running.connect();
            let head = format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
            );
            client.write_all(head.as_bytes()).unwrap();
            let request = stage.next();
            assert_ne!(request.at.1, 0, "on the kept connection");
            request.answer(TIMEOUT);
            let request = stage.next();
            assert_eq!(request.at.1, 0, "on a new connection");
            assert!(request.text.starts_with(method));
            request.answer(OK);
            assert!(read_all(&mut client).ends_with("ok"));
        }
        // On a new connection the 408 is the app's own answer.
        let running = start(vec![stage.endpoint()], Limits::default());
        let mut client = ask(&running, "/");
        stage.next().answer(TIMEOUT);
        assert!(read_all(&mut client).starts_with("HTTP/1.1 408 "));
    }
}

/// A faulty server (`do_HEAD = do_GET`) may send the body at any time.
#[test]
fn no_request_follows_an_answer_whose_body_may_still_arrive() {
    for config in [Config::dispatcher(), Config::balancer()] {
        let stage = Stage::open();
        let running = start_with(vec![stage.endpoint()], config);
        for (method, answer) in [
            ("HEAD", "200 OK\r\nContent-Length: 5"),
            ("HEAD", "200 OK\r\nTransfer-Encoding: chunked"),
            ("HEAD", "200 OK\r\nX: y"),
            ("HEAD", "200 OK\r\nContent-Length: 0"),
            ("GET", "204 No Content\r\nX: y"),
            ("GET", "204 No Content\r\nContent-Length: 5"),
            ("GET", "304 Not Modified\r\nX: y"),
            ("GET", "304 Not Modified\r\nContent-Length: 5"),
        ] {
            let mut client = running.connect();
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            client.write_all(head.as_bytes()).unwrap();
            let mut careless = stage.next();
            careless.begin(&format!("HTTP/1.1 {answer}\r\n\r\n"));
            let mut taken = Vec::new();
            while !taken.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                taken.push(byte[0]);
            }
            let mut victim = ask(&running, "/victim");
            let request = stage.next();
            let connection = request.at.0;
            assert_ne!(connection, careless.at.0, "{method} {answer}");
            request.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            assert!(read_all(&mut victim).ends_with("ok"));
        }
    }
}

/// After an answer with a body, the connection is used again immediately.
#[test]
fn other_answers_cost_no_connection() {
    let running = start(vec![upstream(OK, Duration::ZERO)], Limits::default());
    for _ in 0..5 {
        assert!(read_all(&mut ask(&running, "/")).ends_with("ok"));
    }
    assert!(running.counts("x_upstream_connects_total 1"));
    assert!(running.counts("x_upstream_reuses_total 4"));
}

#[test]
fn the_number_of_interim_answers_is_limited() {
    for (count, status) in [(1000, "200"), (1001, "502")] {
        let stage = Stage::open();
        let running = start(vec![stage.endpoint()], Limits::default());
        let mut client = ask(&running, "/");
        let mut request = stage.next();
        request.begin(&"HTTP/1.1 102 Processing\r\n\r\n".repeat(count));
        request.answer(OK);
        let answer = read_all(&mut client);
        let last = answer.rsplit("102 Processing\r\n\r\n").next().unwrap();
        // The part that the client has received cannot be taken back.
        let is_reset = last.is_empty() && status == "502";
        assert!(
            is_reset || last.starts_with(&format!("HTTP/1.1 {status} ")),
            "{last}"
        );
    }
}

#[test]
fn large_heads_pass_and_the_limits_can_be_set() {
    let cookies = "Set-Cookie: a=bcdefghijklmnopqrstuvwxyz\r\n".repeat(900);
    let policy = "x".repeat(100_000);
    let answer: &'static str = format!(
        "HTTP/1.1 200 OK\r\n{cookies}Content-Security-Policy: {policy}\r\nContent-Length: 2\r\n\r\nok"
    )
    .leak();
    let fields = "Cookie: a=bcdefghijklmnopqrstuvwxyz\r\n".repeat(900);
    let large = format!("GET /{} HTTP/1.0\r\n{fields}\r\n", "x".repeat(25_000));
    for config in [Config::dispatcher(), Config::balancer()] {
        let running = start_with(vec![upstream(answer, Duration::ZERO)], config);
        let taken = running.send(b"GET / HTTP/1.0\r\n\r\n");
        assert!(taken.starts_with("HTTP/1.1 200 ") && taken.ends_with("ok"));
        assert_eq!(taken.matches("Set-Cookie").count(), 900);
        let running = start_with(vec![upstream(OK, Duration::ZERO)], config);
        assert!(running.send(large.as_bytes()).ends_with("ok"));
        for (bytes, count) in [(Some(52_000), None), (None, Some(880))] {
            let mut config = config;
            config.limits = config.limits.with_heads(bytes, count).unwrap();
            let running = start_with(vec![upstream(answer, Duration::ZERO)], config);
            let taken = running.send(b"GET / HTTP/1.0\r\n\r\n");
            assert!(taken.starts_with("HTTP/1.1 502 "), "{bytes:?} {count:?}");
            assert!(running.counts("x_failures_total{cause=\"malformed\"} 1"));
            let taken = running.send(large.as_bytes());
            assert!(taken.starts_with("HTTP/1.1 431 "), "{bytes:?} {count:?}");
        }
    }
}

/// A head of the maximum size grows on its way.
#[test]
fn a_head_that_one_hop_lets_pass_is_not_too_large_for_the_other() {
    let field = "X-Field: abcdefghij\r\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n",
        field.repeat(62)
    );
    let upstream = upstream(answer.leak(), Duration::ZERO);
    let heads = |mut config: Config| {
        config.limits = config.limits.with_heads(Some(4096), Some(64)).unwrap();
        config
    };
    let pod = start_with(vec![upstream], heads(Config::dispatcher()));
    let dispatcher = Endpoint::new("pod", pod.address);
    dispatcher.set_hands_back(true);
    let running = start_with(vec![dispatcher], heads(Config::balancer()));
    for padding in [
        1000,
        4096 - 61 * field.len() - "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len(),
    ] {
        let fields = if padding == 1000 {
            field.repeat(62)
        } else {
            field.repeat(61)
        };
        let padding = if padding == 1000 {
            String::new()
        } else {
            format!("X: {}\r\n", "x".repeat(padding))
        };
        let mut client = running.connect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}{padding}\r\n");
        client.write_all(head.as_bytes()).unwrap();
        let mut status = [0; 12];
        client.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200", "{} bytes", head.len());
    }
}

#[test]
fn heads_in_small_pieces_are_refused_at_the_limit() {
    let limits = short(|limits| *limits = limits.with_heads(Some(40_000), None).unwrap());
    let running = start(vec![upstream(OK, Duration::ZERO)], limits);
    for (start, status) in [("GET / HTTP/1.1\r\nX: ", "431"), ("GET /", "414")] {
        let mut client = running.connect();
        client.write_all(start.as_bytes()).unwrap();
        let piece = [b'x'; 1000];
        for _ in 0..40 {
            client.write_all(&piece).unwrap();
        }
        let answer = read_all(&mut client);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

#[test]
fn an_http2_client_is_refused_in_its_own_protocol() {
    let balancer = Config {
        http2: false,
        ..Config::balancer()
    };
    for config in [Config::dispatcher(), balancer] {
        let running = start_with(Vec::new(), config);
        let mut client = running.connect();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        // The preface may arrive in pieces.
        for part in preface.chunks(10) {
            client.write_all(part).unwrap();
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        let settings = b"\0\0\0\x04\0\0\0\0\0";
        assert_eq!(answer[..9], settings[..]);
        assert_eq!(answer[12], 7, "GOAWAY");
        assert_eq!(
            answer[18..26],
            *b"\0\0\0\0\0\0\0\x0d",
            "no stream, HTTP_1_1_REQUIRED"
        );
        let text = String::from_utf8_lossy(&answer[26..]);
        assert!(text.contains("HTTP/1.1"), "{text}");
    }
}
