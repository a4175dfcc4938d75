//! Asks one DNS server for the IPv4 addresses of a name.
//!
//! A command on this machine asks the server of its own run, so there is one query, no search list
//! and no repetition. The callers decide what an answer means.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Asks a DNS server for the IPv4 addresses of a name (RFC 1035 section 4), within `within`. The
/// result is empty if the answer contains no IPv4 address.
///
/// # Errors
/// There is no answer in time, or it is malformed.
pub async fn ask_dns(server: SocketAddr, name: &str, within: Duration) -> io::Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question(name)).await?;
    let mut buffer = [0; 1024];
    let length = timeout(within, socket.recv(&mut buffer))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "DNS does not answer in time"))??;
    read_addresses(&buffer[..length])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer of DNS is malformed"))
}

/// Builds a query for the IPv4 addresses of a name. The id is always 1, because the socket is new
/// and connected and so no answer to another query can arrive.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn read_addresses(message: &[u8]) -> Option<Vec<IpAddr>> {
    let number = |at: usize| {
        Some(u16::from_be_bytes([
            *message.get(at)?,
            *message.get(at + 1)?,
        ]))
    };
    let answers = number(6)?;
    let mut at = after_name(message, 12)? + 4;
    let mut found = Vec::new();
    for _ in 0..answers {
        at = after_name(message, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if let (1, Ok(octets)) = (kind, <[u8; 4]>::try_from(data)) {
            found.push(IpAddr::from(octets));
        }
        at += 10 + length;
    }
    Some(found)
}

/// The offset after a name, which ends with a zero or with a pointer (section 4.1.4).
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_answer_is_read_and_a_truncated_one_is_refused() {
        let mut message = question("a.b");
        message[7] = 2;
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 127, 0, 0, 9]);
        message.extend([1, b'x', 0, 0, 28, 0, 1, 0, 0, 0, 30, 0, 1, 7]);
        assert_eq!(
            read_addresses(&message),
            Some(vec![IpAddr::from([127, 0, 0, 9])])
        );
        for length in 0..message.len() {
            assert_eq!(read_addresses(&message[..length]), None, "{length}");
        }
    }
}
