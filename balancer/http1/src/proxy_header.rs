//! The header of the PROXY protocol, versions 1 and 2, in which a proxy says who its client is
//! before the first byte of that client (haproxy.org, `proxy-protocol.txt`, revision of 2020-03-05
//! and later).
//!
//! Decides whether the first bytes of a connection are such a header, and what it says. Whose
//! headers are believed, and how long one may take, is decided by the caller.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The first bytes of version 1.
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1, with its end (section 2.1).
const MAX_LINE_BYTES: usize = 107;
/// Bytes of version 2 before the addresses.
const FIXED_BYTES: usize = 16;
/// The most bytes after the fixed part. Addresses take 216 at most; the rest is for fields that
/// clouds add, of which the largest known is a client's certificate.
const MAX_LENGTH: usize = 4 << 10;
/// The type of the field that has a checksum of the header (section 2.2.4).
const CRC32C: u8 = 0x03;

/// What a header says about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The proxy passes on the connection of a client.
    Client {
        /// The client's address.
        source: SocketAddr,
        /// The address to which the client has connected.
        destination: SocketAddr,
    },
    /// The proxy speaks for itself, such as in a health check (`LOCAL`), or does not know its
    /// client (`UNKNOWN`, a UNIX socket): the addresses of the connection itself count.
    Itself,
}

/// Why the first bytes of a connection are not a header that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// They belong to neither version.
    Missing,
    /// They begin like a header, and this rule is broken.
    Malformed(&'static str),
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the connection does not begin with a PROXY header"),
            Self::Malformed(rule) => write!(f, "a PROXY header is malformed: {rule}"),
        }
    }
}

impl core::error::Error for HeaderFault {}

/// Reads the header at the beginning of `bytes`: its length and what it says; `None` if it is
/// not complete. All bytes that have been seen before it is complete belong to it.
///
/// # Errors
/// Returned as soon as it is certain that the bytes are no valid header.
pub fn parse_proxy_header(bytes: &[u8]) -> Result<Option<(usize, Announced)>, HeaderFault> {
    let begins = |with: &[u8]| {
        let common = bytes.len().min(with.len());
        bytes[..common] == with[..common]
    };
    if begins(&SIGNATURE) {
        binary(bytes)
    } else if begins(WORD) {
        line(bytes)
    } else {
        Err(HeaderFault::Missing)
    }
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Option<(usize, Announced)>, HeaderFault> {
    let window = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_LINE_BYTES {
            Ok(None)
        } else {
            Err(HeaderFault::Malformed("its line is longer than 107 bytes"))
        };
    };
    let Some(text) = window[..end].strip_suffix(b"\r") else {
        return Err(HeaderFault::Malformed("its line does not end with CR LF"));
    };
    let shape = HeaderFault::Malformed(
        "its line must be PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT, or PROXY UNKNOWN",
    );
    let text = core::str::from_utf8(text).map_err(|_| shape)?;
    let mut words = text.split(' ').skip(1);
    let mut word = || words.next().ok_or(shape);
    let is_v6 = match word()? {
        // Whatever follows is ignored (section 2.1).
        "UNKNOWN" => return Ok(Some((end + 1, Announced::Itself))),
        "TCP4" => false,
        "TCP6" => true,
        _ => return Err(shape),
    };
    let (source, destination) = (address(word()?, is_v6), address(word()?, is_v6));
    let (from, to) = (port(word()?), port(word()?));
    let (Some(source), Some(destination), Some(from), Some(to)) = (source, destination, from, to)
    else {
        return Err(shape);
    };
    if words.next().is_some() {
        return Err(shape);
    }
    let announced = Announced::Client {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    };
    Ok(Some((end + 1, announced)))
}

/// An address of a line. nginx writes `TCP6` with one address of IPv4 if its client and its own
/// address differ in their family.
fn address(text: &str, is_v6: bool) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    (is_v6 || address.is_ipv4()).then(|| address.to_canonical())
}

fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_padded = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| is_plain && !is_padded)
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Option<(usize, Announced)>, HeaderFault> {
    let malformed = |rule| Err(HeaderFault::Malformed(rule));
    // Each byte is checked as soon as it is there.
    let Some(command) = bytes.get(12) else {
        return Ok(None);
    };
    if !matches!(command, 0x20 | 0x21) {
        return malformed("its version or command is not known");
    }
    let &[family, high, low, ..] = &bytes[13..] else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_LENGTH {
        return malformed("it is longer than 4 KiB");
    }
    let end = FIXED_BYTES + length;
    let Some(whole) = bytes.get(..end) else {
        return Ok(None);
    };
    // Some load balancers send LOCAL with a family and fewer bytes than its addresses take. The
    // family and all bytes are skipped (section 2.2).
    if *command == 0x20 {
        return Ok(Some((end, Announced::Itself)));
    }
    let addresses = match family {
        // Unspecified, over any transport: nothing is known about the bytes.
        0x00 => return Ok(Some((end, Announced::Itself))),
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return malformed("its address family or transport is not known"),
    };
    let (Some(block), Some(fields)) = (
        whole.get(FIXED_BYTES..FIXED_BYTES + addresses),
        whole.get(FIXED_BYTES + addresses..),
    ) else {
        return malformed("its length does not suffice for its addresses");
    };
    check(whole, fields)?;
    let announced = match family {
        0x11 => client(v4(&block[..4]), v4(&block[4..8]), &block[8..]),
        0x21 => client(v6(&block[..16]), v6(&block[16..32]), &block[32..]),
        // Datagrams and UNIX sockets have no address that a client of TCP could have.
        _ => Announced::Itself,
    };
    Ok(Some((end, announced)))
}

fn client(source: IpAddr, destination: IpAddr, ports: &[u8]) -> Announced {
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Announced::Client {
        source: SocketAddr::new(source.to_canonical(), port(0)),
        destination: SocketAddr::new(destination.to_canonical(), port(2)),
    }
}

fn v4(bytes: &[u8]) -> IpAddr {
    let octets: [u8; 4] = core::array::from_fn(|at| bytes[at]);
    Ipv4Addr::from(octets).into()
}

fn v6(bytes: &[u8]) -> IpAddr {
    let octets: [u8; 16] = core::array::from_fn(|at| bytes[at]);
    Ipv6Addr::from(octets).into()
}

/// Checks the fields after the addresses, and the checksum if there is one.
fn check(whole: &[u8], mut fields: &[u8]) -> Result<(), HeaderFault> {
    while !fields.is_empty() {
        let &[kind, high, low, ref rest @ ..] = fields else {
            return Err(HeaderFault::Malformed("a field is cut off"));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Err(HeaderFault::Malformed("a field is cut off"));
        };
        if kind == CRC32C {
            let at = whole.len() - rest.len() - length;
            let is_right = match value {
                &[a, b, c, d] => crc32c(whole, at) == u32::from_be_bytes([a, b, c, d]),
                _ => false,
            };
            if !is_right {
                return Err(HeaderFault::Malformed("its checksum is wrong"));
            }
        }
        fields = rest;
    }
    Ok(())
}

/// The checksum of a header (RFC 4960 appendix B), in which the four bytes at `at` count as zero.
fn crc32c(header: &[u8], at: usize) -> u32 {
    let sum = header.iter().enumerate().fold(!0, |sum, (index, byte)| {
        let is_own = (at..at + 4).contains(&index);
        let mut sum: u32 = sum ^ u32::from(if is_own { 0 } else { *byte });
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82F6_3B78 * (sum & 1));
        }
        sum
    });
    !sum
}

/// Appends a header of version 2 that announces the connection of a client. If one of the two
/// addresses is of IPv6, the other one is written as IPv6, too.
pub fn write_proxy_header(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    out.extend(SIGNATURE);
    out.push(0x21);
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend([0x11, 0, 12]);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
        (source, destination) => {
            out.extend([0x21, 0, 36]);
            for address in [source, destination] {
                let address = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                out.extend(address.octets());
            }
        }
    }
    out.extend(source.port().to_be_bytes());
    out.extend(destination.port().to_be_bytes());
}
