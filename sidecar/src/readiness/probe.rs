//! Checks whether a worker accepts connections or answers at its readiness path.
//!
//! The engine keeps the deadline of a start: [`until_listening`] and [`until_ok`] try until they
//! succeed or are dropped together with the worker.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cli::ProtocolArg;
use crate::connection::open_connections;

const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How long one answer may take; the app may be busy with its start.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of an answer is read after its status.
const REST_BYTES: u64 = 64 << 10;

/// A free port on the loopback address.
pub(crate) fn free_port() -> std::io::Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(probe.local_addr()?.port())
}

/// Resolves when a connect to the private port succeeds.
pub(crate) async fn until_listening(port: u16) -> SocketAddr {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    address
}

/// Resolves when `GET path` answers with 2xx or 3xx.
pub(crate) async fn until_ok(address: SocketAddr, path: String, protocol: ProtocolArg) {
    loop {
        let status = async {
            match protocol {
                ProtocolArg::Http => status(address, &path).await,
                ProtocolArg::H2c => status_over_http2(address, &path).await,
            }
        };
        let status = tokio::time::timeout(ANSWER_TIMEOUT, status).await;
        if let Ok(Ok(Some(200..=399))) = status {
            return;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Whether the listener at `address` accepts: a new connection leaves the queue, or
/// connections that waited before it do. A worker whose single thread is busy the
/// whole time does not accept either.
pub(crate) async fn accepts(address: SocketAddr) -> bool {
    // There are only a few pauses, because the kernel lists all connections of the machine
    // after each.
    const PAUSES: [Duration; 3] = [
        Duration::from_millis(100),
        Duration::from_millis(400),
        Duration::from_millis(500),
    ];
    let connected = tokio::time::timeout(ANSWER_TIMEOUT, TcpStream::connect(address)).await;
    let Ok(Ok(_connection)) = connected else {
        return false;
    };
    let mut before = open_connections::waiting(address);
    for pause in PAUSES {
        tokio::time::sleep(pause).await;
        let now = open_connections::waiting(address);
        match (before, now) {
            // Nothing listens there; that is reported elsewhere.
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
    // The status is in the first twelve bytes: "HTTP/1.1 200".
    let mut head = [0_u8; 12];
    stream.read_exact(&mut head).await?;
    tokio::spawn(read_rest(stream));
    Ok(parse_status(&head))
}

async fn status_over_http2(address: SocketAddr, path: &str) -> std::io::Result<Option<u16>> {
    let stream = TcpStream::connect(address).await?;
    let broken = std::io::Error::other::<h2::Error>;
    let (mut send, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    let request = http::Request::get(format!("http://{address}{path}"))
        .header("user-agent", "scaledapp-probe")
        .body(())
        .map_err(std::io::Error::other)?;
    let (answer, _) = send.send_request(request, true).map_err(broken)?;
    // The connection ends when its last stream and `send` have been dropped.
    tokio::spawn(tokio::time::timeout(ANSWER_TIMEOUT, connection));
    let answer = answer.await.map_err(broken)?;
    Ok(Some(answer.status().as_u16()))
}

/// Reads the rest of an answer. Closing a connection with unread bytes resets it, and apps
/// log that (Python's `http.server` with a whole traceback).
async fn read_rest(stream: TcpStream) {
    let (mut rest, mut nowhere) = (stream.take(REST_BYTES), tokio::io::sink());
    let reading = tokio::io::copy(&mut rest, &mut nowhere);
    // The status is already known, so the result does not matter.
    let _ended = tokio::time::timeout(ANSWER_TIMEOUT, reading).await;
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

    #[tokio::test]
    async fn an_app_that_answers_in_pieces_sees_no_reset() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = b"HTTP/1.0 200 OK\r\nServer: slow\r\n";
            stream.write_all(head).await.unwrap();
            let mut request = Vec::new();
            let read = stream.read_buf(&mut request).await.unwrap();
            assert!(read > 0);
            // The probe already has its result; the rest must still be read.
            for _ in 0..20 {
                stream.write_all(b"\r\nbody").await.unwrap();
                tokio::task::yield_now().await;
            }
            stream.shutdown().await.unwrap();
            // An error here would mean a reset.
            stream.read_to_end(&mut request).await.unwrap();
        };
        let (answer, ()) = tokio::join!(status(address, "/healthz"), app);
        assert_eq!(answer.unwrap(), Some(200));
    }

    #[test]
    fn the_status_is_read_from_the_first_bytes() {
        assert_eq!(parse_status(b"HTTP/1.1 200"), Some(200));
        assert_eq!(parse_status(b"HTTP/1.0 503"), Some(503));
        assert_eq!(parse_status(b"SSH-2.0-Open"), None);
        assert_eq!(parse_status(b"HTTP/2.0 200"), None);
    }
}
