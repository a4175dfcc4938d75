//! Ambiguous requests are refused, their connection is closed, and no part of them reaches the
//! upstream (RFC 9112 sections 2.2, 3.2, 5, 6, 7, 11.2).

use scaledapp_tests::balancer::Launch;
use scaledapp_tests::http;
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::wait;

use crate::SOON;

/// These bytes follow every malformed request on the same connection. They must never be treated as
/// a request.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

const REFUSED: &[(&str, u16, &[u8])] = &[
    ("CL and TE", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE and CL", 400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ("two differing CL", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    ("CL list", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nxx"),
    ("CL with plus", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx"),
    ("CL negative", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx"),
    ("CL hexadecimal", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx"),
    ("CL beyond 64 bit", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\nx"),
    ("CL empty", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
    ("TE chunked twice", 400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE not chunked last", 400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("TE in HTTP/1.0", 400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE with vertical tab", 400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("bare LF after the request line", 400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    ("bare LF after a field", 400, b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
    ("bare LF at the end", 400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    ("bare CR in a value", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
    ("no Host", 400, b"GET / HTTP/1.1\r\n\r\n"),
    ("empty Host", 400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("chunk extension without a name", 400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\r\nx\r\n0\r\n\r\n"),
    ("chunk extension that is no token", 400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a b\r\nx\r\n0\r\n\r\n"),
    ("two Hosts", 400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("two equal Hosts", 400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("Host with a path", 400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("Host with user", 400, b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    ("absolute form for another Host", 400, b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("line folding", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
    ("first field folded", 400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    ("space before the colon", 400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    ("space before the colon of TE", 400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("empty name", 400, b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
    ("no colon", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
    ("NUL in a value", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    ("NUL in a name", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n"),
    ("NUL in the target", 400, b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("control byte in the target", 400, b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("space in the target", 400, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("fragment in the target", 400, b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("relative target", 400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("two spaces", 400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("tab for space", 400, b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    ("HTTP/0.9", 400, b"GET /\r\n\r\n"),
    ("lower case version", 400, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    ("method with a bad byte", 400, b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("HTTP/2.0", 505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("CONNECT", 405, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    ("unknown coding", 501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
];

/// Malformed bodies after a valid head. The part that was forwarded must not look complete.
const BAD_CHUNKS: &[(&str, &[u8])] = &[
    ("size without digits", b"\r\n\r\n"),
    ("size with sign", b"+1\r\nx\r\n0\r\n\r\n"),
    ("size with 0x", b"0x1\r\nx\r\n0\r\n\r\n"),
    ("size with a space", b"1 \r\nx\r\n0\r\n\r\n"),
    ("size beyond 64 bit", b"10000000000000000\r\nx\r\n0\r\n\r\n"),
    ("size line with bare LF", b"1\nx\r\n0\r\n\r\n"),
    ("data without its end", b"1\r\nxy\r\n0\r\n\r\n"),
    ("data ended with bare LF", b"1\r\nx\n0\r\n\r\n"),
    ("trailer without colon", b"0\r\nX\r\n\r\n"),
    ("trailer with bare LF", b"0\r\nX: y\n\r\n"),
];

#[test]
fn a_malformed_request_is_refused_and_not_forwarded() {
    let upstream = Upstream::answering("reached").unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    for (name, status, request) in REFUSED {
        let bytes = [request, SMUGGLED].concat();
        let answer = http::raw(balancer.address(), SOON, &bytes)
            .unwrap_or_else(|failure| panic!("{name}: {failure} instead of an answer and a close"));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let line = format!("HTTP/1.1 {status} ");
        assert!(
            answer.starts_with(&line),
            "{name}: wanted {line}, got {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
        let lower = answer.to_ascii_lowercase();
        assert!(
            lower.contains("\r\nconnection: close\r\n"),
            "{name}: {answer}"
        );
        assert_eq!(upstream.all_received(), "", "{name} reached the upstream");
    }
    let metrics = balancer.metrics().unwrap();
    assert!(metrics.contains("scaledapp_balancer_"), "{metrics}");
    // The balancer still works.
    let after = http::get(balancer.address(), "/").unwrap();
    assert_eq!((after.status, after.text().as_str()), (200, "reached"));
}

#[test]
fn the_log_says_why_requests_are_refused_but_not_for_each_one() {
    // Nothing listens on this address any longer.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let launch = Launch::to(&[address]).unwrap();
    let launch = launch.with(&["--threads", "1", "--waiting-time", "100ms"]);
    let balancer = launch.ready().unwrap();
    let two_hosts = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let chunk = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
    let served = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for _ in 0..3 {
        for request in [&two_hosts[..], chunk, hello, served] {
            http::raw(balancer.address(), SOON, request).unwrap();
        }
    }
    let words = [
        "reason=\"host-repeated\"",
        "a client speaks TLS on a port without TLS: give --tls CERT:KEY",
        "reason=\"no-endpoint\"",
        "the endpoint refuses connections",
    ];
    wait::until(SOON, "the log says it", || {
        let log = balancer.process.stderr();
        let once = words.iter().all(|words| log.matches(words).count() == 1);
        if once { Ok(()) } else { Err(log) }
    })
    .unwrap();
}

#[test]
fn a_malformed_chunked_body_never_looks_complete() {
    let upstream = Upstream::answering("reached").unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    for (name, body) in BAD_CHUNKS {
        let before = upstream.all_received().len();
        let head = b"POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = http::raw(balancer.address(), SOON, &[head, *body, SMUGGLED].concat())
            .unwrap_or_else(|failure| panic!("{name}: {failure} instead of an answer and a close"));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
        let reached = upstream.all_received().split_off(before);
        assert!(
            !reached.contains("0\r\n\r\n"),
            "{name} ended for the upstream: {reached}"
        );
        assert!(!reached.contains("/smuggled"), "{name}: {reached}");
    }
}

#[test]
fn a_head_beyond_its_limits_is_refused() {
    let upstream = Upstream::answering("reached").unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    let many = "X: y\r\n".repeat(1000);
    let long = "x".repeat(200_000);
    for (name, status, request) in [
        (
            "many fields",
            431,
            format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        ),
        (
            "a long field",
            431,
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
        ),
        (
            "a long field without end",
            431,
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"),
        ),
        (
            "a long target",
            414,
            format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        ),
    ] {
        let answer = http::raw(balancer.address(), SOON, request.as_bytes())
            .unwrap_or_else(|failure| panic!("{name}: {failure} instead of an answer and a close"));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{name}: {answer}"
        );
    }
    assert_eq!(upstream.all_received(), "");
}
