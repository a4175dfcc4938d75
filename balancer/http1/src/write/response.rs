//! The head that is sent to the client (RFC 9110 section 7.6, RFC 9112 sections 6 and 9):
//! how the end of its body is marked, and whether the connection continues.
//!
//! Interim responses must not be sent to clients of version 1.0 (RFC 9110 section 15.2);
//! the caller decides that.

use alloc::vec::Vec;

use super::put::{put_field, put_framing, put_length, put_number};
use crate::framing::{Framing, Version};
use crate::known::Known;
use crate::response::Response;
use crate::status::phrase;

/// How the client is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// The version of the client.
    pub version: Version,
    /// The connection ends after this response, which `Connection: close` announces.
    pub close: bool,
    /// The client has version 1.0 and has sent `Connection: keep-alive`; if the connection
    /// is kept, the response has the same field.
    pub keep_alive: bool,
    /// The seconds in `Strict-Transport-Security` (RFC 6797). The field is added only if
    /// the server has not sent it itself.
    pub hsts: Option<u64>,
}

/// How the body is sent to the client. A client of version 1.0 knows no chunks, so for it a
/// body without a length must end with the connection.
pub fn downstream_framing(response: Framing, client: Version) -> Framing {
    match (response, client) {
        (Framing::None | Framing::Length(_), _) => response,
        (Framing::Chunked | Framing::UntilClose, Version::Http10) => Framing::UntilClose,
        (Framing::Chunked | Framing::UntilClose, Version::Http11) => Framing::Chunked,
    }
}

/// Appends the canonical head for the client: no field of the previous hop, the framing as
/// given, and everything else, such as `Server` and `Date`, unchanged.
///
/// If there is no body by rule (`HEAD`, 304), a `Content-Length` is kept as information.
pub fn write_response(
    out: &mut Vec<u8>,
    response: &Response<'_>,
    framing: Framing,
    to: &Downstream,
) {
    out.reserve(response.head_len + 128);
    put_status_line(out, response.status, response.reason);
    for (known, name, value) in response.section.iter() {
        if is_passed_on(known, response.status) {
            put_field(out, name, value);
        }
    }
    match (framing, response.length) {
        (Framing::None, Some(length)) if may_tell_length(response.status) => {
            put_length(out, length);
        }
        _ => put_framing(out, framing),
    }
    put_connection(out, response, framing, *to);
    if let Some(seconds) = to.hsts
        && response.status >= 200
        && response.field("strict-transport-security").is_none()
    {
        out.extend_from_slice(b"Strict-Transport-Security: max-age=");
        put_number(out, seconds);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Adds a field line to the complete head at the end of `out`.
pub fn append_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.truncate(out.len().saturating_sub(b"\r\n".len()));
    put_field(out, name.as_bytes(), value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(super) fn put_status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    put_number(out, u64::from(status));
    out.push(b' ');
    if reason.is_empty() {
        out.extend_from_slice(phrase(status).as_bytes());
    } else {
        out.extend_from_slice(reason);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether an answer may have a `Content-Length`: RFC 9110 section 8.6 forbids it for 1xx
/// and 204.
const fn may_tell_length(status: u16) -> bool {
    status >= 200 && status != 204
}

/// Whether `Upgrade` is passed on: 101 confirms an upgrade, and 426 names the required
/// protocol (RFC 9110 section 15.5.22).
const fn tells_upgrade(status: u16) -> bool {
    matches!(status, 101 | 426)
}

fn is_passed_on(known: Known, status: u16) -> bool {
    match known {
        Known::Upgrade => tells_upgrade(status),
        Known::ContentLength
        | Known::TransferEncoding
        | Known::Connection
        | Known::Interrupted
        | Known::KeepAlive
        | Known::Nominated
        | Known::NotExecuted
        | Known::ProxyAuthenticate
        | Known::ProxyAuthorization
        | Known::ProxyConnection
        | Known::Repeated
        | Known::Te
        | Known::Token
        | Known::Trailer
        | Known::Worker => false,
        // Fields of requests have no special meaning here.
        Known::Other
        | Known::Claim
        | Known::Expect
        | Known::Forwarded
        | Known::ForwardedFor
        | Known::ForwardedHost
        | Known::ForwardedProto
        | Known::Host
        | Known::Proxy
        | Known::RealIp
        | Known::RequestId
        | Known::Shadow => true,
    }
}

fn put_connection(out: &mut Vec<u8>, response: &Response<'_>, framing: Framing, to: Downstream) {
    let upgrade =
        tells_upgrade(response.status) && response.section.first(Known::Upgrade).is_some();
    // An interim response does not decide about the connection.
    let last = response.status >= 200;
    let close = last && (to.close || framing == Framing::UntilClose);
    let keep_alive = last && to.keep_alive && to.version == Version::Http10;
    let options = match (close, keep_alive, upgrade) {
        (true, _, true) => "close, upgrade",
        (true, _, false) => "close",
        (false, true, true) => "keep-alive, upgrade",
        (false, true, false) => "keep-alive",
        (false, false, true) => "upgrade",
        (false, false, false) => return,
    };
    put_field(out, b"Connection", options.as_bytes());
}
