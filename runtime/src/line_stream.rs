//! Reads an endless answer of an admin port, such as `/watch` or `/load`, line by line.
//!
//! This file decides how long a connection may take and how long it may be silent. What a line
//! means, and when a lost stream is opened again, is decided by the callers.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::line_decoder::{Event, LineDecoder, Malformed};

/// The size of a read, in bytes. A line has about a hundred, and there may be thousands of
/// streams.
const READ_BYTES: usize = 1 << 10;
/// The longest head, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// Why a stream of lines has ended, or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The connection was not accepted.
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    /// The connection was not accepted in this time.
    #[error("no connection within {0:?}")]
    NoConnection(Duration),
    /// The connection failed later.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// The peer closed the connection within the stream.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer ended the stream in order.
    #[error("the peer ended the stream")]
    Ended,
    /// The answer has this status in place of 200.
    #[error("the answer is {0}")]
    Status(u16),
    /// The answer is no stream of lines over HTTP/1, or a line is too long.
    #[error("not a stream of lines over HTTP/1: {0}")]
    Malformed(&'static str),
    /// No line came for this long.
    #[error("silent for {0:?}")]
    Silent(Duration),
}

/// An open stream of lines: one connection with one request.
#[derive(Debug)]
pub struct LineStream {
    stream: TcpStream,
    decoder: LineDecoder,
    /// What has been read and not been returned yet.
    events: VecDeque<Event>,
    /// When the last line was returned, or the stream was opened.
    last: Instant,
}

impl LineStream {
    /// Connects to `address` and requests `path` in the name of `agent`, within `within`. Lines
    /// may have at most `max_line` bytes. The answer is not awaited.
    ///
    /// # Errors
    /// [`LineError::Connect`], [`LineError::NoConnection`] or [`LineError::Broken`].
    pub async fn open(
        address: SocketAddr,
        path: &str,
        agent: &str,
        within: Duration,
        max_line: usize,
    ) -> Result<Self, LineError> {
        let opened = timeout(within, async {
            let stream = TcpStream::connect(address).await;
            let mut stream = stream.map_err(LineError::Connect)?;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: {agent}\r\nAccept: application/x-ndjson\r\n\r\n"
            );
            // The request fits into any send buffer, so this does not wait for the peer.
            let written = stream.write_all(request.as_bytes()).await;
            written.map_err(LineError::Broken)?;
            Ok(stream)
        });
        let stream = opened.await;
        Ok(Self {
            stream: stream.map_err(|_| LineError::NoConnection(within))??,
            decoder: LineDecoder::new(MAX_HEAD, max_line),
            events: VecDeque::new(),
            last: Instant::now(),
        })
    }

    /// Returns the next line without its line end, if it comes within `silence` since the last
    /// line, or since the stream was opened. No line is lost if the future is dropped. After an
    /// error the stream is of no use.
    ///
    /// # Errors
    /// [`LineError`]; an answer with another status than 200 is one too.
    pub async fn next(&mut self, silence: Duration) -> Result<Vec<u8>, LineError> {
        let mut buffer = [0; READ_BYTES];
        loop {
            while let Some(event) = self.events.pop_front() {
                match event {
                    Event::Status(200) => {}
                    Event::Status(status) => return Err(LineError::Status(status)),
                    Event::Line(line) => {
                        self.last = Instant::now();
                        return Ok(line);
                    }
                    Event::End => return Err(LineError::Ended),
                }
            }
            // Data that has arrived counts, however late this task runs.
            let read = timeout_at(self.last + silence, self.stream.read(&mut buffer)).await;
            let read = read.map_err(|_| LineError::Silent(silence))?;
            let length = read.map_err(LineError::Broken)?;
            if length == 0 {
                return Err(LineError::Closed);
            }
            let events = self.decoder.feed(&buffer[..length]);
            let events = events.map_err(|Malformed(reason)| LineError::Malformed(reason))?;
            self.events.extend(events);
        }
    }
}
