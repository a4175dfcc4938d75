//! The head that goes upstream (RFC 9110 section 7.6, RFC 9112 section 3.2;
//! `X-Forwarded-*` as the field has it): what is kept, what ends here, and what
//! is said about the client.
//!
//! Decides no upstream. Writes no `Via`, although RFC 9110 section 7.6.3 asks a
//! gateway for it: common servers stop compressing for requests that have one.

use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;

use super::{Text, put_field, put_framing};
use crate::framing::Version;
use crate::known::Known;
use crate::request::Request;

/// What the proxy knows of the client and adds.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client's address, or that of the proxy before.
    pub client: IpAddr,
    /// `http` or `https`, as the client spoke.
    pub scheme: &'a str,
    /// Whose word counts.
    pub trust: Trust,
    /// Used where the request has none, and at the edge also where its own is
    /// not 1 to 128 visible ASCII bytes.
    pub request_id: &'a str,
}

/// Whether what a client says about itself counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Clients are anybody: `X-Forwarded-Proto` and `-Host` are replaced, and
    /// `Forwarded`, `X-Real-IP` and other `X-Forwarded-` fields are dropped.
    /// `X-Forwarded-For` keeps what it had, with the client's address last.
    Edge,
    /// Clients are proxies of ours: what they say is kept.
    Behind,
}

const REQUEST_ID_BYTES: usize = 128;

impl<'b> Request<'b> {
    /// The id that [`write_request`] sends on, for the log.
    pub fn request_id<'a>(&self, origin: &Origin<'a>) -> &'a [u8]
    where
        'b: 'a,
    {
        let own = self.section.first(Known::RequestId).filter(|id| {
            let sane = id.len() <= REQUEST_ID_BYTES && id.iter().all(u8::is_ascii_graphic);
            !id.is_empty() && (sane || origin.trust == Trust::Behind)
        });
        own.unwrap_or(origin.request_id.as_bytes())
    }
}

/// Appends the canonical head to send upstream: always HTTP/1.1, exactly one
/// `Host`, nothing of the hop before, the framing anew.
///
/// `fallback_host` is for requests of version 1.0 that name no host. Texts in
/// `origin` and `fallback_host` are written as they are: they must be the
/// caller's own, not a peer's.
pub fn write_request(
    out: &mut Vec<u8>,
    request: &Request<'_>,
    origin: &Origin<'_>,
    fallback_host: &str,
) {
    // Room for what is added, so that a head costs one allocation at most.
    out.reserve(request.head_len + 256);
    put_request_line(out, request);
    let nameless = request.host.is_empty() && request.version == Version::Http10;
    let host = if nameless {
        fallback_host.as_bytes()
    } else {
        request.host
    };
    put_field(out, b"Host", host);
    for (known, name, value) in request.section.iter() {
        if is_passed_on(known, request, origin.trust) {
            put_field(out, name, value);
        }
    }
    put_framing(out, request.framing);
    if request.upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\n");
    }
    put_origin(out, request, origin);
    out.extend_from_slice(b"\r\n");
}

fn put_request_line(out: &mut Vec<u8>, request: &Request<'_>) {
    out.extend_from_slice(request.method);
    out.push(b' ');
    match (request.method, request.path) {
        // RFC 9112 section 3.2.4: the server itself is meant.
        (b"OPTIONS", b"") => out.push(b'*'),
        (_, b"" | [b'?', ..]) => out.push(b'/'),
        _ => {}
    }
    out.extend_from_slice(request.path);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

fn is_passed_on(known: Known, request: &Request<'_>, trust: Trust) -> bool {
    match known {
        Known::Other => true,
        // RFC 9110 section 10.1.1: an expectation of version 1.0 is ignored,
        // which an upstream that is spoken to in 1.1 could not know.
        Known::Expect => request.version == Version::Http11,
        Known::Upgrade => request.upgrade,
        Known::Forwarded | Known::Claim => trust == Trust::Behind,
        // Written anew.
        Known::Host
        | Known::ContentLength
        | Known::TransferEncoding
        | Known::ForwardedFor
        | Known::ForwardedHost
        | Known::ForwardedProto
        | Known::RequestId
        // Of this hop.
        | Known::Connection
        | Known::KeepAlive
        | Known::Nominated
        | Known::NotExecuted
        | Known::ProxyAuthenticate
        | Known::ProxyAuthorization
        | Known::ProxyConnection
        | Known::Te
        | Known::Trailer
        // Only harm.
        | Known::Proxy
        | Known::Shadow => false,
    }
}

fn put_origin(out: &mut Vec<u8>, request: &Request<'_>, origin: &Origin<'_>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    if put_list(out, request, Known::ForwardedFor) {
        out.extend_from_slice(b", ");
    }
    // Writing into memory cannot fail. Clients of a socket for both families
    // are shown as what they are.
    let _ = write!(Text(out), "{}", origin.client.to_canonical());
    out.extend_from_slice(b"\r\n");
    let scheme = origin.scheme.as_bytes();
    put_claim(out, request, origin.trust, Known::ForwardedProto, scheme);
    put_claim(
        out,
        request,
        origin.trust,
        Known::ForwardedHost,
        request.host,
    );
    put_field(out, b"X-Request-Id", request.request_id(origin));
}

fn put_claim(out: &mut Vec<u8>, request: &Request<'_>, trust: Trust, known: Known, ours: &[u8]) {
    let start = out.len();
    out.extend_from_slice(match known {
        Known::ForwardedProto => b"X-Forwarded-Proto: ",
        _ => b"X-Forwarded-Host: ",
    });
    if trust == Trust::Edge || !put_list(out, request, known) {
        if ours.is_empty() {
            out.truncate(start);
            return;
        }
        out.extend_from_slice(ours);
    }
    out.extend_from_slice(b"\r\n");
}

/// All values of a field in one line; says whether there were any.
fn put_list(out: &mut Vec<u8>, request: &Request<'_>, known: Known) -> bool {
    let mut any = false;
    for value in request.section.all(known).filter(|value| !value.is_empty()) {
        if any {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(value);
        any = true;
    }
    any
}
