//! A small blocking HTTP/1.1 client that reports how a request failed.
//!
//! The client never retries. Like other clients that keep connections, it checks whether an idle
//! connection was closed before it uses the connection again. Any error after that check is a
//! failure.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

/// Largest response, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// How a request failed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The connection was refused.
    Refused,
    /// The connection was reset.
    Reset,
    /// Any other I/O error, also while connecting.
    Io(String),
    /// There was no connection, or no complete answer, in time.
    TimedOut,
    /// The connection was closed before the first byte of the answer.
    EofBeforeResponse,
    /// The connection was closed within the answer.
    Truncated,
    /// The answer is not HTTP/1.1.
    Malformed(String),
    /// The status was not the expected one. Only load generators use this kind.
    Status(u16),
    /// The status was right, but the body was not. Only load generators use this kind.
    WrongBody,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::Io(text) => write!(f, "io: {text}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::EofBeforeResponse => f.write_str("eof before response"),
            Self::Truncated => f.write_str("truncated"),
            Self::Malformed(text) => write!(f, "malformed: {text}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::WrongBody => f.write_str("wrong body"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                Self::Reset
            }
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::TimedOut,
            _ => Self::Io(error.to_string()),
        }
    }
}

/// A request; `Host` and `Content-Length` are added.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Method as sent.
    pub method: &'a str,
    /// Target as sent.
    pub path: &'a str,
    /// Further fields.
    pub fields: &'a [(&'a str, &'a str)],
    /// Body; without one no `Content-Length` is sent.
    pub body: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// A GET.
    pub fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            fields: &[],
            body: None,
        }
    }

    /// A POST.
    pub fn post(path: &'a str, body: &'a [u8]) -> Self {
        Self {
            method: "POST",
            path,
            fields: &[],
            body: Some(body),
        }
    }

    /// The same request with these fields.
    #[must_use]
    pub fn with(self, fields: &'a [(&'a str, &'a str)]) -> Self {
        Self { fields, ..self }
    }

    fn bytes(&self, to: SocketAddr, keep_alive: bool) -> Vec<u8> {
        let mut lines = vec![format!("{} {} HTTP/1.1", self.method, self.path)];
        if !self
            .fields
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            lines.push(format!("Host: {to}"));
        }
        if !keep_alive {
            lines.push("Connection: close".to_owned());
        }
        if let Some(body) = self.body {
            lines.push(format!("Content-Length: {}", body.len()));
        }
        lines.extend(
            self.fields
                .iter()
                .map(|(name, value)| format!("{name}: {value}")),
        );
        let mut bytes = lines.join("\r\n").into_bytes();
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes.extend_from_slice(self.body.unwrap_or_default());
        bytes
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Fields with their names in lower case, in the order received.
    pub fields: Vec<(String, String)>,
    /// Body without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// First value of a field; `name` in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    /// Body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Body as JSON; null if it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.to_ascii_lowercase().contains("close"))
    }
}

/// A connection for one request after another.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    to: SocketAddr,
    timeout: Duration,
    received: Vec<u8>,
    closing: bool,
}

impl Connection {
    /// Connects. `timeout` applies to connecting, and later to each whole exchange.
    ///
    /// # Errors
    /// Refused, timed out, or any other reason.
    pub fn open(to: SocketAddr, timeout: Duration) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&to, timeout)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            to,
            timeout,
            received: Vec::new(),
            closing: false,
        })
    }

    /// Whether another request may be sent: the peer has neither closed the connection nor
    /// announced that it will.
    pub fn is_reusable(&self) -> bool {
        if self.closing || !self.received.is_empty() || self.stream.set_nonblocking(true).is_err() {
            return false;
        }
        let idle = matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        idle && self.stream.set_nonblocking(false).is_ok()
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// Any [`Failure`] except `Status` and `WrongBody`; every answer counts as success here.
    pub fn send(&mut self, request: &Request<'_>) -> Result<Response, Failure> {
        self.exchange(request, true)
    }

    fn exchange(&mut self, request: &Request<'_>, keep_alive: bool) -> Result<Response, Failure> {
        self.closing = true;
        let deadline = Instant::now() + self.timeout;
        self.stream.set_write_timeout(Some(self.timeout))?;
        if let Err(error) = self.stream.write_all(&request.bytes(self.to, keep_alive)) {
            // The peer may have answered before it stopped reading (413).
            return match self.read_response(request.method, deadline) {
                Ok(response) => Ok(response),
                Err(_) => Err(error.into()),
            };
        }
        let response = self.read_response(request.method, deadline)?;
        self.closing |= response.closes();
        Ok(response)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The bytes cannot be sent.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.set_write_timeout(Some(self.timeout))?;
        Ok(self.stream.write_all(bytes)?)
    }

    /// Reads the answer to a request of `method` that was sent with [`Connection::write`].
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn read(&mut self, method: &str) -> Result<Response, Failure> {
        self.read_response(method, Instant::now() + self.timeout)
    }

    /// Shuts down sending.
    ///
    /// # Errors
    /// The connection no longer exists.
    pub fn finish(&mut self) -> Result<(), Failure> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// Reads `len` bytes as they are (after 101).
    ///
    /// # Errors
    /// The bytes do not arrive in time, or the connection ends before all of them have arrived.
    pub fn read_bytes(&mut self, len: usize) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + self.timeout;
        while self.received.len() < len {
            if self.fill(deadline)? == 0 {
                return Err(Failure::Truncated);
            }
        }
        Ok(self.received.drain(..len).collect())
    }

    /// Reads until the peer closes, and returns all bytes.
    ///
    /// # Errors
    /// The peer does not close in time, or resets the connection.
    pub fn read_to_close(&mut self) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + self.timeout;
        while self.fill(deadline)? > 0 {}
        Ok(std::mem::take(&mut self.received))
    }

    /// Makes the kernel reset the connection when it is dropped.
    ///
    /// # Errors
    /// The option cannot be set.
    pub fn reset_on_drop(&self) -> Result<(), Failure> {
        let set = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        set.map_err(|error| Failure::Io(error.to_string()))
    }

    fn fill(&mut self, deadline: Instant) -> Result<usize, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::TimedOut);
        }
        if self.received.len() > MAX_RESPONSE_BYTES {
            return Err(Failure::Malformed("an answer without end".to_owned()));
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 16 << 10];
        loop {
            match self.stream.read(&mut piece) {
                Ok(read) => {
                    self.received.extend_from_slice(&piece[..read]);
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read_response(&mut self, method: &str, deadline: Instant) -> Result<Response, Failure> {
        self.closing = true;
        loop {
            let (status, fields) = self.read_head(deadline)?;
            if status != 101 && (100..200).contains(&status) {
                continue;
            }
            let mut response = Response {
                status,
                fields,
                body: Vec::new(),
            };
            let bodiless = method == "HEAD" || status == 101 || status == 204 || status == 304;
            let mut until_close = false;
            if bodiless {
            } else if response.field("transfer-encoding").is_some() {
                response.body = self.read_chunks(deadline)?;
            } else if let Some(length) = response.field("content-length") {
                let length = length
                    .parse()
                    .map_err(|_| malformed("content-length", length))?;
                response.body = self.take(length, deadline)?;
            } else {
                while self.fill(deadline)? > 0 {}
                response.body = std::mem::take(&mut self.received);
                until_close = true;
            }
            self.closing = until_close || response.closes();
            return Ok(response);
        }
    }

    fn read_head(&mut self, deadline: Instant) -> Result<(u16, Vec<(String, String)>), Failure> {
        let end = loop {
            if let Some(at) = self
                .received
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break at + 4;
            }
            let nothing = self.received.is_empty();
            match self.fill(deadline)? {
                0 if nothing => return Err(Failure::EofBeforeResponse),
                0 => return Err(Failure::Truncated),
                _ => {}
            }
        };
        let head: Vec<u8> = self.received.drain(..end).collect();
        let head = String::from_utf8_lossy(&head[..end - 4]).into_owned();
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| malformed("status line", first))?;
        let field = |line: &str| {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| malformed("field", line))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Ok((status, lines.map(field).collect::<Result<_, Failure>>()?))
    }

    fn take(&mut self, length: usize, deadline: Instant) -> Result<Vec<u8>, Failure> {
        if length > MAX_RESPONSE_BYTES {
            return Err(malformed("length", &length.to_string()));
        }
        while self.received.len() < length {
            if self.fill(deadline)? == 0 {
                return Err(Failure::Truncated);
            }
        }
        Ok(self.received.drain(..length).collect())
    }

    fn read_chunks(&mut self, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line(deadline)?;
            let size = line.split(';').next().unwrap_or_default();
            let size =
                usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size", &line))?;
            if size == 0 {
                while !self.read_line(deadline)?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size, deadline)?);
            let end = self.read_line(deadline)?;
            if !end.is_empty() {
                return Err(malformed("chunk end", &end));
            }
        }
    }

    fn read_line(&mut self, deadline: Instant) -> Result<String, Failure> {
        loop {
            if let Some(at) = self
                .received
                .windows(2)
                .position(|window| window == b"\r\n")
            {
                let line: Vec<u8> = self.received.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.fill(deadline)? == 0 {
                return Err(Failure::Truncated);
            }
        }
    }
}

fn malformed(what: &str, text: &str) -> Failure {
    Failure::Malformed(format!("{what} {text:?}"))
}

/// Sends one request on a connection of its own, which is closed afterwards.
///
/// # Errors
/// As [`Connection::send`].
pub fn one_shot(
    to: SocketAddr,
    timeout: Duration,
    request: &Request<'_>,
) -> Result<Response, Failure> {
    Connection::open(to, timeout)?.exchange(request, false)
}

/// Sends a GET on a connection of its own, with a time-out of 5 s.
///
/// # Errors
/// As [`Connection::send`].
pub fn get(to: SocketAddr, path: &str) -> Result<Response, Failure> {
    one_shot(to, Duration::from_secs(5), &Request::get(path))
}

/// Sends bytes as they are and reads until the peer closes.
///
/// # Errors
/// The peer does not close within `timeout`, resets the connection, or refuses it.
pub fn raw(to: SocketAddr, timeout: Duration, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut connection = Connection::open(to, timeout)?;
    // A peer that refuses the request may close before it has read all of it.
    let _refused = connection.write(bytes);
    connection.read_to_close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn answered_with(answer: &'static [u8]) -> Result<Response, Failure> {
        let upstream = Upstream::start(move |mut peer| {
            peer.read_head();
            peer.write(answer);
        })
        .unwrap();
        one_shot(upstream.address(), TIMEOUT, &Request::get("/"))
    }

    #[test]
    fn each_framing_gives_its_body() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        ] {
            let response = answered_with(answer).unwrap();
            assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        }
    }

    #[test]
    fn each_failure_has_its_kind() {
        for (answer, failure) in [
            (&b""[..], Failure::EofBeforeResponse),
            (b"HTTP/1.1 20", Failure::Truncated),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
                Failure::Truncated,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
                Failure::Truncated,
            ),
        ] {
            assert_eq!(
                answered_with(answer).unwrap_err(),
                failure,
                "{}",
                String::from_utf8_lossy(answer)
            );
        }
        assert!(matches!(
            answered_with(b"SSH-2.0\r\n\r\n"),
            Err(Failure::Malformed(_))
        ));
        let nobody = crate::ports::local().unwrap();
        assert_eq!(get(nobody, "/"), Err(Failure::Refused));
        let reset = Upstream::start(|mut peer| {
            peer.read_head();
            peer.reset();
        })
        .unwrap();
        assert_eq!(get(reset.address(), "/"), Err(Failure::Reset));
    }

    #[test]
    fn a_closed_connection_is_not_reused() {
        let upstream = Upstream::start(|mut peer| {
            peer.read_head();
            peer.write(b"HTTP/1.1 204 No Content\r\n\r\n");
        })
        .unwrap();
        let mut connection = Connection::open(upstream.address(), TIMEOUT).unwrap();
        assert_eq!(connection.send(&Request::get("/")).unwrap().status, 204);
        crate::wait::until_true(TIMEOUT, "the close is seen", || !connection.is_reusable())
            .unwrap();
    }
}
