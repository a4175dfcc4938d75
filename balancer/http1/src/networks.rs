//! Which addresses belong to a network of the settings (RFC 4632, RFC 4291).
//!
//! An IPv4 address that a dual-stack socket shows as `::ffff:a.b.c.d` is treated as the
//! IPv4 address, both in the settings and in lookups. Host names are not resolved.

use alloc::string::String;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

/// A block of addresses, such as `10.0.0.0/8`, `fd00::/8` or the single `192.0.2.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    /// The number of bits that all of its addresses share, counted in the family of
    /// `first`.
    prefix: u8,
}

/// Why a text is not a network, with the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkError {
    /// It is not an address, or its prefix is too long for its family.
    Shape(String),
    /// It has bits set after its prefix, so it may mean the whole network or the single
    /// address.
    HostBits(String, Network),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(text) => write!(
                f,
                "{text:?} is neither a network, such as 10.0.0.0/8 or fd00::/8, nor an address; \
                 names are not looked up"
            ),
            Self::HostBits(text, network) => {
                let address = text.split('/').next().unwrap_or_default();
                write!(
                    f,
                    "{text:?} has bits set after its prefix: give {network} for the whole network, \
                     or {address} for the single address"
                )
            }
        }
    }
}

impl core::error::Error for NetworkError {}

impl Network {
    /// Whether the address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (first, width) = bits(self.first);
        let (address, other) = bits(address.to_canonical());
        width == other && (first ^ address) & mask(width, self.prefix) == 0
    }
}

/// The address as a number, and the number of bits in its family.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

/// The upper `prefix` of `width` bits.
fn mask(width: u8, prefix: u8) -> u128 {
    let below = u32::from(width - prefix);
    u128::MAX.checked_shl(below).unwrap_or(0)
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let shape = || NetworkError::Shape(text.into());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| shape())?;
        let (_, written) = bits(address);
        let prefix = match prefix {
            None => written,
            // `parse` would accept a sign.
            Some(prefix) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => prefix
                .parse()
                .ok()
                .filter(|prefix| *prefix <= written)
                .ok_or_else(shape)?,
            Some(_) => return Err(shape()),
        };
        let network = match (address, address.to_canonical()) {
            // `::ffff:10.0.0.0/104` is the same as 10.0.0.0/8.
            (IpAddr::V6(_), first @ IpAddr::V4(_)) if prefix >= 96 => Self {
                first,
                prefix: prefix - 96,
            },
            (first, _) => Self { first, prefix },
        };
        let (number, width) = bits(network.first);
        let first = number & mask(width, network.prefix);
        if first != number {
            let first = match network.first {
                IpAddr::V4(_) => IpAddr::V4((first as u32).into()),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(first)),
            };
            let prefix = network.prefix;
            return Err(NetworkError::HostBits(text.into(), Self { first, prefix }));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::a01:203"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
            ("2001:DB8::1", "2001:db8:0::1", "2001:db8::2"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
            ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("::ffff:a00:0/104", "::ffff:10.9.9.9", "fd00::1"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(
                parsed.contains(inside.parse().unwrap()),
                "{network} {inside}"
            );
            assert!(
                !parsed.contains(outside.parse().unwrap()),
                "{network} {outside}"
            );
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn a_text_that_is_not_a_network_is_refused_with_the_cure() {
        for (text, cure) in [
            ("", "such as 10.0.0.0/8"),
            ("10.0.0", "such as 10.0.0.0/8"),
            ("10.0.0.0/33", "such as 10.0.0.0/8"),
            ("10.0.0.0/+8", "such as 10.0.0.0/8"),
            ("10.0.0.0/", "such as 10.0.0.0/8"),
            ("10.0.0.0/8/8", "such as 10.0.0.0/8"),
            ("fd00::/129", "such as 10.0.0.0/8"),
            ("fe80::1%eth0", "such as 10.0.0.0/8"),
            ("10.0.0.1:80", "such as 10.0.0.0/8"),
            ("[fd00::1]", "such as 10.0.0.0/8"),
            ("proxy.example", "names are not looked up"),
            (" 10.0.0.0/8", "such as 10.0.0.0/8"),
            (
                "10.0.0.1/8",
                "10.0.0.0/8 for the whole network, or 10.0.0.1",
            ),
            ("fd00::1/8", "fd00::/8 for the whole network, or fd00::1"),
            ("::ffff:10.0.0.1/104", "10.0.0.0/8 for the whole network"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(cure), "{text}: {error}");
        }
    }
}
