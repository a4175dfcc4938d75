//! Small requests over HTTP and DNS to the processes of a run, for their readiness and status.
//!
//! Each answer is read as a whole, up to a limit.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Timeout of one request. All servers are on this machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer. The status of a thousand workers takes about 150 KiB.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// Sends `GET path` and returns status code and body.
///
/// # Errors
/// There is no answer in time, or it is not HTTP.
pub(crate) async fn get(to: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .take(MAX_ANSWER_BYTES)
            .read_to_end(&mut answer)
            .await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(REQUEST_TIMEOUT, exchange)
        .await
        .context("no answer in time");
    let answer = answer
        .and_then(|answer| answer)
        .with_context(|| format!("{to} does not answer"))?;
    read_answer(&answer).with_context(|| format!("{to} does not answer in HTTP"))
}

fn read_answer(answer: &[u8]) -> Option<(u16, String)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Returns `/status`, read as `T`.
///
/// # Errors
/// As [`get`], or the answer is not a `T`.
pub(crate) async fn status<T: DeserializeOwned>(admin: SocketAddr) -> anyhow::Result<T> {
    let (status, body) = get(admin, "/status").await?;
    ensure!(status == 200, "{admin}/status answers {status}");
    serde_json::from_str(&body).with_context(|| format!("{admin}/status is not a status"))
}

/// Checks that `/readyz` answers 200. The error is the reason why not.
pub(crate) async fn ready(admin: SocketAddr) -> Result<(), String> {
    match get(admin, "/readyz").await {
        Ok((200, _)) => Ok(()),
        Ok((_, reason)) => Err(reason),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// Asks a DNS server for the IPv4 addresses of a name (RFC 1035 section 4). Empty if the name has
/// none.
///
/// # Errors
/// There is no answer in time, or it is malformed.
pub(crate) async fn addresses(server: SocketAddr, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question(name)).await?;
    let mut buffer = [0; 1024];
    let length = timeout(REQUEST_TIMEOUT, socket.recv(&mut buffer))
        .await
        .context("DNS does not answer in time")??;
    read_addresses(&buffer[..length]).context("the answer of DNS is malformed")
}

/// A query for addresses with the id 1. The socket is new and connected, so no answer to another
/// query can arrive.
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
    fn an_http_answer_has_a_status_and_a_body() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\ndraining";
        assert_eq!(read_answer(answer), Some((503, "draining".to_owned())));
        for wrong in [
            &b""[..],
            b"HTTP/1.1 2",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
        ] {
            assert_eq!(read_answer(wrong), None);
        }
    }

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
