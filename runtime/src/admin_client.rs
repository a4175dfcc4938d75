//! Sends one GET to an admin port of this project and reads the whole answer, up to a limit.
//!
//! Each request has its own connection, because whether a connection is accepted is part of
//! the result. The callers decide what an answer means. The workers' metrics and `/watch`
//! have readers of their own: apps serve the metrics, and `/watch` has no end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{Chunked, ChunkedDecoder};

/// The initial size of an answer's buffer in bytes. Most answers fit into it.
const FIRST_BYTES: usize = 16 << 10;

/// An answer of an admin port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body without its framing.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The connection was not accepted.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The connection was accepted and failed later.
    #[error("the connection failed")]
    Broken(#[source] io::Error),
    /// The answer is not HTTP.
    #[error("no HTTP answer")]
    NotHttp,
    /// The connection ended within the answer.
    #[error("the answer is incomplete")]
    Incomplete,
    /// The answer is larger than this many bytes.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// The answer took too long.
    #[error("no answer in time")]
    Timeout,
}

impl AdminError {
    /// Whether something accepted the connection, as far as is known.
    pub fn is_accepted(&self) -> bool {
        !matches!(self, Self::Connect(_) | Self::Timeout)
    }
}

/// Requests `path` and reads an answer of at most `limit` bytes, within `within`.
///
/// # Errors
/// [`AdminError`]. An answer with an error status is not an error here.
pub async fn ask_admin(
    address: SocketAddr,
    path: &str,
    within: Duration,
    limit: usize,
) -> Result<AdminAnswer, AdminError> {
    timeout(within, ask(address, path, limit))
        .await
        .unwrap_or(Err(AdminError::Timeout))
}

async fn ask(address: SocketAddr, path: &str, limit: usize) -> Result<AdminAnswer, AdminError> {
    let stream = TcpStream::connect(address).await;
    let mut stream = stream.map_err(AdminError::Connect)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let written = stream.write_all(request.as_bytes()).await;
    written.map_err(AdminError::Broken)?;
    let mut bytes = Vec::with_capacity(FIRST_BYTES);
    loop {
        let length = stream.read_buf(&mut bytes).await;
        let has_ended = length.map_err(AdminError::Broken)? == 0;
        if bytes.len() > limit {
            return Err(AdminError::TooLarge(limit));
        }
        if let Some(answer) = parse(&bytes, has_ended)? {
            return Ok(answer);
        }
        if has_ended {
            return Err(AdminError::Incomplete);
        }
    }
}

/// Parses the answer in `bytes` (RFC 9112 section 6.3); `None` if it is not complete yet.
fn parse(bytes: &[u8], has_ended: bool) -> Result<Option<AdminAnswer>, AdminError> {
    const END: &[u8] = b"\r\n\r\n";
    const START: &[u8] = b"HTTP/1.";
    if !bytes.starts_with(&START[..START.len().min(bytes.len())]) {
        return Err(AdminError::NotHttp);
    }
    let Some(head) = bytes.windows(END.len()).position(|four| four == END) else {
        return Ok(None);
    };
    let body = &bytes[head + END.len()..];
    let head = std::str::from_utf8(&bytes[..head]).map_err(|_| AdminError::NotHttp)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    let status = status.ok_or(AdminError::NotHttp)?;
    let mut length = None;
    let mut is_chunked = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            let parsed = value.trim().parse::<usize>();
            length = Some(parsed.map_err(|_| AdminError::NotHttp)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    let body = match length {
        _ if is_chunked => unchunk(body)?,
        Some(length) => body.get(..length).map(<[u8]>::to_vec),
        None => has_ended.then(|| body.to_vec()),
    };
    Ok(body.map(|body| AdminAnswer { status, body }))
}

/// The content of chunks; `None` if the last one is missing.
fn unchunk(body: &[u8]) -> Result<Option<Vec<u8>>, AdminError> {
    let mut decoder = ChunkedDecoder::default();
    let mut content = Vec::new();
    for &byte in body {
        match decoder.next(byte).map_err(|_| AdminError::NotHttp)? {
            Chunked::Framing => {}
            Chunked::Content => content.push(byte),
            Chunked::End => return Ok(Some(content)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: usize = 1 << 10;

    fn answer(status: u16, body: &str) -> AdminAnswer {
        AdminAnswer {
            status,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn each_framing_gives_status_and_body() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        for (text, has_ended, expected) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
                false,
                Some(answer(200, "abc")),
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", true, None),
            (
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
                false,
                Some(answer(404, "")),
            ),
            (
                "HTTP/1.0 503 X\r\n\r\ndraining",
                true,
                Some(answer(503, "draining")),
            ),
            ("HTTP/1.0 503 X\r\n\r\ndrain", false, None),
            (
                &format!("{chunked}0\r\n\r\n"),
                false,
                Some(answer(200, "abc")),
            ),
            (chunked, true, None),
            ("HTTP/1.1 200 OK\r\ncont", true, None),
            ("HTT", false, None),
            ("", true, None),
        ] {
            let parsed = parse(text.as_bytes(), has_ended).unwrap();
            assert_eq!(parsed, expected, "{text:?}");
        }
        for text in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        ] {
            assert!(
                matches!(parse(text.as_bytes(), true), Err(AdminError::NotHttp)),
                "{text:?}"
            );
        }
    }

    /// Sends a request to a server that sends `text` over and over, or nothing if `text` is empty.
    async fn asked(text: &'static str, within: Duration) -> AdminError {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            while !text.is_empty() && stream.write_all(text.as_bytes()).await.is_ok() {}
            std::future::pending::<()>().await;
        });
        let asked = ask_admin(address, "/status", within, LIMIT).await;
        asked.unwrap_err()
    }

    #[tokio::test]
    async fn an_endless_answer_and_a_missing_one_are_bounded() {
        let endless = "HTTP/1.1 200 OK\r\n\r\nmore and more";
        let error = asked(endless, Duration::from_secs(20)).await;
        assert!(matches!(error, AdminError::TooLarge(LIMIT)), "{error}");
        assert!(error.is_accepted());
        let error = asked("", Duration::from_millis(50)).await;
        assert!(matches!(error, AdminError::Timeout), "{error}");
    }

    #[tokio::test]
    async fn a_port_without_a_listener_accepts_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = ask_admin(address, "/", Duration::from_secs(20), LIMIT).await;
        let error = error.unwrap_err();
        assert!(matches!(error, AdminError::Connect(_)), "{error}");
        assert!(!error.is_accepted());
    }
}
