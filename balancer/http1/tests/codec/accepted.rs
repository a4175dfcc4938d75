//! Requests that are accepted, and how they are understood.

use scaledapp_http1::{Fields, Framing, Limits, Request, Version, parse_request};

use crate::verdict;

fn with<T>(head: &str, look: impl FnOnce(&Request<'_>) -> T) -> T {
    let mut fields = Fields::default();
    let request = parse_request(head.as_bytes(), &mut fields, &Limits::default());
    look(&request.unwrap().unwrap())
}

/// A request of version 1.1 with these field lines besides its host.
fn modern(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn old(fields: &str) -> String {
    format!("GET / HTTP/1.0\r\n{fields}\r\n")
}

#[test]
fn all_parts_are_found() {
    let head = "PUT /a?b HTTP/1.1\r\nHost: a.example:80\r\nX-Y: \t z  z \t\r\nEmpty:\r\nContent-Length: 12\r\nobs: \u{e4}\r\n\r\n";
    with(&format!("\r\n\r\n{head}body"), |request| {
        assert_eq!(request.method, b"PUT");
        assert_eq!(request.target, b"/a?b");
        assert_eq!(request.version, Version::Http11);
        assert_eq!(request.host, b"a.example:80");
        assert_eq!(request.framing, Framing::Length(12));
        assert!(request.keep_alive && !request.upgrade && !request.expects_continue);
        assert!(request.is_idempotent() && !request.is_head());
        assert_eq!(request.head_len, head.len() + 4);
        assert_eq!(request.field("x-y"), Some(&b"z  z"[..]));
        assert_eq!(request.field("EMPTY"), Some(&b""[..]));
        assert_eq!(request.field("x"), None);
        let names: Vec<_> = request.fields().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [&b"Host"[..], b"X-Y", b"Empty", b"Content-Length", b"obs"]
        );
    });
}

#[test]
fn every_prefix_of_a_head_waits_for_more() {
    for head in [
        modern(""),
        modern("Content-Length: 5\r\nConnection: close, X\r\nX: y\r\n"),
        format!("\r\n\r\n{}", modern("Transfer-Encoding: chunked\r\n")),
        old("A: b\r\n"),
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    ] {
        for end in 0..head.len() {
            assert_eq!(
                verdict(&head.as_bytes()[..end]),
                Ok(None),
                "{:?}",
                &head[..end]
            );
        }
        assert_eq!(verdict(head.as_bytes()), Ok(Some(head.len())));
    }
}

#[test]
fn the_fields_say_how_the_body_ends() {
    for (fields, framing) in [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("Content-Length: 007\r\n", Framing::Length(7)),
        (
            "content-length:18446744073709551615\t\r\n",
            Framing::Length(u64::MAX),
        ),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("TRANSFER-ENCODING:\tChunKed \r\n", Framing::Chunked),
        // Another field, although CGI and WSGI give it the same name as `Content-Length`.
        ("Content_Length: 5\r\n", Framing::None),
    ] {
        assert_eq!(
            with(&modern(fields), |request| request.framing),
            framing,
            "{fields}"
        );
    }
}

#[test]
fn the_fields_say_whether_the_connection_stays_open() {
    for (head, lives) in [
        (modern(""), true),
        (modern("Connection: close\r\n"), false),
        (modern("Connection: keep-alive\r\n"), true),
        (modern("Connection: keep-alive, CLOSE\r\n"), false),
        (
            modern("Connection: keep-alive\r\nConnection: x,close\r\n"),
            false,
        ),
        (modern("Connection: closed\r\n"), true),
        (old(""), false),
        (old("Connection: Keep-Alive\r\n"), true),
        (old("Connection: , keep-alive,\r\n"), true),
        (old("Connection: keep-alive, close\r\n"), false),
        (old("Keep-Alive: timeout=5\r\n"), false),
    ] {
        assert_eq!(with(&head, |request| request.keep_alive), lives, "{head}");
    }
}

#[test]
fn the_authority_is_that_of_the_target_or_of_host() {
    for (head, host) in [
        (modern(""), "a"),
        (old("Host:\r\n"), ""),
        (
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n".to_owned(),
            "[::1]:80",
        ),
        (old(""), ""),
        (old("Host: b\r\n"), "b"),
        ("GET http://b/ HTTP/1.0\r\n\r\n".to_owned(), "b"),
        (
            "GET HTTPS://B:1/ HTTP/1.1\r\nHost: b:1\r\n\r\n".to_owned(),
            "B:1",
        ),
    ] {
        let found = with(&head, |request| request.host.to_vec());
        assert_eq!(String::from_utf8(found).unwrap(), host, "{head}");
    }
}

#[test]
fn an_upgrade_is_recognised() {
    for (fields, asks) in [
        ("Connection: upgrade\r\nUpgrade: websocket\r\n", true),
        (
            "Connection: keep-alive, Upgrade\r\nUpgrade: a/1, b\r\n",
            true,
        ),
        (
            "Connection: upgrade\r\nUpgrade: a\r\nContent-Length: 0\r\n",
            true,
        ),
        ("Connection: upgrade\r\n", false),
        ("Connection: upgrade\r\nUpgrade: ,\r\n", false),
        ("Upgrade: websocket\r\n", false),
        (
            "Connection: upgrade\r\nUpgrade: a\r\nContent-Length: 1\r\n",
            true,
        ),
        (
            "Connection: upgrade\r\nUpgrade: a\r\nTransfer-Encoding: chunked\r\n",
            true,
        ),
        (
            "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n",
            false,
        ),
        ("Connection: upgrade\r\nUpgrade: websocket, H2C\r\n", false),
        ("Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n", false),
    ] {
        assert_eq!(
            with(&modern(fields), |request| request.upgrade),
            asks,
            "{fields}"
        );
    }
    let head = old("Connection: upgrade\r\nUpgrade: websocket\r\n");
    assert!(!with(&head, |request| request.upgrade));
}

#[test]
fn a_client_that_expects_100_continue_is_recognised() {
    let body = "Content-Length: 1\r\n";
    for (head, waits) in [
        (modern(&format!("{body}Expect: 100-Continue\r\n")), true),
        (modern(&format!("{body}Expect: 200-ok\r\n")), false),
        (modern("Expect: 100-continue\r\n"), false),
        (old(&format!("{body}Expect: 100-continue\r\n")), false),
    ] {
        assert_eq!(
            with(&head, |request| request.expects_continue),
            waits,
            "{head}"
        );
    }
}

#[test]
fn idempotent_methods_are_recognised() {
    for (method, may) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("get", false),
        ("M-SEARCH", false),
    ] {
        let head = modern("").replace("GET", method);
        let found = with(&head, |request| {
            (request.is_idempotent(), request.is_head())
        });
        assert_eq!(found, (may, method == "HEAD"), "{method}");
    }
}

#[test]
fn reused_fields_keep_nothing_of_the_previous_request() {
    let mut fields = Fields::default();
    for (head, count) in [
        (modern("A: b\r\nC: d\r\n"), 3),
        (old(""), 0),
        (modern(""), 1),
    ] {
        let request = parse_request(head.as_bytes(), &mut fields, &Limits::default());
        assert_eq!(request.unwrap().unwrap().fields().count(), count);
    }
}
