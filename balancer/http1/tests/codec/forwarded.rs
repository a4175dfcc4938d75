//! The heads that go upstream, byte by byte.

use std::net::IpAddr;

use scaledapp_http1::{Fields, Limits, Origin, parse_request};

use crate::{BEHIND, EDGE, sent_on};

#[test]
fn at_the_edge() {
    let received = "POST /path?q=1 HTTP/1.1\r\n\
        user-agent:x\r\n\
        HOST:  shop.example\r\n\
        Connection: X-Hop, keep-alive, Host, X-Forwarded-For, Content-Length\r\n\
        X-Hop: a\r\n\
        x-hop: b\r\n\
        Keep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\n\
        Proxy-Authorization: Basic eA==\r\n\
        Proxy-Authenticate: Basic\r\n\
        TE: trailers\r\n\
        Trailer: X\r\n\
        Upgrade: websocket\r\n\
        Proxy: http://evil/\r\n\
        X-Forwarded-For: 203.0.113.7\r\n\
        X-Forwarded-For:\r\n\
        X-Forwarded-For: 203.0.113.8\r\n\
        X-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: evil\r\n\
        X_Forwarded_Host: evil\r\n\
        Content_Length: 9\r\n\
        X-Forwarded-Port: 1\r\n\
        X-Real-IP: 1.1.1.1\r\n\
        Forwarded: for=1.1.1.1\r\n\
        Scaledapp-Not-Executed: retry\r\n\
        Content-Length: 005\r\n\
        Expect: 100-continue\r\n\
        X-Kept: a, b \r\n\
        X-Kept:\r\n\
        \r\n";
    let sent = "POST /path?q=1 HTTP/1.1\r\n\
        Host: shop.example\r\n\
        user-agent: x\r\n\
        Expect: 100-continue\r\n\
        X-Kept: a, b\r\n\
        X-Kept: \r\n\
        Content-Length: 5\r\n\
        X-Forwarded-For: 203.0.113.7, 203.0.113.8, 192.0.2.1\r\n\
        X-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: shop.example\r\n\
        X-Request-Id: id-1\r\n\
        \r\n";
    assert_eq!(sent_on(received.as_bytes(), &EDGE), sent);
}

#[test]
fn behind_a_proxy_of_ours() {
    let received = "GET / HTTP/1.1\r\n\
        Host: inner\r\n\
        Forwarded: for=203.0.113.7\r\n\
        X-Real-IP: 203.0.113.7\r\n\
        X-Forwarded-For: 203.0.113.7\r\n\
        X-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: shop.example\r\n\
        X-Forwarded-Port: 443\r\n\
        X-Request-Id: not quite sane\r\n\
        scaledapp-not-executed: retry\r\n\
        Transfer-Encoding: CHUNKED\r\n\
        \r\n";
    let sent = "GET / HTTP/1.1\r\n\
        Host: inner\r\n\
        Forwarded: for=203.0.113.7\r\n\
        X-Real-IP: 203.0.113.7\r\n\
        X-Forwarded-Port: 443\r\n\
        Transfer-Encoding: chunked\r\n\
        X-Forwarded-For: 203.0.113.7, 192.0.2.1\r\n\
        X-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: shop.example\r\n\
        X-Request-Id: not quite sane\r\n\
        \r\n";
    assert_eq!(sent_on(received.as_bytes(), &BEHIND), sent);
    // What the proxy has not said is said by us.
    let sent = sent_on(
        b"GET / HTTP/1.1\r\nHost: inner\r\nX-Forwarded-Host:\r\n\r\n",
        &BEHIND,
    );
    let added = "X-Forwarded-For: 192.0.2.1\r\n\
        X-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: inner\r\n\
        X-Request-Id: id-1\r\n\r\n";
    assert!(sent.ends_with(added), "{sent}");
}

#[test]
fn an_upgrade_goes_on_and_an_unsound_one_does_not() {
    let head = |fields: &str| format!("GET /chat HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let start = "GET /chat HTTP/1.1\r\nHost: a\r\n";
    let asked =
        head("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n");
    let sent = sent_on(asked.as_bytes(), &EDGE);
    let wanted = "Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nConnection: upgrade\r\nX-Forwarded";
    assert!(sent.starts_with(&format!("{start}{wanted}")), "{sent}");

    let plain = sent_on(head("").as_bytes(), &EDGE);
    let asked =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    assert_eq!(sent_on(head(asked).as_bytes(), &EDGE), plain);
    assert_eq!(
        sent_on(head("Upgrade: websocket\r\n").as_bytes(), &EDGE),
        plain
    );
}

#[test]
fn targets_are_of_origin_form() {
    for (asked, line) in [
        ("GET /a//b/../?c", "GET /a//b/../?c"),
        ("OPTIONS *", "OPTIONS *"),
        ("OPTIONS http://h", "OPTIONS *"),
        ("OPTIONS http://h/", "OPTIONS /"),
        ("OPTIONS http://h?a", "OPTIONS /?a"),
        ("GET http://h", "GET /"),
        ("GET http://h?a", "GET /?a"),
        ("GET HTTP://H/a?b", "GET /a?b"),
        ("GET //other/a", "GET //other/a"),
        ("GET /http://other/", "GET /http://other/"),
    ] {
        let sent = sent_on(
            format!("{asked} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(),
            &EDGE,
        );
        assert!(
            sent.starts_with(&format!("{line} HTTP/1.1\r\nHost: ")),
            "{asked}: {sent}"
        );
    }
}

#[test]
fn an_old_request_becomes_a_modern_one() {
    let sent = sent_on(
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        &EDGE,
    );
    let wanted = "POST / HTTP/1.1\r\n\
        Host: fallback\r\n\
        Content-Length: 1\r\n\
        X-Forwarded-For: 192.0.2.1\r\n\
        X-Forwarded-Proto: http\r\n\
        X-Request-Id: id-1\r\n\
        \r\n";
    assert_eq!(sent, wanted);
    let sent = sent_on(b"GET http://b/ HTTP/1.0\r\n\r\n", &EDGE);
    assert!(sent.starts_with("GET / HTTP/1.1\r\nHost: b\r\n"), "{sent}");
    let sent = sent_on(b"GET / HTTP/1.0\r\nHost:\r\n\r\n", &EDGE);
    assert!(
        sent.starts_with("GET / HTTP/1.1\r\nHost: fallback\r\n"),
        "{sent}"
    );
}

#[test]
fn addresses_are_written_as_what_they_are() {
    for (address, written) in [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
    ] {
        let client: IpAddr = address.parse().unwrap();
        let sent = sent_on(b"GET / HTTP/1.0\r\n\r\n", &Origin { client, ..EDGE });
        assert!(
            sent.contains(&format!("X-Forwarded-For: {written}\r\n")),
            "{sent}"
        );
    }
}

#[test]
fn a_request_has_one_id() {
    let long = "x".repeat(129);
    for (fields, at_edge, behind) in [
        ("", "id-1", "id-1"),
        ("X-Request-Id: mine\r\n", "mine", "mine"),
        (
            "X-Request-Id: mine\r\nX-Request-Id: other\r\n",
            "mine",
            "mine",
        ),
        ("X-Request-Id:\r\n", "id-1", "id-1"),
        ("X-Request-Id: a b\r\n", "id-1", "a b"),
        (&format!("X-Request-Id: {long}\r\n"), "id-1", &long),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        for (origin, wanted) in [(EDGE, at_edge), (BEHIND, behind)] {
            let sent = sent_on(head.as_bytes(), &origin);
            assert!(
                sent.ends_with(&format!("\r\nX-Request-Id: {wanted}\r\n\r\n")),
                "{sent}"
            );
            assert_eq!(sent.matches("X-Request-Id").count(), 1);
            let mut memory = Fields::default();
            let request = parse_request(head.as_bytes(), &mut memory, &Limits::default());
            let request = request.unwrap().unwrap();
            assert_eq!(request.request_id(&origin), wanted.as_bytes());
        }
    }
}
