//! Asks a worker whether it is there: by connecting, or by a readiness path.
//!
//! Deadlines are the engine's: these futures ask until they succeed or are
//! dropped together with the worker.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::connection::held;

const PERIOD: Duration = Duration::from_millis(50);
/// One answer may take this long; the app may be starting other things too.
const PATIENCE: Duration = Duration::from_secs(2);

/// A port on the loopback address that nobody uses at this moment.
pub(crate) fn free_port() -> std::io::Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(probe.local_addr()?.port())
}

/// Resolves when a connect to the private port succeeds.
pub(crate) async fn until_listening(port: u16) -> SocketAddr {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(PERIOD).await;
    }
    address
}

/// Resolves when `GET path` answers with 2xx or 3xx.
pub(crate) async fn until_ok(address: SocketAddr, path: String) {
    loop {
        let asked = tokio::time::timeout(PATIENCE, status(address, &path)).await;
        if let Ok(Ok(Some(200..=399))) = asked {
            return;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Whether whoever listens there accepts: a new connection leaves the queue, or
/// others that waited before it do. One that only its single thread keeps from
/// accepting is deaf as well.
pub(crate) async fn accepts(address: SocketAddr) -> bool {
    // Few, since the kernel lists all connections of the machine each time.
    const PAUSES: [Duration; 3] = [
        Duration::from_millis(100),
        Duration::from_millis(400),
        Duration::from_millis(500),
    ];
    let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
    let Ok(Ok(_connection)) = connected else {
        return false;
    };
    let mut before = held::waiting(address);
    for pause in PAUSES {
        tokio::time::sleep(pause).await;
        let now = held::waiting(address);
        match (before, now) {
            // Nobody listens: its end is told otherwise.
            (_, None) => return true,
            (before, Some(now)) if now == 0 || before.is_some_and(|before| now < before) => {
                return true;
            }
            _ => before = now,
        }
    }
    false
}

async fn status(address: SocketAddr, path: &str) -> std::io::Result<Option<u16>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: scaledapp-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200": the status stands in the first twelve bytes.
    let mut head = [0_u8; 12];
    stream.read_exact(&mut head).await?;
    Ok(parse_status(&head))
}

fn parse_status(head: &[u8; 12]) -> Option<u16> {
    let text = std::str::from_utf8(head).ok()?;
    let (version, status) = text.split_once(' ')?;
    version
        .starts_with("HTTP/1.")
        .then(|| status.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_bytes() {
        assert_eq!(parse_status(b"HTTP/1.1 200"), Some(200));
        assert_eq!(parse_status(b"HTTP/1.0 503"), Some(503));
        assert_eq!(parse_status(b"SSH-2.0-Open"), None);
        assert_eq!(parse_status(b"HTTP/2.0 200"), None);
    }
}
