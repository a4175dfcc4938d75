//! Answers of the proxy itself, for requests that no upstream has answered.

use alloc::vec::Vec;

use super::put::{put_field, put_length, put_number};
use super::response::put_status_line;

use crate::grpc::{GrpcStatus, MEDIA_TYPE};
use crate::response::{Elsewhere, RETRY};

/// Appends a permanent redirect (308, RFC 9110 section 15.4.9: the client repeats the
/// method) without a body. `location` is written unchanged, so it must contain only bytes
/// that a field's value may contain.
pub fn write_redirect(out: &mut Vec<u8>, location: &[u8], close: bool) {
    put_status_line(out, 308, b"");
    put_field(out, b"Location", location);
    put_length(out, 0);
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a complete answer whose body is `text` and a line end. The body is left out (but
/// its length is given) if `head` says that the answer is to a `HEAD` request.
///
/// `retry_after` is in seconds. `elsewhere` tells a ScaledApp proxy in front that the
/// request may be repeated at another server.
pub fn write_answer(
    out: &mut Vec<u8>,
    status: u16,
    text: &str,
    retry_after: Option<u32>,
    elsewhere: Option<Elsewhere>,
    close: bool,
    head: bool,
) {
    put_status_line(out, status, b"");
    out.extend_from_slice(b"Content-Type: text/plain\r\n");
    put_length(out, text.len() as u64 + 1);
    put_advice(out, status, retry_after);
    match elsewhere {
        None => {}
        Some(Elsewhere::NotExecuted) => put_field(out, b"Scaledapp-Not-Executed", RETRY),
        Some(Elsewhere::Interrupted) => put_field(out, b"Scaledapp-Interrupted", RETRY),
    }
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !head {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
}

/// A page of the user as the body of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The value of `Content-Type`, written unchanged.
    pub content_type: &'a str,
    /// The page.
    pub body: &'a [u8],
    /// The text that the answer would have without a page, for `Scaledapp-Reason`.
    pub reason: &'a str,
}

/// As [`write_answer`], with a page as the body.
pub fn write_page(
    out: &mut Vec<u8>,
    status: u16,
    page: Page<'_>,
    retry_after: Option<u32>,
    close: bool,
    head: bool,
) {
    put_status_line(out, status, b"");
    put_field(out, b"Content-Type", page.content_type.as_bytes());
    put_length(out, page.body.len() as u64);
    put_field(out, b"Scaledapp-Reason", page.reason.as_bytes());
    put_advice(out, status, retry_after);
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !head {
        out.extend_from_slice(page.body);
    }
}

/// What the client can do instead, or when.
fn put_advice(out: &mut Vec<u8>, status: u16, retry_after: Option<u32>) {
    if status == 405 {
        // RFC 9110 section 15.5.6 requires `Allow`. These are the common methods; of known
        // methods only CONNECT is refused.
        out.extend_from_slice(b"Allow: GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE\r\n");
    }
    if let Some(seconds) = retry_after {
        out.extend_from_slice(b"Retry-After: ");
        put_number(out, u64::from(seconds));
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends a complete answer to a call: a head without a body, in the form of HTTP/1. Over HTTP/2
/// it becomes what gRPC calls "Trailers-Only". `message` must need no percent-encoding: visible
/// ASCII without `%`, and spaces.
pub fn write_grpc_answer(out: &mut Vec<u8>, status: GrpcStatus, message: &str, close: bool) {
    put_status_line(out, 200, b"");
    put_field(out, b"Content-Type", MEDIA_TYPE);
    put_field(out, b"Content-Length", b"0");
    out.extend_from_slice(b"Grpc-Status: ");
    put_number(out, u64::from(status.0));
    out.extend_from_slice(b"\r\n");
    put_field(out, b"Grpc-Message", message.as_bytes());
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
