//! The head that goes upstream (RFC 9110 section 7.6, RFC 9112 section 3.2;
//! `X-Forwarded-*` as the field has it): what is kept, what ends here, and what
//! is said about the client.
//!
//! Decides no upstream. Writes no `Via`, although RFC 9110 section 7.6.3 asks a
//! gateway for it: common servers stop compressing for requests that have one.

use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;

use super::put::{Text, put_field, put_framing};
use crate::framing::Version;
use crate::known::Known;
use crate::request::Request;

/// What the proxy knows of the client and adds.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The address of the sender: the client, or the proxy before us.
    pub peer: IpAddr,
    /// The client as far as it is known, see [`Request::source`]; `peer` where the
    /// peer is not believed.
    pub source: IpAddr,
    /// `http` or `https`, as the peer spoke.
    pub scheme: &'a str,
    /// Whether what the sender says about its client counts.
    pub trust: Trust,
    /// Used where that of the request does not count.
    pub request_id: &'a str,
    /// Shows the next hop, if it is one of ours, that we are, too.
    pub token: Option<&'a str>,
}

/// Whether what the sender of a request says about its client counts.
///
/// In all cases `X-Forwarded-For` keeps what it had, with the sender's address last:
/// common gateways append, and applications count from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The sender is not trusted. `X-Forwarded-Proto`, `-Host`, `X-Real-IP` and `X-Request-Id` are
    /// replaced; `Forwarded`, other `X-Forwarded-` fields and others that only a proxy
    /// can say are dropped.
    Edge,
    /// The sender is a proxy that the user has named. What it says is kept, and added
    /// where it says nothing; `X-Real-IP` follows from the list of `X-Forwarded-For`,
    /// because many proxies set only that and let a client's `X-Real-IP` through. A
    /// `X-Request-Id` counts if it is 1 to 128 visible ASCII bytes.
    Proxy,
    /// The sender is a proxy of ours: all that it says is kept as it is.
    Behind,
}

impl Trust {
    /// Whether the sender is believed at all.
    pub fn believes(self) -> bool {
        self != Self::Edge
    }
}

const REQUEST_ID_BYTES: usize = 128;

impl<'b> Request<'b> {
    /// The id that [`write_request`] sends on, for the log.
    pub fn request_id<'a>(&self, origin: &Origin<'a>) -> &'a [u8]
    where
        'b: 'a,
    {
        let own = self.section.first(Known::RequestId).filter(|id| {
            let is_sane = || id.len() <= REQUEST_ID_BYTES && id.iter().all(u8::is_ascii_graphic);
            !id.is_empty()
                && match origin.trust {
                    Trust::Edge => false,
                    Trust::Proxy => is_sane(),
                    Trust::Behind => true,
                }
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
    put_connection(out, request.upgrade, origin.token);
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

/// The token is for one hop, and said to be: a dispatcher that does not know it takes
/// it away, as it does with every field that `Connection` names.
fn put_connection(out: &mut Vec<u8>, upgrade: bool, token: Option<&str>) {
    let options: &[u8] = match (upgrade, token) {
        (false, None) => return,
        (true, None) => b"upgrade",
        (false, Some(_)) => b"Scaledapp-Token",
        (true, Some(_)) => b"upgrade, Scaledapp-Token",
    };
    put_field(out, b"Connection", options);
    if let Some(token) = token {
        put_field(out, b"Scaledapp-Token", token.as_bytes());
    }
}

fn is_passed_on(known: Known, request: &Request<'_>, trust: Trust) -> bool {
    match known {
        Known::Other => true,
        // RFC 9110 section 10.1.1: an expectation of version 1.0 is ignored,
        // which an upstream that is spoken to in 1.1 could not know.
        Known::Expect => request.version == Version::Http11,
        Known::Upgrade => request.upgrade,
        Known::Forwarded | Known::Claim => trust.believes(),
        Known::RealIp => trust == Trust::Behind,
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
    put_address(out, origin.peer);
    if origin.trust != Trust::Behind {
        out.extend_from_slice(b"X-Real-IP: ");
        put_address(out, origin.source);
    }
    let ours = origin.scheme.as_bytes();
    let scheme = match origin.trust {
        Trust::Edge => ours,
        // Looked for only where it is needed: our own proxies say it the usual way.
        _ if request.section.first(Known::ForwardedProto).is_some() => ours,
        _ => request.scheme_otherwise().unwrap_or(ours),
    };
    put_claim(out, request, origin.trust, Known::ForwardedProto, scheme);
    let host = request.host;
    put_claim(out, request, origin.trust, Known::ForwardedHost, host);
    put_field(out, b"X-Request-Id", request.request_id(origin));
}

/// Ends the line. Clients of a socket for both families are shown as what they are.
fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    // Writing into memory cannot fail.
    let _ = write!(Text(out), "{}", address.to_canonical());
    out.extend_from_slice(b"\r\n");
}

fn put_claim(out: &mut Vec<u8>, request: &Request<'_>, trust: Trust, known: Known, ours: &[u8]) {
    let start = out.len();
    out.extend_from_slice(match known {
        Known::ForwardedProto => b"X-Forwarded-Proto: ",
        _ => b"X-Forwarded-Host: ",
    });
    if !trust.believes() || !put_list(out, request, known) {
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
