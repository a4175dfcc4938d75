//! Headers of the PROXY protocol: what is accepted, what is refused, and properties that hold for
//! all bytes.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use scaledapp_http1::{Announced, HeaderFault, parse_proxy_header, write_proxy_header};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 with this command, family and rest.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

fn client(source: &str, destination: &str) -> Announced {
    Announced::Client {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

/// Addresses and ports of version 2 over IPv4.
const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0, 80];

#[test]
fn both_versions_are_read() {
    let mut v6 = vec![0x20; 32];
    v6.extend([0, 1, 0, 2]);
    let seen = client("192.0.2.1:8080", "198.51.100.2:80");
    for (header, expected) in [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 80\r\n".to_vec(),
            seen,
        ),
        (
            b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(),
            client("[2001:db8::1]:0", "[::1]:65535"),
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 8080 80\r\n".to_vec(),
            seen,
        ),
        // As nginx writes it for a client of IPv6 at an address of IPv4.
        (
            b"PROXY TCP6 2001:db8::1 198.51.100.2 1 2\r\n".to_vec(),
            client("[2001:db8::1]:1", "198.51.100.2:2"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), Announced::Itself),
        (b"PROXY UNKNOWN ffff::1 x\r\n".to_vec(), Announced::Itself),
        (binary(0x21, 0x11, V4), seen),
        (
            binary(0x21, 0x21, &v6),
            client(
                "[2020:2020:2020:2020:2020:2020:2020:2020]:1",
                "[2020:2020:2020:2020:2020:2020:2020:2020]:2",
            ),
        ),
        // LOCAL with a family, with and without its addresses, and with anything else.
        (binary(0x20, 0x00, b""), Announced::Itself),
        (binary(0x20, 0x11, V4), Announced::Itself),
        (binary(0x20, 0x11, b"xy"), Announced::Itself),
        (binary(0x20, 0xff, b"xy"), Announced::Itself),
        (binary(0x21, 0x00, b"anything"), Announced::Itself),
        (binary(0x21, 0x31, &[0; 216]), Announced::Itself),
        (binary(0x21, 0x12, V4), Announced::Itself),
        // A unique id, and padding.
        (
            binary(0x21, 0x11, &[V4, &[5, 0, 2, 7, 7], &[4, 0, 0]].concat()),
            seen,
        ),
    ] {
        let whole = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
        let read = parse_proxy_header(&whole);
        assert_eq!(
            read,
            Ok(Some((header.len(), expected))),
            "{}",
            header.escape_ascii()
        );
        for end in 0..header.len() {
            assert_eq!(parse_proxy_header(&header[..end]), Ok(None), "{end}");
        }
    }
}

#[test]
fn a_checksum_must_be_right() {
    // Computed with another program, which gives E3069283 for the check value of RFC 3720.
    let header = |sum: u32| {
        let field = [&[3, 0, 4][..], &sum.to_be_bytes()].concat();
        binary(0x21, 0x11, &[V4, &field].concat())
    };
    let right = 0x92E6_DB8F;
    assert!(matches!(parse_proxy_header(&header(right)), Ok(Some(_))));
    let wrong = parse_proxy_header(&header(right ^ 1));
    assert_eq!(wrong, Err(HeaderFault::Malformed("its checksum is wrong")));
    let short = binary(0x21, 0x11, &[V4, &[3, 0, 1, 7]].concat());
    assert_eq!(parse_proxy_header(&short), wrong);
}

#[test]
fn what_is_no_valid_header_is_refused() {
    let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 107]].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"\x16\x03\x01",
        b"\r\n\r\n\0\r\nQUIT\r",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY unknown\r\n",
        b"PROXY \xff\r\n",
        b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        &long,
        &binary(0x11, 0x11, V4),
        &binary(0x22, 0x11, V4),
        &binary(0x21, 0x13, V4),
        &binary(0x21, 0x41, V4),
        &binary(0x21, 0x11, &V4[..11]),
        &binary(0x21, 0x21, V4),
        &binary(0x21, 0x11, &[V4, &[1, 0]].concat()),
        &binary(0x21, 0x11, &[V4, &[1, 0, 2, 9]].concat()),
        &binary(0x21, 0x11, &[0; (4 << 10) + 1]),
    ] {
        let read = parse_proxy_header(bytes);
        assert!(read.is_err(), "{}: {read:?}", bytes.escape_ascii());
    }
}

/// Bytes that resemble a header closely enough to reach most parts of the parser.
fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
    let text = prop::sample::select(vec![
        "PROXY ",
        "TCP4 ",
        "TCP6 ",
        "UNKNOWN",
        "192.0.2.1 ",
        "::1 ",
        "80 ",
        "443",
        "\r\n",
        " ",
        "0",
    ])
    .prop_map(|word| word.as_bytes().to_vec());
    let field = (any::<u8>(), vec(any::<u8>(), 0..9))
        .prop_map(|(kind, value)| [&[kind % 6, 0, value.len() as u8][..], &value].concat());
    let rest = (vec(any::<u8>(), 0..40), vec(field, 0..3))
        .prop_map(|(bytes, fields)| [bytes, fields.concat()].concat());
    let binary = (0x1f_u8..0x23, any::<u8>(), rest)
        .prop_map(|(command, family, rest)| binary(command, family & 0x33, &rest));
    prop_oneof![
        3 => vec(text, 0..9).prop_map(|words| words.concat()),
        3 => binary,
        1 => vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #[test]
    fn a_verdict_does_not_change_with_more_bytes(
        bytes in nearly_a_header(),
        more in vec(any::<u8>(), 0..16),
    ) {
        let verdict = parse_proxy_header(&bytes);
        let longer = parse_proxy_header(&[&bytes[..], &more].concat());
        match verdict {
            Ok(None) => {}
            verdict => prop_assert_eq!(longer, verdict),
        }
        if let Ok(Some((length, _))) = verdict {
            prop_assert!(length <= bytes.len());
            for end in 0..length {
                prop_assert_eq!(parse_proxy_header(&bytes[..end]), Ok(None));
            }
        }
    }

    #[test]
    fn what_is_written_is_read(
        source in any::<(IpAddr, u16)>(),
        destination in any::<(IpAddr, u16)>(),
    ) {
        let canonical = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
        let (source, destination) = (canonical(source), canonical(destination));
        let mut out = Vec::new();
        write_proxy_header(&mut out, source, destination);
        let expected = Announced::Client { source, destination };
        prop_assert_eq!(parse_proxy_header(&out), Ok(Some((out.len(), expected))));
    }
}
