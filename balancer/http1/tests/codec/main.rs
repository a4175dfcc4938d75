//! The codec from outside: bytes in, verdicts and bytes out.
//!
//! Tokens and classes of bytes are tested next to their code.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

mod accepted;
mod answers;
mod bodies;
mod forwarded;
mod properties;
mod proxy_headers;
mod refused;
mod responses;

use std::net::{IpAddr, Ipv4Addr};

use scaledapp_http1::{Fields, Limits, Origin, Refusal, Trust, parse_request, write_request};

/// The result for a request: `None` if incomplete, its length, or status and reason of its
/// refusal.
type Verdict = Result<Option<usize>, (u16, &'static str)>;

/// The length of the head at the start of `bytes`, with the usual limits.
fn verdict(bytes: &[u8]) -> Verdict {
    verdict_within(bytes, &Limits::default())
}

fn verdict_within(bytes: &[u8], limits: &Limits) -> Verdict {
    match parse_request(bytes, &mut Fields::default(), limits) {
        Ok(request) => Ok(request.map(|request| request.head_len)),
        Err(Refusal { status, reason }) => Err((status, reason)),
    }
}

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

const EDGE: Origin<'static> = Origin {
    peer: PEER,
    source: PEER,
    scheme: "http",
    trust: Trust::Edge,
    request_id: "id-1",
    token: None,
    client_certificate: None,
    drops_cookie: None,
};

const PROXY: Origin<'static> = Origin {
    trust: Trust::Proxy,
    source: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    ..EDGE
};

const BEHIND: Origin<'static> = Origin {
    trust: Trust::Behind,
    ..EDGE
};

/// The head that is sent upstream for the request in `bytes`.
fn sent_on(bytes: &[u8], origin: &Origin<'_>) -> String {
    let mut fields = Fields::default();
    let request = parse_request(bytes, &mut fields, &Limits::default())
        .unwrap()
        .unwrap();
    let mut out = Vec::new();
    write_request(&mut out, &request, origin, "fallback");
    String::from_utf8(out).unwrap()
}
