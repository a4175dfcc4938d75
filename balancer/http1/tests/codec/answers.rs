//! Answers of the proxy itself.

use scaledapp_http1::{Elsewhere, is_http2, write_answer, write_http2_refusal};

#[test]
fn answers_are_complete() {
    let mut out = Vec::new();
    write_answer(&mut out, 503, "no-upstream", Some(2), None, false, false);
    write_answer(&mut out, 405, "connect", None, None, true, false);
    write_answer(&mut out, 400, "bare-lf", None, None, true, true);
    for elsewhere in [Elsewhere::NotExecuted, Elsewhere::Interrupted] {
        let elsewhere = Some(elsewhere);
        write_answer(
            &mut out,
            502,
            "upstream-failed",
            None,
            elsewhere,
            true,
            true,
        );
    }
    let wanted = "HTTP/1.1 503 Service Unavailable\r\n\
        Content-Type: text/plain\r\n\
        Content-Length: 12\r\n\
        Retry-After: 2\r\n\
        \r\n\
        no-upstream\n\
        HTTP/1.1 405 Method Not Allowed\r\n\
        Content-Type: text/plain\r\n\
        Content-Length: 8\r\n\
        Allow: GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE\r\n\
        Connection: close\r\n\
        \r\n\
        connect\n\
        HTTP/1.1 400 Bad Request\r\n\
        Content-Type: text/plain\r\n\
        Content-Length: 8\r\n\
        Connection: close\r\n\
        \r\n\
        HTTP/1.1 502 Bad Gateway\r\n\
        Content-Type: text/plain\r\n\
        Content-Length: 16\r\n\
        Scaledapp-Not-Executed: retry\r\n\
        Connection: close\r\n\
        \r\n\
        HTTP/1.1 502 Bad Gateway\r\n\
        Content-Type: text/plain\r\n\
        Content-Length: 16\r\n\
        Scaledapp-Interrupted: retry\r\n\
        Connection: close\r\n\
        \r\n";
    assert_eq!(String::from_utf8(out).unwrap(), wanted);
}

#[test]
fn an_http2_client_is_refused_in_its_own_protocol() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    assert!(is_http2(preface) && !is_http2(&preface[..15]));
    assert!(!is_http2(b"PRI * HTTP/1.1\r\n"));
    let mut out = Vec::new();
    write_http2_refusal(&mut out, "use HTTP/1.1");
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let goaway = b"\0\0\x14\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0duse HTTP/1.1";
    assert_eq!(out, [&settings[..], goaway].concat());
}
