//! Reads one `/watch` stream of a supervisor: its lines, and its end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use scaledapp_runtime::{Chunked, ChunkedDecoder};
use scaledapp_wire::Snapshot;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The largest head of an answer.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// The longest line.
const MAX_LINE_BYTES: usize = 4 << 10;
/// A stream without a line for this long has ended: its heartbeat is 250 ms.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(2);

/// An open stream.
#[derive(Debug)]
pub(crate) struct WatchStream {
    stream: TcpStream,
    decoder: ChunkedDecoder,
    bytes: Vec<u8>,
    line: Vec<u8>,
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
    /// There is no answer within the time, or its status is not 200.
    pub(crate) async fn open(admin: SocketAddr, within: Duration) -> io::Result<Self> {
        timeout(within, begin(admin))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next line.
    pub(crate) async fn next(&mut self) -> Next {
        timeout(SILENCE_TIMEOUT, self.read())
            .await
            .unwrap_or(Next::End)
    }

    async fn read(&mut self) -> Next {
        loop {
            for (place, &byte) in self.bytes.iter().enumerate() {
                match self.decoder.next(byte) {
                    Ok(Chunked::Framing) => {}
                    Ok(Chunked::Content) if byte == b'\n' => {
                        let line = serde_json::from_slice(&self.line);
                        self.line.clear();
                        self.bytes.drain(..=place);
                        return line.map_or(Next::End, Next::Line);
                    }
                    Ok(Chunked::Content) if self.line.len() < MAX_LINE_BYTES => {
                        self.line.push(byte)
                    }
                    _ => return Next::End,
                }
            }
            self.bytes.clear();
            if !matches!(self.stream.read_buf(&mut self.bytes).await, Ok(1..)) {
                return Next::End;
            }
        }
    }
}

async fn begin(admin: SocketAddr) -> io::Result<WatchStream> {
    const END: &[u8] = b"\r\n\r\n";
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET /watch HTTP/1.1\r\nHost: {admin}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::with_capacity(MAX_HEAD_BYTES);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 || bytes.len() > MAX_HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let end = bytes.windows(END.len()).position(|four| four == END);
        let Some(end) = end else {
            continue;
        };
        if !bytes.starts_with(b"HTTP/1.1 200 ") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        bytes.drain(..end + END.len());
        return Ok(WatchStream {
            stream,
            decoder: ChunkedDecoder::default(),
            bytes,
            line: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn opened(answer: &'static str) -> io::Result<WatchStream> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
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
