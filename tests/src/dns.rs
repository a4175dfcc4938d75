//! A minimal DNS client for one question and one answer (RFC 1035 section 4). It is written by hand
//! so that it shares no code with the server.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};

/// How long a whole exchange may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Question types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// IPv4 addresses.
    A = 1,
    /// Start of authority.
    Soa = 6,
    /// IPv6 addresses.
    Aaaa = 28,
    /// Service binding for HTTPS (RFC 9460).
    Https = 65,
}

/// The transport of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A connection with length-prefixed messages.
    Tcp,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Response code: 0 NOERROR, 3 NXDOMAIN, 5 REFUSED.
    pub code: u8,
    /// Whether the answer is authoritative (AA).
    pub authoritative: bool,
    /// Whether the answer is truncated (TC).
    pub truncated: bool,
    /// Addresses of the answer section in the order received, with their TTL.
    pub addresses: Vec<(IpAddr, Duration)>,
}

/// Sends one question and returns its answer.
///
/// # Errors
/// There is no answer in time, or it belongs to another question.
pub fn ask(
    server: SocketAddr,
    transport: Transport,
    name: &str,
    question: Type,
) -> anyhow::Result<Answer> {
    exchange(server, transport, &encode(name, question, false))
}

/// Sends one question to a recursor (RD set) over UDP, and returns its answer.
///
/// # Errors
/// As [`ask`].
pub fn resolve(server: SocketAddr, name: &str, question: Type) -> anyhow::Result<Answer> {
    exchange(server, Transport::Udp, &encode(name, question, true))
}

fn exchange(server: SocketAddr, transport: Transport, query: &[u8]) -> anyhow::Result<Answer> {
    let id = u16::from_be_bytes([query[0], query[1]]);
    let message = match transport {
        Transport::Udp => {
            let any = if server.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            socket.connect(server)?;
            socket.send(query)?;
            let mut buffer = [0; 4096];
            let length = socket
                .recv(&mut buffer)
                .with_context(|| format!("no answer from {server}"))?;
            buffer[..length].to_vec()
        }
        Transport::Tcp => {
            let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            let mut framed = (query.len() as u16).to_be_bytes().to_vec();
            framed.extend(query);
            stream.write_all(&framed)?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut message)?;
            message
        }
    };
    decode(id, &message)
}

/// The IPv4 addresses of a name, in the order of the answer.
///
/// # Errors
/// As [`ask`], or the code is not NOERROR.
pub fn addresses(server: SocketAddr, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let answer = ask(server, Transport::Udp, name, Type::A)?;
    ensure!(answer.code == 0, "{name}: response code {}", answer.code);
    Ok(answer
        .addresses
        .into_iter()
        .map(|(address, _)| address)
        .collect())
}

fn encode(name: &str, question: Type, recursion: bool) -> Vec<u8> {
    // Each query has a new id, because Unbound rotates addresses by the id.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let id = (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    let mut query = id.to_be_bytes().to_vec();
    // A standard query with one question; RD if `recursion`.
    query.extend([u8::from(recursion), 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name
        .trim_end_matches('.')
        .split('.')
        .filter(|label| !label.is_empty())
    {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, question as u8, 0, 1]);
    query
}

fn decode(id: u16, message: &[u8]) -> anyhow::Result<Answer> {
    let mut reader = Reader { message, at: 0 };
    ensure!(reader.u16()? == id, "an answer to another question");
    let flags = reader.u16()?;
    ensure!(flags & 0x8000 != 0, "the answer is a query");
    let (questions, answers) = (reader.u16()?, reader.u16()?);
    reader.skip(4)?;
    for _ in 0..questions {
        reader.name()?;
        reader.skip(4)?;
    }
    let mut addresses = Vec::new();
    for _ in 0..answers {
        reader.name()?;
        let kind = reader.u16()?;
        reader.skip(2)?;
        let ttl = Duration::from_secs(u64::from(reader.u16()?) << 16 | u64::from(reader.u16()?));
        let length = usize::from(reader.u16()?);
        let data = reader.bytes(length)?;
        if kind == Type::A as u16 {
            addresses.push((IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(data)?)), ttl));
        } else if kind == Type::Aaaa as u16 {
            addresses.push((IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(data)?)), ttl));
        }
    }
    Ok(Answer {
        code: (flags & 0xf) as u8,
        authoritative: flags & 0x0400 != 0,
        truncated: flags & 0x0200 != 0,
        addresses,
    })
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> anyhow::Result<&'a [u8]> {
        let bytes = self
            .message
            .get(self.at..self.at + length)
            .context("the answer is cut off")?;
        self.at += length;
        Ok(bytes)
    }

    fn skip(&mut self, length: usize) -> anyhow::Result<()> {
        self.bytes(length).map(drop)
    }

    fn u16(&mut self) -> anyhow::Result<u16> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Skips a name, which ends with a zero or with a pointer (section 4.1.4).
    fn name(&mut self) -> anyhow::Result<()> {
        loop {
            match self.bytes(1)?[0] {
                0 => return Ok(()),
                pointer if pointer >= 0xc0 => return self.skip(1),
                length => self.skip(usize::from(length))?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_pointers_is_read() {
        let mut message = encode("a.b.", Type::A, false);
        message[..2].copy_from_slice(&[0, 7]);
        message[2] = 0x84;
        message[7] = 1;
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 127, 0, 0, 9]);
        let answer = decode(7, &message).unwrap();
        let expected = (IpAddr::from([127, 0, 0, 9]), Duration::from_secs(30));
        assert_eq!(
            answer,
            Answer {
                code: 0,
                authoritative: true,
                truncated: false,
                addresses: vec![expected]
            }
        );
        assert!(decode(8, &message).is_err());
        assert!(decode(7, &message[..message.len() - 1]).is_err());
    }
}
