//! Answers of our own.

use scaledapp_http1::write_answer;

#[test]
fn whole_answers() {
    let mut out = Vec::new();
    write_answer(&mut out, 503, "no-upstream", Some(2), false, false, false);
    write_answer(&mut out, 405, "connect", None, false, true, false);
    write_answer(&mut out, 400, "bare-lf", None, false, true, true);
    write_answer(&mut out, 502, "upstream-failed", None, true, true, true);
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
        \r\n";
    assert_eq!(String::from_utf8(out).unwrap(), wanted);
}
