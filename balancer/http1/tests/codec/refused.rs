//! Requests that two parsers could read in different ways (RFC 9112 sections 2.2, 3, 5, 6,
//! 7 and 11.2), and those beyond a limit.

use scaledapp_http1::{Limits, REASONS};

use crate::{verdict, verdict_within};

/// Complete requests.
const REFUSED: &[(&[u8], u16, &str)] = &[
    // How long is the body?
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "length-and-coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400, "length-and-coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\n", 400, "length-and-coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "length-repeated"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n", 400, "length-repeated"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xd9\xa1\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400, "length"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xa0chunked\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400, "coding"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "coding-unknown"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501, "coding-unknown"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501, "coding-unknown"),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "coding-in-http10"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400, "field-value"),
    // Where does a line end?
    (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bare-lf"),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bare-lf"),
    (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, "bare-lf"),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare-lf"),
    (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bare-lf"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400, "field-value"),
    (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400, "field-value"),
    (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400, "field-value"),
    (b"GET / HTTP/1.1\r\n\rHost: a\r\n\r\n", 400, "field-name"),
    (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"\r\n \r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "method"),
    (b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bare-lf"),
    // Which host is it for?
    (b"GET / HTTP/1.1\r\n\r\n", 400, "host-missing"),
    (b"GET http://a/ HTTP/1.1\r\n\r\n", 400, "host-missing"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "host-repeated"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n", 400, "host-repeated"),
    (b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400, "host-repeated"),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "host"),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "host"),
    (b"GET / HTTP/1.1\r\nHost: \t \r\n\r\n", 400, "host"),
    (b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n", 400, "host"),
    (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "host"),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "host"),
    (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "host"),
    (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400, "host"),
    (b"GET / HTTP/1.0\r\nHost: a?\r\n\r\n", 400, "host"),
    (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host-differs-from-target"),
    (b"GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host-differs-from-target"),
    (b"GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n", 400, "host-differs-from-target"),
    (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    // Which field is it?
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400, "line-folding"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", 400, "line-folding"),
    (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "line-folding"),
    (b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n", 400, "line-folding"),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "field-name"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400, "field-name"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n", 400, "field-name"),
    (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400, "field-name"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400, "field-name"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", 400, "field-name"),
    (b"GET / HTTP/1.1\r\nHost: a\r\n(X): z\r\n\r\n", 400, "field-name"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\xe4: z\r\n\r\n", 400, "field-name"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", 400, "field-name"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400, "field-value"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400, "field-value"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x1bb\r\n\r\n", 400, "field-value"),
    // What does it ask for?
    (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET /\r\n\r\n", 400, "request-line"),
    (b"GET\r\n\r\n", 400, "request-line"),
    (b"GET / \r\n\r\n", 400, "request-line"),
    (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET / HTTP/1\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET / HTTP/1.\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET / HTTP/a.b\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET / HTTP/11.1\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n", 400, "request-line"),
    (b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, "method"),
    (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "method"),
    (b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "method"),
    (b"G\xe4T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "method"),
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method-too-long"),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version"),
    (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, "version"),
    (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, "version"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version"),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405, "connect"),
    (b"CONNECT / HTTP/1.0\r\n\r\n", 405, "connect"),
];

#[test]
fn malformed_requests_are_refused_whatever_follows() {
    for (request, status, reason) in REFUSED {
        let name = request.escape_ascii();
        assert_eq!(verdict(request), Err((*status, *reason)), "{name}");
        let followed = [request, &b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"[..]].concat();
        assert_eq!(verdict(&followed), Err((*status, *reason)), "{name} + more");
        assert!(REASONS.contains(reason), "{reason}");
    }
}

/// Beginnings that no further bytes can make valid are refused immediately.
#[test]
fn bytes_that_cannot_become_a_request_are_refused_early() {
    for (beginning, reason) in [
        (&b"\x16\x03\x01\x02\0\x01"[..], "method"),
        (b"\x80", "method"),
        (b"\n", "bare-lf"),
        (b"GET / HTTP/1.1\n", "bare-lf"),
        (b"GET / HTTP/1.1\rH", "bare-cr"),
        (b"GET / HTTP/1.1\r\nHost: a\rX", "bare-cr"),
        (b"GET / HTTP/1.1\r\nHost: a\r\r", "bare-cr"),
        (b"GET /\xff", "target"),
        (b"GET / HTTP/1.1 ", "request-line"),
        (b"GET / HTTP/3.0\r\n", "version"),
        (b"CONNECT a HTTP/1.1\r\n", "connect"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n", "field-name"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n",
            "line-folding",
        ),
    ] {
        let reasons = verdict(beginning).map_err(|(_, reason)| reason);
        assert_eq!(reasons, Err(reason), "{}", beginning.escape_ascii());
    }
}

#[test]
fn limits_hold_to_the_byte() {
    let limits = Limits {
        head_bytes: 60,
        target_bytes: 10,
        fields: 2,
    };
    let check = |request: &str| verdict_within(request.as_bytes(), &limits);
    let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(bytes));
    assert!(check(&target(9)).is_ok());
    assert_eq!(check(&target(10)), Err((414, "target-too-long")));
    assert_eq!(check("GET /0123456789"), Err((414, "target-too-long")));
    assert_eq!(check("GET /012345678"), Ok(None));

    let head = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
    };
    assert_eq!(check(&head(60)), Ok(Some(60)));
    assert_eq!(check(&(head(60) + "body")), Ok(Some(60)));
    assert_eq!(check(&head(60)[..59]), Ok(None));
    assert_eq!(check(&head(61)), Err((431, "head-too-long")));
    assert_eq!(check(&head(61)[..60]), Err((431, "head-too-long")));
    assert_eq!(check(&("GET ".to_owned() + &"x".repeat(9))), Ok(None));

    let fields = |count: usize| format!("GET / HTTP/1.0\r\n{}\r\n", "X:\r\n".repeat(count));
    assert_eq!(check(&fields(2)), Ok(Some(26)));
    assert_eq!(check(&fields(3)), Err((431, "too-many-fields")));
    assert_eq!(check(fields(3).trim_end()), Ok(None));
}

#[test]
fn the_usual_limits() {
    let long = "x".repeat(200_000);
    let many = "X: y\r\n".repeat(1000);
    for (request, refusal) in [
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
            (431, "too-many-fields"),
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
            (431, "head-too-long"),
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"),
            (431, "head-too-long"),
        ),
        (
            format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
            (414, "target-too-long"),
        ),
        (format!("GET /{long}"), (414, "target-too-long")),
        (long.clone(), (501, "method-too-long")),
    ] {
        assert_eq!(verdict(request.as_bytes()), Err(refusal));
    }
}

#[test]
fn a_connection_field_names_a_limited_number_of_fields() {
    let request = |count: usize| {
        let options = "x,".repeat(count);
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {options}close\r\n\r\n")
    };
    assert!(verdict(request(32).as_bytes()).is_ok());
    let refusal = Err((400, "too-many-connection-options"));
    assert_eq!(verdict(request(33).as_bytes()), refusal);
}
