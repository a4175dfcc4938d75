//! Reads one `/watch` stream of a supervisor: its lines, and its end.

use std::net::SocketAddr;
use std::time::Duration;

use scaledapp_runtime::{LineError, LineStream};
use scaledapp_wire::Snapshot;
use tokio::time::timeout;

/// The longest line.
const MAX_LINE_BYTES: usize = 4 << 10;
/// A stream without a line for this long has ended: its heartbeat is 250 ms.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(2);
const AGENT: &str = "scaledapp-dashboard";

/// An open stream.
#[derive(Debug)]
pub(crate) struct WatchStream {
    stream: LineStream,
    /// The first line, which shows that the answer is a stream, until it is returned.
    first: Option<Vec<u8>>,
}

/// What a stream brings next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// A line.
    Line(Snapshot),
    /// The stream has ended, is silent, or is not a `/watch` stream.
    End,
}

impl WatchStream {
    /// Opens the stream of an admin port.
    ///
    /// # Errors
    /// There is no line within the time, or the status of the answer is not 200.
    pub(crate) async fn open(admin: SocketAddr, within: Duration) -> Result<Self, LineError> {
        let begun = async {
            let mut stream =
                LineStream::open(admin, "/watch", AGENT, within, MAX_LINE_BYTES).await?;
            let first = Some(stream.next(within).await?);
            Ok(Self { stream, first })
        };
        timeout(within, begun)
            .await
            .unwrap_or(Err(LineError::Silent(within)))
    }

    /// The next line.
    pub(crate) async fn next(&mut self) -> Next {
        let line = match self.first.take() {
            Some(first) => Ok(first),
            None => self.stream.next(SILENCE_TIMEOUT).await,
        };
        let line = line
            .ok()
            .and_then(|line| serde_json::from_slice(&line).ok());
        line.map_or(Next::End, Next::Line)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn opened(answer: &'static str) -> Result<WatchStream, LineError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Closing with unread bytes would reset the connection.
            stream.read_u8().await.unwrap();
            let mut head = [0; 1 << 10];
            let _rest = stream.read(&mut head).await.unwrap();
            for byte in answer.as_bytes() {
                stream.write_all(&[*byte]).await.unwrap();
            }
        });
        WatchStream::open(address, Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn lines_are_read_across_chunks_until_the_end() {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                      8\r\n{\"ready\"\r\n7\r\n:true}\n\r\n10\r\n{\"ready\":false}\n\r\n0\r\n\r\n";
        let mut stream = opened(answer).await.unwrap();
        for ready in [true, false] {
            let next = stream.next().await;
            assert!(
                matches!(next, Next::Line(line) if line.ready == ready),
                "{next:?}"
            );
        }
        assert_eq!(stream.next().await, Next::End);
    }

    #[tokio::test]
    async fn other_answers_are_not_streams() {
        assert!(opened("HTTP/1.1 503 X\r\n\r\n").await.is_err());
        let answer = "HTTP/1.1 200 OK\r\n\r\n4\r\nabc\n\r\n";
        assert_eq!(opened(answer).await.unwrap().next().await, Next::End);
    }
}
