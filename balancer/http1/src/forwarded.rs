//! Reads what a trusted proxy says about the client: its address and scheme
//! (`X-Forwarded-For` as it is commonly used; RFC 7239).
//!
//! The caller decides whether a proxy is trusted; see [`crate::Trust`].

use core::net::{IpAddr, SocketAddr};

use crate::known::Known;
use crate::lexis::{list, trim};
use crate::request::Request;

impl<'b> Request<'b> {
    /// The token that identifies the sender as another ScaledApp proxy; `None` if there is
    /// none or more than one.
    pub fn token(&self) -> Option<&'b [u8]> {
        let mut tokens = self.section.all(Known::Token);
        tokens.next().filter(|_| tokens.next().is_none())
    }

    /// The address of the client, as the sender gives it in `X-Real-IP`. The last field
    /// counts.
    pub fn real_ip(&self) -> Option<IpAddr> {
        let mut real = self.section.all(Known::RealIp);
        real.next_back().and_then(address)
    }

    /// The address of the client for which the trusted proxy `peer` sends the request.
    ///
    /// Each proxy appends the address of its peer to `X-Forwarded-For`. So the list is read
    /// from its end up to the first address that `is_believed` rejects. That address is the
    /// client's, and everything before it may be forged. If none is rejected, the first
    /// address is the client's. Without the field, `X-Real-IP` is used, and without both,
    /// `peer`. An element that is not an address (`unknown`) also ends the search.
    pub fn source(&self, peer: IpAddr, is_believed: impl Fn(IpAddr) -> bool) -> IpAddr {
        let lists = self.section.all(Known::ForwardedFor).rev();
        let mut hops = lists.flat_map(|value| list(value).rev()).peekable();
        if hops.peek().is_none() {
            return self.real_ip().unwrap_or(peer);
        }
        let mut source = peer;
        for hop in hops {
            let Some(hop) = address(hop) else { break };
            source = hop;
            if !is_believed(hop) {
                break;
            }
        }
        source
    }

    /// The scheme, if a field other than `X-Forwarded-Proto` gives it.
    pub(crate) fn scheme_otherwise(&self) -> Option<&'static [u8]> {
        let scheme = |value: &[u8]| match value {
            _ if value.eq_ignore_ascii_case(b"https") => Some(&b"https"[..]),
            _ if value.eq_ignore_ascii_case(b"http") => Some(&b"http"[..]),
            _ => None,
        };
        let of_forwarded = self.section.all(Known::Forwarded).next_back();
        let named = |name| self.field(name);
        let is_on = |value: &[u8]| value.eq_ignore_ascii_case(b"on");
        of_forwarded
            .and_then(proto)
            .or_else(|| named("X-Forwarded-Scheme"))
            .and_then(scheme)
            .or_else(|| {
                let mut switches = ["X-Forwarded-Ssl", "Front-End-Https"].into_iter();
                let on = switches.find(|name| named(name).is_some_and(is_on));
                on.map(|_| &b"https"[..])
            })
    }
}

/// An address, with or without a port; IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = core::str::from_utf8(text).ok()?;
    let bare = || {
        let inside = text.strip_prefix('[')?.strip_suffix(']')?;
        inside.parse().ok()
    };
    let parsed = text.parse::<IpAddr>().ok();
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
    let address = parsed.or_else(with_port).or_else(bare)?;
    Some(address.to_canonical())
}

/// `proto` of the last element of `Forwarded`, which the previous proxy wrote.
fn proto(value: &[u8]) -> Option<&[u8]> {
    let last = pieces(value, b',').last()?;
    let mut pairs = pieces(last, b';').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((trim(&pair[..at]), trim(&pair[at + 1..])))
    });
    let (_, proto) = pairs.find(|(name, _)| name.eq_ignore_ascii_case(b"proto"))?;
    let inside = proto
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    Some(inside.unwrap_or(proto))
}

/// The parts of `value`, split at each separator that is outside quoted strings.
fn pieces(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |&byte| {
        let was_escaped = escaped;
        escaped = quoted && !was_escaped && byte == b'\\';
        if byte == b'"' && !was_escaped {
            quoted = !quoted;
        }
        byte == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port_and_brackets() {
        for (text, wanted) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:4711", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("unknown", None),
            ("_hidden", None),
            ("192.0.2", None),
            ("192.0.2.1:", None),
            ("[2001:db8::1", None),
            ("", None),
        ] {
            let wanted = wanted.map(|wanted| wanted.parse().unwrap());
            assert_eq!(address(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn the_last_element_of_forwarded_tells_the_scheme() {
        for (value, wanted) in [
            ("for=192.0.2.1;proto=https", Some("https")),
            ("For=\"[2001:db8::1]:4711\"; Proto=\"https\"", Some("https")),
            ("proto=https, proto=http", Some("http")),
            ("proto=https, for=10.0.0.1", None),
            ("for=\"a,proto=https\"", None),
            ("for=\"a\\\",proto=https\"", None),
            ("for=\"a;proto=https\";proto=http", Some("http")),
            ("", None),
        ] {
            let wanted = wanted.map(str::as_bytes);
            assert_eq!(proto(value.as_bytes()), wanted, "{value}");
        }
    }
}
