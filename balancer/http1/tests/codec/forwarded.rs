//! The heads that are sent upstream, byte by byte.

use std::net::IpAddr;

use scaledapp_http1::{Fields, Limits, Origin, parse_request};

use crate::{BEHIND, EDGE, PEER, PROXY, sent_on};

#[test]
fn at_the_edge() {
    let received = "POST /path?q=1 HTTP/1.1\r\n\
        user-agent:x\r\n\
        HOST:  shop.example\r\n\
        Connection: X-Hop, keep-alive, Host, X-Forwarded-For, X-Real-IP, Content-Length\r\n\
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
        X.Real.IP: evil\r\n\
        Content_Length: 9\r\n\
        X-Forwarded-Port: 1\r\n\
        x-forwarded-client-cert: Hash=0\r\n\
        X-Real-IP: 1.1.1.1\r\n\
        X-REAL-IP: 2.2.2.2\r\n\
        X-Client-IP: 1.1.1.1\r\n\
        True-Client-IP: 1.1.1.1\r\n\
        CF-Connecting-IP: 1.1.1.1\r\n\
        Client-Cert: :AAAA:\r\n\
        Front-End-Https: on\r\n\
        X-Original-URL: /admin\r\n\
        X-Request-Id: forged\r\n\
        Scaledapp-Token: guessed\r\n\
        traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
        Forwarded: for=1.1.1.1\r\n\
        Scaledapp-Not-Executed: retry\r\n\
        Scaledapp-Interrupted: retry\r\n\
        Scaledapp-Repeated: 1\r\n\
        Content-Length: 005\r\n\
        Expect: 100-continue\r\n\
        X-Kept: a, b \r\n\
        X-Kept:\r\n\
        \r\n";
    let sent = "POST /path?q=1 HTTP/1.1\r\n\
        Host: shop.example\r\n\
        user-agent: x\r\n\
        traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
        Expect: 100-continue\r\n\
        X-Kept: a, b\r\n\
        X-Kept: \r\n\
        Content-Length: 5\r\n\
        X-Forwarded-For: 203.0.113.7, 203.0.113.8, 192.0.2.1\r\n\
        X-Real-IP: 192.0.2.1\r\n\
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
        scaledapp-interrupted: retry\r\n\
        scaledapp-repeated: 1\r\n\
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
    // Fields that the proxy has not sent are added.
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
fn an_upgrade_is_passed_on_and_an_invalid_one_is_not() {
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
        X-Real-IP: 192.0.2.1\r\n\
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
fn mapped_addresses_are_written_as_ipv4() {
    for (address, written) in [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
    ] {
        let peer: IpAddr = address.parse().unwrap();
        let source = peer;
        let origin = Origin {
            peer,
            source,
            ..EDGE
        };
        let sent = sent_on(b"GET / HTTP/1.0\r\n\r\n", &origin);
        for name in ["X-Forwarded-For", "X-Real-IP"] {
            assert!(sent.contains(&format!("{name}: {written}\r\n")), "{sent}");
        }
    }
}

#[test]
fn a_request_has_one_id() {
    let long = "x".repeat(129);
    for (fields, proxy, behind) in [
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
        for (origin, wanted) in [(EDGE, "id-1"), (PROXY, proxy), (BEHIND, behind)] {
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

#[test]
fn behind_a_proxy_that_the_user_has_named() {
    let received = "GET / HTTP/1.1\r\n\
        Host: inner\r\n\
        Connection: X-Forwarded-Proto, X-Forwarded-Port, Forwarded, X-Hop\r\n\
        X-Hop: 1\r\n\
        Forwarded: for=\"[2001:db8::7]:4711\"\r\n\
        X-Real-IP: 6.6.6.6\r\n\
        X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n\
        X-FORWARDED-PROTO: https\r\n\
        X_Forwarded_Proto: gopher\r\n\
        X-Forwarded-Host: shop.example\r\n\
        X-Forwarded-Port: 443\r\n\
        X-Request-Id: abc\r\n\
        Scaledapp-Token: guessed\r\n\
        \r\n";
    let sent = "GET / HTTP/1.1\r\n\
        Host: inner\r\n\
        Forwarded: for=\"[2001:db8::7]:4711\"\r\n\
        X-Forwarded-Port: 443\r\n\
        X-Forwarded-For: 6.6.6.6, 203.0.113.7, 192.0.2.1\r\n\
        X-Real-IP: 203.0.113.7\r\n\
        X-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: shop.example\r\n\
        X-Request-Id: abc\r\n\
        \r\n";
    assert_eq!(sent_on(received.as_bytes(), &PROXY), sent);
}

/// If the scheme is contradicted, an application may redirect forever.
#[test]
fn a_scheme_that_a_proxy_gives_in_another_field_is_not_contradicted() {
    for (fields, wanted) in [
        ("", "http"),
        ("X-Forwarded-Proto: https\r\n", "https"),
        ("Forwarded: for=1.1.1.1;proto=https\r\n", "https"),
        (
            "Forwarded: proto=https\r\nForwarded: proto=http\r\n",
            "http",
        ),
        ("X-Forwarded-Scheme: HTTPS\r\n", "https"),
        ("X-Forwarded-Ssl: on\r\n", "https"),
        ("Front-End-Https: On\r\n", "https"),
        ("X-Forwarded-Ssl: off\r\n", "http"),
        ("X-Forwarded-Scheme: \"><\r\n", "http"),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let said = |scheme: &str| format!("\r\nX-Forwarded-Proto: {scheme}\r\n");
        for (origin, wanted) in [(PROXY, wanted), (BEHIND, wanted), (EDGE, "http")] {
            let sent = sent_on(head.as_bytes(), &origin);
            assert!(sent.contains(&said(wanted)), "{fields}: {sent}");
        }
    }
}

#[test]
fn the_client_is_the_peer_of_the_last_believed_proxy() {
    for (fields, wanted) in [
        ("", "192.0.2.1"),
        ("X-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7"),
        (
            "X-Forwarded-For: 6.6.6.6, 203.0.113.7:4711\r\n",
            "203.0.113.7",
        ),
        // Further proxies that are believed are skipped, on all lines.
        (
            "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-Forwarded-For: 10.0.0.2, ::ffff:10.0.0.1\r\n",
            "203.0.113.7",
        ),
        (
            "X-Forwarded-For: [2001:db8::7]:4711, 10.0.0.1\r\n",
            "2001:db8::7",
        ),
        (
            "X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.1\r\n",
            "10.0.0.1",
        ),
        ("X-Forwarded-For: unknown\r\n", "192.0.2.1"),
        ("X-Forwarded-For: 10.0.0.2, 10.0.0.1\r\n", "10.0.0.2"),
        // A client's own field, let through by a proxy that sets only the list.
        (
            "X-Forwarded-For: 203.0.113.7\r\nX-Real-IP: 6.6.6.6\r\n",
            "203.0.113.7",
        ),
        ("X-Real-IP: 203.0.113.7\r\n", "203.0.113.7"),
        ("X-Real-IP: unknown\r\nX-Forwarded-For: ,\r\n", "192.0.2.1"),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut memory = Fields::default();
        let request = parse_request(head.as_bytes(), &mut memory, &Limits::default());
        let believed = |address: IpAddr| address.to_string().starts_with("10.");
        let source = request.unwrap().unwrap().source(PEER, believed);
        assert_eq!(source.to_string(), wanted, "{fields}");
    }
}

#[test]
fn a_token_is_shown_to_the_next_hop_only() {
    let ours = Origin {
        token: Some("t0ken"),
        client_certificate: None,
        drops_cookie: None,
        ..EDGE
    };
    let sent = sent_on(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &ours);
    let wanted = "Host: a\r\nConnection: Scaledapp-Token\r\nScaledapp-Token: t0ken\r\nX-Forwarded";
    assert!(sent.contains(wanted), "{sent}");
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let sent = sent_on(upgrade, &ours);
    assert!(
        sent.contains("\r\nConnection: upgrade, Scaledapp-Token\r\n"),
        "{sent}"
    );
    for (fields, token) in [
        ("scaledapp-TOKEN: t0ken\r\n", Some("t0ken")),
        ("Scaledapp-Token: a\r\nScaledapp-Token: t0ken\r\n", None),
        ("Scaledapp_Token: t0ken\r\n", None),
        ("", None),
    ] {
        let head =
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Scaledapp-Token\r\n{fields}\r\n");
        let mut memory = Fields::default();
        let request = parse_request(head.as_bytes(), &mut memory, &Limits::default());
        assert_eq!(request.unwrap().unwrap().token(), token.map(str::as_bytes));
        for origin in [EDGE, PROXY, BEHIND] {
            let sent = sent_on(head.as_bytes(), &origin);
            assert!(!sent.to_ascii_lowercase().contains("token"), "{sent}");
        }
    }
}
