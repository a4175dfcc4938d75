//! The head that is sent upstream (RFC 9110 section 7.6, RFC 9112 section 3.2;
//! `X-Forwarded-*` as they are commonly used): which fields are kept, which are dropped,
//! and which fields describe the client.
//!
//! The upstream is not chosen here. No `Via` is written, although RFC 9110 section 7.6.3
//! requires one of a gateway: common servers stop compressing for requests that have one.

use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;

use super::put::{Text, put_field, put_framing};
use crate::cookie;
use crate::framing::Version;
use crate::known::Known;
use crate::request::Request;

/// What the proxy knows about the client and adds to the request.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The address of the sender: the client, or the proxy in front of this one.
    pub peer: IpAddr,
    /// The client as far as it is known, see [`Request::source`]; the same as `peer` if the
    /// peer is not believed.
    pub source: IpAddr,
    /// `http` or `https`, as the peer connected.
    pub scheme: &'a str,
    /// Whether the sender's statements about its client are believed.
    pub trust: Trust,
    /// The request id that is used if the request's own id is not used.
    pub request_id: &'a str,
    /// The token that identifies this proxy to the next hop, if the next hop is another
    /// ScaledApp proxy.
    pub token: Option<&'a str>,
    /// The certificate that the sender has presented over TLS, as the value of `Client-Cert`
    /// (RFC 9440 section 2.2). A field of that name is not passed on from a client. From a
    /// believed proxy it is passed on, and this value is not added: the field describes the
    /// client of that proxy.
    pub client_certificate: Option<&'a str>,
    /// The name of a cookie that is for this proxy and is not sent upstream.
    pub drops_cookie: Option<&'a str>,
}

/// Whether the statements of a request's sender about its client are believed.
///
/// In all cases, `X-Forwarded-For` keeps its value and the sender's address is appended:
/// common gateways append, and applications count from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The sender is not trusted. `X-Forwarded-Proto`, `-Host`, `X-Real-IP` and
    /// `X-Request-Id` are replaced; `Forwarded`, other `X-Forwarded-` fields and other
    /// fields that only a proxy can set are dropped.
    Edge,
    /// The sender is a proxy that the user has named. Its statements are kept, and missing
    /// ones are added. `X-Real-IP` is derived from `X-Forwarded-For`, because many proxies
    /// set only the latter and let a client's `X-Real-IP` through. An `X-Request-Id` is
    /// kept if it has 1 to 128 visible ASCII bytes.
    Proxy,
    /// The sender is another ScaledApp proxy: all of its statements are kept unchanged.
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
    /// The id that [`write_request`] sends upstream, for the log.
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

/// Appends the canonical head that is sent upstream: always HTTP/1.1, exactly one `Host`,
/// no field of the previous hop, and new framing.
///
/// `fallback_host` is for requests of version 1.0 that name no host. Texts in `origin` and
/// `fallback_host` are written unchanged, so they must come from the caller and not from a
/// peer.
pub fn write_request(
    out: &mut Vec<u8>,
    request: &Request<'_>,
    origin: &Origin<'_>,
    fallback_host: &str,
) {
    // Room for what is added, so that a head usually costs at most one allocation.
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
        if !is_passed_on(known, request, origin.trust) {
            continue;
        }
        match origin.drops_cookie {
            Some(cookie) if name.eq_ignore_ascii_case(b"cookie") => {
                put_cookies(out, name, value, cookie);
            }
            _ => put_field(out, name, value),
        }
    }
    put_framing(out, request.framing);
    put_connection(out, request.upgrade, origin.token);
    put_origin(out, request, origin);
    out.extend_from_slice(b"\r\n");
}

/// Writes a `Cookie` field without the cookies called `dropped`; nothing if there are no others.
fn put_cookies(out: &mut Vec<u8>, name: &[u8], value: &[u8], dropped: &str) {
    let start = out.len();
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    if cookie::put_without(out, value, dropped) {
        out.extend_from_slice(b"\r\n");
    } else {
        out.truncate(start);
    }
}

fn put_request_line(out: &mut Vec<u8>, request: &Request<'_>) {
    out.extend_from_slice(request.method);
    out.push(b' ');
    match (request.method, request.path) {
        // RFC 9112 section 3.2.4: this means the server itself.
        (b"OPTIONS", b"") => out.push(b'*'),
        (_, b"" | [b'?', ..]) => out.push(b'/'),
        _ => {}
    }
    out.extend_from_slice(request.path);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Writes `Connection` and the token. The token is for one hop only, and `Connection` says so: a
/// dispatcher that does not know the field removes it, as it removes every field that
/// `Connection` names.
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
        // RFC 9110 section 10.1.1: an expectation in version 1.0 is ignored. The upstream,
        // which gets a request of version 1.1, could not know that.
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
        // Only for this hop.
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
        | Known::Worker
        // Harmful and of no use.
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
        // Other fields are searched for the scheme only if `X-Forwarded-Proto` is missing:
        // ScaledApp proxies send `X-Forwarded-Proto`.
        _ if request.section.first(Known::ForwardedProto).is_some() => ours,
        _ => request.scheme_otherwise().unwrap_or(ours),
    };
    put_claim(out, request, origin.trust, Known::ForwardedProto, scheme);
    let host = request.host;
    put_claim(out, request, origin.trust, Known::ForwardedHost, host);
    put_field(out, b"X-Request-Id", request.request_id(origin));
    if let Some(certificate) = origin.client_certificate {
        let is_told = origin.trust.believes() && request.field("client-cert").is_some();
        if !is_told {
            put_field(out, b"Client-Cert", certificate.as_bytes());
        }
    }
}

/// Writes an address and ends the line. IPv4 clients of a dual-stack socket are written as IPv4
/// addresses.
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

/// Writes all values of a field in one line; returns whether there were any.
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
