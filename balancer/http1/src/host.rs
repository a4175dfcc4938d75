//! The syntax of an authority: uri-host and an optional port (RFC 9110 section 7.2, RFC
//! 3986 section 3.2).
//!
//! Whether the host exists or is served is not decided here. User information is refused: a
//! request must not contain it (RFC 9110 section 4.2.4).

use core::net::Ipv6Addr;

use crate::lexis::{is_name_byte, number};

/// Whether `authority` is a host with or without a port. The empty authority, which only a
/// `Host` field may contain, is not accepted.
pub(crate) fn is_authority(authority: &[u8]) -> bool {
    if let Some(rest) = authority.strip_prefix(b"[") {
        let end = rest.iter().position(|&byte| byte == b']');
        return end.is_some_and(|end| is_literal(&rest[..end]) && is_port(&rest[end + 1..]));
    }
    let colon = authority.iter().position(|&byte| byte == b':');
    let (name, port) = authority.split_at(colon.unwrap_or(authority.len()));
    is_name(name) && is_port(port)
}

/// Only IPv6 addresses are accepted: no future version is in use, and zones mean nothing to
/// other machines.
fn is_literal(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// An IPv4 address also matches, because its bytes are those of a name.
fn is_name(mut bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return false;
    }
    while let Some((first, rest)) = bytes.split_first() {
        bytes = match (first, rest) {
            (b'%', [a, b, rest @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            (&first, rest) if is_name_byte(first) => rest,
            _ => return false,
        };
    }
    true
}

/// The port with its colon. RFC 3986 allows an empty port.
fn is_port(bytes: &[u8]) -> bool {
    match bytes {
        [] | [b':'] => true,
        [b':', digits @ ..] => number(digits).is_some_and(|port| u16::try_from(port).is_ok()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for fine in [
            "a",
            "A.example",
            "a.",
            "a:80",
            "a:",
            "a:65535",
            "10.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "[::ffff:10.0.0.1]",
            "a_b",
            "xn--bcher-kva.example",
            "a%20b",
            "*",
        ] {
            assert!(is_authority(fine.as_bytes()), "{fine}");
        }
        for bad in [
            "",
            ":80",
            "a:b",
            "a:-1",
            "a:65536",
            "a:80:80",
            "a/b",
            "u@a",
            "a b",
            "a?b",
            "a\\b",
            "[::1",
            "::1",
            "[]",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "a%2",
            "a%zz",
            "a\"b",
            "ä",
            "a[",
            "[::1]]",
            "[a]",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
