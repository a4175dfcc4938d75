//! Responses: which are usable, how their bodies end, and what is sent to the client.

use scaledapp_http1::{
    Asked, Downstream, Elsewhere, Fields, Framing, Limits, Malformed, REASONS, Response, Version,
    downstream_framing, parse_response, unfold, write_response,
};

const GET: Asked = Asked {
    head: false,
    upgrade: false,
};
const HEAD: Asked = Asked { head: true, ..GET };
const UPGRADE: Asked = Asked {
    upgrade: true,
    ..GET
};

fn with<T>(head: &str, to: Asked, look: impl FnOnce(&Response<'_>) -> T) -> T {
    let mut fields = Fields::default();
    let response = parse_response(head.as_bytes(), &mut fields, &Limits::answers(), to);
    look(&response.unwrap().unwrap())
}

fn malformed(head: &[u8], to: Asked) -> Option<&'static str> {
    let mut fields = Fields::default();
    let result = parse_response(head, &mut fields, &Limits::answers(), to);
    result.err().map(|malformed| malformed.reason)
}

const MALFORMED: &[(&[u8], &str)] = &[
    (b"SSH-2.0-OpenSSH\r\n\r\n", "status-line"),
    (b"SSH-2.0", "status-line"),
    (b"HTTP/2", "status-line"),
    (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "status-line"),
    (b"HTTP/1.2 200 OK\r\n\r\n", "status-line"),
    (b"http/1.1 200 OK\r\n\r\n", "status-line"),
    (b"HTTP/1.1  200 OK\r\n\r\n", "status-line"),
    (b"HTTP/1.1 20 OK\r\n\r\n", "status-line"),
    (b"HTTP/1.1 2000 OK\r\n\r\n", "status-line"),
    (b"HTTP/1.1 +20 OK\r\n\r\n", "status-line"),
    (b"HTTP/1.1 099 OK\r\n\r\n", "status-line"),
    (b"HTTP/1.1 200\tOK\r\n\r\n", "status-line"),
    (b"HTTP/1.1 200 O\0K\r\n\r\n", "status-line"),
    (b"HTTP/1.1 200 O\rK\r\n\r\n", "status-line"),
    (b"HTTP/1.1 200 OK\r\nX: a\rb\n\n", "field-value"),
    (b"HTTP/1.1 200 OK\r\nX: a\r\r\n\r\n", "field-value"),
    (
        b"HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n",
        "length-and-coding",
    ),
    (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "line-folding"),
    (b"HTTP/1.1 200 OK\r\nX\r\n b: c\r\n\r\n", "field-name"),
    (b"HTTP/1.1 200 OK\r\n X: a\r\n\r\n", "line-folding"),
    (b"HTTP/1.1 200 OK\r\n: a\r\n\r\n", "field-name"),
    (b"HTTP/1.1 200 OK\r\nX \r\n\r\n", "field-name"),
    (b"HTTP/1.1 200 OK\r\nX Y : a\r\n\r\n", "field-name"),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
        "field-name",
    ),
    (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding\t: chunked\r\n\r\n",
        "field-name",
    ),
    (
        b"HTTP/1.1 200 OK\r\nConnection : close\r\n\r\n",
        "field-name",
    ),
    (b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", "field-value"),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "length-and-coding",
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "length-repeated",
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\nContent-Length: 1, 2\r\n\r\n",
        "length-repeated",
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1,\r\n\r\n", "length"),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length:\r\n\r\n",
        "length",
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "length-and-coding",
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        "coding",
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked,\r\n\r\n",
        "coding",
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
        "coding-unknown",
    ),
    (
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "coding-in-http10",
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "length"),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "coding-unknown",
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "coding",
    ),
    (
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "coding-in-http10",
    ),
    (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n",
        "length",
    ),
    (
        b"HTTP/1.1 100 Continue\r\nContent-Length: 1\r\n\r\n",
        "interim-with-body",
    ),
    (
        b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        "interim-with-body",
    ),
    (b"HTTP/1.0 100 Continue\r\n\r\n", "interim-with-body"),
    (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\n\r\n",
        "switching-unasked",
    ),
];

#[test]
fn malformed_responses() {
    for (head, reason) in MALFORMED {
        let name = head.escape_ascii();
        assert_eq!(malformed(head, GET), Some(*reason), "{name}");
        assert!(REASONS.contains(reason), "{reason}");
    }
    let to_nothing = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    assert_eq!(malformed(to_nothing, UPGRADE), Some("switching-to-nothing"));
    let long = format!("HTTP/1.1 200 {}", "x".repeat(300_000));
    assert_eq!(malformed(long.as_bytes(), GET), Some("head-too-long"));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X:\r\n".repeat(1001));
    assert_eq!(malformed(many.as_bytes(), GET), Some("too-many-fields"));
}

#[test]
fn every_prefix_waits_for_more() {
    let head = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\n";
    for end in 0..head.len() {
        let mut fields = Fields::default();
        let result = parse_response(&head[..end], &mut fields, &Limits::default(), GET);
        assert!(matches!(result, Ok(None)), "{end}");
    }
}

#[test]
fn the_fields_say_how_the_body_ends_and_whether_the_connection_stays_open() {
    let length = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (line, fields, to, framing, lives) in [
        ("1.1 200 OK", length, GET, Framing::Length(5), true),
        (
            "1.1 200 OK",
            "Content-Length: 0\r\n",
            GET,
            Framing::Length(0),
            true,
        ),
        ("1.1 200 OK", chunked, GET, Framing::Chunked, true),
        ("1.1 200 OK", "", GET, Framing::UntilClose, false),
        (
            "1.1 200 OK",
            "Content-Length: 5\r\ncontent-length: 05\r\nContent-Length: 5, 5\r\n",
            GET,
            Framing::Length(5),
            true,
        ),
        (
            "1.1 200 OK",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: Chunked, chunked\r\n",
            GET,
            Framing::Chunked,
            true,
        ),
        ("1.1 205 Reset Content", "", GET, Framing::UntilClose, false),
        ("1.1 600 Odd", length, GET, Framing::Length(5), true),
        ("1.1 999 Odd", length, GET, Framing::Length(5), true),
        (
            "1.1 200 OK",
            "Connection: close\r\nContent-Length: 5\r\n",
            GET,
            Framing::Length(5),
            false,
        ),
        ("1.0 200 OK", length, GET, Framing::Length(5), false),
        (
            "1.0 200 OK",
            "Connection: keep-alive\r\nContent-Length: 5\r\n",
            GET,
            Framing::Length(5),
            true,
        ),
        (
            "1.0 200 OK",
            "Connection: keep-alive\r\n",
            GET,
            Framing::UntilClose,
            false,
        ),
    ] {
        let head = format!("HTTP/{line}\r\n{fields}\r\n");
        let found = with(&head, to, |response| {
            assert_eq!(response.bodiless, response.framing == Framing::None);
            (response.framing, response.keep_alive)
        });
        assert_eq!(found, (framing, lives), "{head}");
    }
}

#[test]
fn whether_the_connection_stays_open_after_an_answer_without_a_body() {
    let length = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (line, fields, to, framing, lives) in [
        // A faulty server sends the body nevertheless.
        ("1.1 200 OK", length, HEAD, Framing::None, false),
        ("1.1 200 OK", chunked, HEAD, Framing::None, false),
        ("1.1 200 OK", "", HEAD, Framing::None, false),
        (
            "1.1 200 OK",
            "Content-Length: 0\r\n",
            HEAD,
            Framing::None,
            true,
        ),
        ("1.1 304 Not Modified", "", HEAD, Framing::None, true),
        ("1.1 204 No Content", "", GET, Framing::None, true),
        (
            "1.1 204 No Content",
            "Content-Length: 0\r\n",
            GET,
            Framing::None,
            true,
        ),
        // Bytes may follow that must not be taken for a response.
        ("1.1 204 No Content", length, GET, Framing::None, false),
        ("1.1 204 No Content", chunked, GET, Framing::None, false),
        ("1.1 304 Not Modified", "", GET, Framing::None, true),
        ("1.1 304 Not Modified", length, GET, Framing::None, false),
        ("1.1 304 Not Modified", chunked, GET, Framing::None, false),
    ] {
        let head = format!("HTTP/{line}\r\n{fields}\r\n");
        let found = with(&head, to, |response| {
            assert_eq!(response.bodiless, response.framing == Framing::None);
            (response.framing, response.keep_alive)
        });
        assert_eq!(found, (framing, lives), "{head}");
    }
}

#[test]
fn all_parts_are_found() {
    let head = "HTTP/1.0 404 Not  Found \r\nKeep-Alive: max=9, Timeout = 15\r\nServer: x\r\n\r\n";
    with(head, GET, |response| {
        assert_eq!(
            (response.status, response.reason),
            (404, &b"Not  Found"[..])
        );
        assert_eq!(response.version, Version::Http10);
        assert_eq!(response.keep_alive_timeout, Some(15));
        assert_eq!(response.head_len, head.len());
        assert_eq!(response.field("SERVER"), Some(&b"x"[..]));
        assert_eq!(response.fields().count(), 2);
        assert!(!response.interim && !response.switching);
    });
    for line in ["HTTP/1.1 200", "HTTP/1.1 200 "] {
        let status = with(&format!("{line}\r\n\r\n"), GET, |response| response.status);
        assert_eq!(status, 200, "{line:?}");
    }
    let timeout = |fields: &str| {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        with(&head, GET, |response| response.keep_alive_timeout)
    };
    assert_eq!(timeout("Keep-Alive: timeout=5\r\n"), Some(5));
    assert_eq!(timeout("Keep-Alive: timeout=x\r\n"), None);
    assert_eq!(timeout("Keep-Alive: 5\r\n"), None);
    assert_eq!(timeout(""), None);
}

#[test]
fn framing_for_each_kind_of_client() {
    for (framing, old, modern) in [
        (Framing::None, Framing::None, Framing::None),
        (Framing::Length(5), Framing::Length(5), Framing::Length(5)),
        (Framing::Chunked, Framing::UntilClose, Framing::Chunked),
        (Framing::UntilClose, Framing::UntilClose, Framing::Chunked),
    ] {
        assert_eq!(downstream_framing(framing, Version::Http10), old);
        assert_eq!(downstream_framing(framing, Version::Http11), modern);
    }
}

const PLAIN: Downstream = Downstream {
    version: Version::Http11,
    close: false,
    keep_alive: false,
    hsts: None,
};
const CLOSING: Downstream = Downstream {
    close: true,
    ..PLAIN
};
const OLD: Downstream = Downstream {
    version: Version::Http10,
    close: true,
    keep_alive: false,
    hsts: None,
};
const OLD_KEEPING: Downstream = Downstream {
    close: false,
    keep_alive: true,
    ..OLD
};

#[test]
fn only_a_502_that_says_so_may_go_elsewhere() {
    let says = "Content-Length: 0\r\nScaledapp-Not-Executed: ";
    let interrupted = "Content-Length: 0\r\nScaledapp-Interrupted: ";
    let not_executed = Some(Elsewhere::NotExecuted);
    for (line, fields, expected) in [
        ("502 Bad Gateway", format!("{says}retry\r\n"), not_executed),
        (
            "502 ",
            format!("Connection: Scaledapp-Not-Executed\r\n{says}retry\r\n"),
            not_executed,
        ),
        (
            "502 Bad Gateway",
            format!("{interrupted}retry\r\n"),
            Some(Elsewhere::Interrupted),
        ),
        ("500 ", format!("{interrupted}retry\r\n"), None),
        ("502 Bad Gateway", format!("{says}yes\r\n"), None),
        ("502 Bad Gateway", "Content-Length: 0\r\n".to_owned(), None),
        ("503 Service Unavailable", format!("{says}retry\r\n"), None),
        ("200 OK", format!("{says}retry\r\n"), None),
    ] {
        let head = format!("HTTP/1.1 {line}\r\n{fields}\r\n");
        let is_so = with(&head, GET, |response| {
            response.may_go_elsewhere() == expected
        });
        assert!(is_so, "{head}");
    }
}

#[test]
fn the_head_for_the_client_is_canonical() {
    let length = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let all = "Server: x\r\nDate: y\r\nConnection: X-Hop, close\r\nX-Hop: z\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: a\r\nProxy-Authenticate: Basic\r\nTrailer: X\r\nUpgrade: h2c\r\nScaledApp-Not-Executed: retry\r\nScaledApp-Interrupted: retry\r\nScaledapp-Repeated: 1\r\nSet-Cookie: a\r\nset-cookie:b\r\n\
        Content-Length: 05\r\n";
    let kept = "Server: x\r\nDate: y\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 5\r\n";
    let switch = "Connection: Upgrade\r\nUpgrade: echo\r\nX: y\r\n";
    for (line, fields, asked, to, sent) in [
        ("200 Fine", all, GET, PLAIN, format!("200 Fine\r\n{kept}")),
        ("200 ", length, GET, CLOSING, format!("200 OK\r\n{length}Connection: close\r\n")),
        ("299 ", length, GET, PLAIN, format!("299 \r\n{length}")),
        ("200 OK", chunked, GET, PLAIN, format!("200 OK\r\n{chunked}")),
        ("200 OK", "", GET, PLAIN, format!("200 OK\r\n{chunked}")),
        ("200 OK", chunked, GET, OLD, "200 OK\r\nConnection: close\r\n".to_owned()),
        // The body ends with the connection, even if the client asked to keep the
        // connection open.
        ("200 OK", "", GET, OLD_KEEPING, "200 OK\r\nConnection: close\r\n".to_owned()),
        ("200 OK", length, GET, OLD_KEEPING, format!("200 OK\r\n{length}Connection: keep-alive\r\n")),
        ("200 OK", length, HEAD, PLAIN, format!("200 OK\r\n{length}")),
        ("200 OK", chunked, HEAD, PLAIN, "200 OK\r\n".to_owned()),
        ("304 Not Modified", length, GET, PLAIN, format!("304 Not Modified\r\n{length}")),
        ("204 No Content", length, GET, PLAIN, "204 No Content\r\n".to_owned()),
        ("103 Early Hints", "Link: </a>\r\n", GET, CLOSING, "103 Early Hints\r\nLink: </a>\r\n".to_owned()),
        ("101 Switching Protocols", switch, UPGRADE, CLOSING, "101 Switching Protocols\r\nUpgrade: echo\r\nX: y\r\nConnection: upgrade\r\n".to_owned()),
        ("999 Odd", length, GET, PLAIN, format!("999 Odd\r\n{length}")),
        ("200 OK", "Content-Length: 5\r\nContent-Length: 5,5\r\n", GET, PLAIN, format!("200 OK\r\n{length}")),
        ("200 OK", "Access-Control-Allow-Origin \t: *\r\nContent-Length: 5\r\n", GET, PLAIN,
            format!("200 OK\r\nAccess-Control-Allow-Origin: *\r\n{length}")),
        ("200 OK", "Connection: X-Hop\r\nX-Hop : 1\r\nContent-Length: 5\r\n", GET, PLAIN, format!("200 OK\r\n{length}")),
        ("426 Upgrade Required", "Upgrade: a\r\nContent-Length: 0\r\n", GET, CLOSING,
            "426 Upgrade Required\r\nUpgrade: a\r\nContent-Length: 0\r\nConnection: close, upgrade\r\n".to_owned()),
    ] {
        let head = format!("HTTP/1.1 {line}\r\n{fields}\r\n");
        let written = with(&head, asked, |response| {
            let mut out = Vec::new();
            let framing = downstream_framing(response.framing, to.version);
            write_response(&mut out, response, framing, &to);
            String::from_utf8(out).unwrap()
        });
        assert_eq!(written, format!("HTTP/1.1 {sent}\r\n"), "{head}");
    }
}

#[test]
fn streams_are_recognised() {
    let is_stream = |fields: &str| {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        with(&head, GET, |response| {
            assert_eq!(response.status, 200);
            response.is_stream()
        })
    };
    for fields in [
        "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
        "content-type: Text/Event-Stream; charset=utf-8\r\n",
        "Content-Type: multipart/x-mixed-replace;boundary=a\r\n",
        "Content-Type: application/x-ndjson\r\n",
        "Content-Type: text/plain\r\nX-Accel-Buffering: no\r\n",
    ] {
        assert!(is_stream(fields), "{fields}");
    }
    for fields in [
        "Content-Type: text/event-stream\r\nContent-Length: 9\r\n",
        "Content-Type: text/event-streams\r\n",
        "Content-Type: text/html\r\nX-Accel-Buffering: yes\r\n",
        "",
    ] {
        assert!(!is_stream(fields), "{fields}");
    }
}

#[test]
fn the_log_can_name_the_field_and_the_rule() {
    for (head, line, rule) in [
        ("Content-Length: 1\r\nX Y: secret\r\n", "X Y", "5.1"),
        ("Set-Cookie: a=\u{1}secret\r\n", "Set-Cookie", "5.5"),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", "", "8.6"),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n");
        let mut fields = Fields::default();
        let result = parse_response(head.as_bytes(), &mut fields, &Limits::answers(), GET);
        let malformed = result.unwrap_err();
        assert!(malformed.rule().contains(rule), "{}", malformed.rule());
        assert_eq!(fields.refused(head.as_bytes()), line.as_bytes());
    }
    for reason in REASONS {
        assert_ne!(Malformed { reason }.rule(), *reason);
    }
    let long = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", "\u{e4}".repeat(1000));
    let mut fields = Fields::default();
    let result = parse_response(long.as_bytes(), &mut fields, &Limits::answers(), GET);
    assert!(result.is_err());
    assert_eq!(fields.refused(long.as_bytes()).len(), 64);
}

#[test]
fn lines_may_end_with_lf_alone_and_then_the_connection_ends() {
    for (head, status) in [
        (&b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx"[..], 200),
        (b"HTTP/1.1 404 \r\nContent-Length: 1\nX: y\r\n\r\nx", 404),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\nx", 200),
        (b"HTTP/1.1 200\r\nX: y\n\r\nx", 200),
    ] {
        let mut fields = Fields::default();
        let limits = Limits::default();
        let to = Asked::default();
        let response = parse_response(head, &mut fields, &limits, to);
        let response = response.unwrap().unwrap();
        assert_eq!(response.status, status);
        assert_eq!(response.head_len, head.len() - 1);
        assert!(!response.keep_alive, "{}", head.escape_ascii());
        // A part of the head is incomplete, but not a fault.
        for end in 0..response.head_len {
            let mut fields = Fields::default();
            let part = parse_response(&head[..end], &mut fields, &limits, to);
            assert_eq!(part.map(|head| head.is_none()), Ok(true));
        }
    }
}

#[test]
fn a_folded_line_is_joined_unless_it_frames_the_message() {
    for (head, joined) in [
        ("X: a\r\n b\r\n\r\n", Some("X: a   b\r\n\r\n")),
        (
            "X: a\r\n\tb\r\n  c\r\nY: d\r\n\r\n",
            Some("X: a  \tb    c\r\nY: d\r\n\r\n"),
        ),
        ("X: a\n b\n\n", Some("X: a  b\n\n")),
        ("X:\r\n \r\n\r\n", Some("X:   \r\n\r\n")),
        // A line after the head is not part of it.
        (
            "X: a\r\n b\r\n\r\n c\r\n d",
            Some("X: a   b\r\n\r\n c\r\n d"),
        ),
        // The end of the line has not arrived yet.
        ("X: a\r\n b", None),
        (" X: a\r\n\r\n", None),
        ("Content-Length: 1\r\n 2\r\n\r\n", None),
        ("transfer-encoding:\r\n chunked\r\n\r\n", None),
        ("Connection: a,\r\n close\r\n\r\n", None),
        ("X: a\r\nContent-Length: 1\r\n\t\r\n\r\n", None),
        ("X: a\r\n\r\n b\r\n", None),
    ] {
        let start = "HTTP/1.1 200 OK\r\n";
        let mut bytes = format!("{start}{head}").into_bytes();
        let is_changed = unfold(&mut bytes);
        assert_eq!(is_changed, joined.is_some(), "{head:?}");
        let expected = format!("{start}{}", joined.unwrap_or(head));
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
    // If a line cannot be joined, the lines before it are joined nevertheless, and the head
    // is refused.
    let mut bytes = b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 1\r\n 2\r\n\r\n".to_vec();
    assert!(unfold(&mut bytes));
    let mut fields = Fields::default();
    let refused = parse_response(&bytes, &mut fields, &Limits::default(), Asked::default());
    assert!(refused.unwrap_err().is_folded());
    assert!(!unfold(&mut bytes));
}
