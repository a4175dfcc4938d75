//! One request to an admin port of ours. Each request has its own connection, because
//! whether the connection is accepted is part of the result.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Largest answer that is read. `/status` of a pod with a thousand workers is smaller.
const MAX_ANSWER_BYTES: usize = 512 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The connection was not accepted.
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    /// The connection was accepted, but there was no HTTP answer.
    #[error("no HTTP answer")]
    Http(#[source] hyper::Error),
    /// The answer's body was incomplete or too large.
    #[error("the answer is incomplete")]
    Content(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A status that our admin ports never send.
    #[error("an answer with status {0}, which our admin ports never send")]
    Foreign(StatusCode),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
}

impl ProbeError {
    /// Whether something accepted the connection.
    pub fn is_accepted(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout => false,
            Self::Http(_) | Self::Content(_) | Self::Foreign(_) => true,
        }
    }
}

/// Requests `path` and waits for the whole answer, for at most `timeout`.
///
/// # Errors
/// [`ProbeError`]. An answer with an error status is not an error here.
pub async fn get(
    address: SocketAddr,
    path: &'static str,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), ProbeError> {
    tokio::time::timeout(timeout, ask(address, path))
        .await
        .unwrap_or(Err(ProbeError::Timeout))
}

async fn ask(address: SocketAddr, path: &'static str) -> Result<(StatusCode, Bytes), ProbeError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(ProbeError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(ProbeError::Http)?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("invariant: paths and addresses are valid in a request");
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(ProbeError::Http)?;
        let status = response.status();
        let content = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        let content = content.map_err(ProbeError::Content)?.to_bytes();
        Ok((status, content))
    };
    tokio::pin!(answer);
    tokio::pin!(connection);
    // The connection must be polled to move bytes, and may end before the answer is read.
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(ProbeError::Http(error)),
        },
    }
}
