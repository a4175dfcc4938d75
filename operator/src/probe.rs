//! One question to an admin port of ours: a connection of its own each time,
//! because whether it is accepted is half of the answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// `/status` of a pod with a thousand workers is below this.
const MOST: usize = 512 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing accepts.
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    /// It is accepted but not answered.
    #[error("no HTTP answer")]
    Http(#[source] hyper::Error),
    /// The answer's content ended early or never.
    #[error("no whole answer")]
    Content(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An answer that no admin port of ours gives.
    #[error("an answer with code {0}, which is none of ours")]
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

/// Asks for `path` and waits for the whole answer.
///
/// # Errors
/// [`ProbeError`]; an answer with an error's code is none.
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
        let content = Limited::new(response.into_body(), MOST).collect().await;
        let content = content.map_err(ProbeError::Content)?.to_bytes();
        Ok((status, content))
    };
    tokio::pin!(answer);
    tokio::pin!(connection);
    // The connection moves the bytes; it may end before the answer is taken.
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(ProbeError::Http(error)),
        },
    }
}
