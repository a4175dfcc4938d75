//! Reads the bytes of an answer that is a stream of lines: its status, then lines of bounded
//! length.
//!
//! The decoder accepts input in pieces of any size. It reads the HTTP/1 answers that
//! ScaledApp's admin ports and other servers send (RFC 9112, chunked or until the
//! connection closes) and refuses everything else. The callers decide what the status and the
//! lines mean.

use crate::{Chunked, ChunkedDecoder};

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The head is complete; this is its status.
    Status(u16),
    /// A line of the content, without the line end.
    Line(Vec<u8>),
    /// The content has ended.
    End,
}

/// The bytes are no such answer; the text says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a stream of lines over HTTP/1: {0}")]
pub struct Malformed(pub(crate) &'static str);

/// The decoder of one answer.
#[derive(Debug)]
pub struct LineDecoder {
    state: State,
    /// The longest head, in bytes.
    max_head: usize,
    /// The longest line of the content, in bytes.
    max_line: usize,
    /// The incomplete head or line so far.
    held: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Head,
    /// Content until the connection closes.
    Plain,
    /// Content in chunks.
    Chunked(ChunkedDecoder),
    /// After the last chunk.
    Over,
}

impl LineDecoder {
    /// A decoder of an answer whose head, and each of whose lines, has at most so many bytes.
    pub fn new(max_head: usize, max_line: usize) -> Self {
        Self {
            state: State::default(),
            max_head,
            max_line,
            held: Vec::new(),
        }
    }

    /// Takes the next bytes, and returns what they complete.
    ///
    /// # Errors
    /// They are no answer of HTTP/1, or the head or a line is too long.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Malformed> {
        let mut events = Vec::new();
        for &byte in bytes {
            self.state = self.step(byte, &mut events)?;
        }
        Ok(events)
    }

    fn step(&mut self, byte: u8, events: &mut Vec<Event>) -> Result<State, Malformed> {
        Ok(match self.state {
            State::Head => {
                self.held.push(byte);
                if self.held.ends_with(b"\r\n\r\n") {
                    let (status, state) = head(&self.held)?;
                    self.held = Vec::new();
                    events.push(Event::Status(status));
                    state
                } else if self.held.len() >= self.max_head {
                    return Err(Malformed("its head is too long"));
                } else {
                    State::Head
                }
            }
            State::Plain => {
                self.content(byte, events)?;
                State::Plain
            }
            State::Chunked(mut decoder) => match decoder.next(byte).map_err(Malformed)? {
                Chunked::Framing => State::Chunked(decoder),
                Chunked::Content => {
                    self.content(byte, events)?;
                    State::Chunked(decoder)
                }
                Chunked::End => {
                    events.push(Event::End);
                    State::Over
                }
            },
            // The rest does not matter, because the connection is not used again.
            State::Over => State::Over,
        })
    }

    fn content(&mut self, byte: u8, events: &mut Vec<Event>) -> Result<(), Malformed> {
        if byte == b'\n' {
            events.push(Event::Line(std::mem::take(&mut self.held)));
        } else if self.held.len() >= self.max_line {
            return Err(Malformed("a line is too long"));
        } else {
            self.held.push(byte);
        }
        Ok(())
    }
}

/// The status, and how the content is framed.
fn head(head: &[u8]) -> Result<(u16, State), Malformed> {
    let text = std::str::from_utf8(head).map_err(|_| Malformed("its head is not text"))?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(status)
        .ok_or(Malformed("it has no status line"))?;
    let mut state = State::Plain;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.trim().eq_ignore_ascii_case("chunked") {
                return Err(Malformed("its transfer coding is not chunked"));
            }
            state = State::Chunked(ChunkedDecoder::default());
        }
    }
    Ok((status, state))
}

fn status(line: &str) -> Option<u16> {
    let rest = line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let (code, reason) = rest.split_at_checked(3)?;
    let ends = reason.is_empty() || reason.starts_with(' ');
    code.parse()
        .ok()
        .filter(|code| ends && (100..600).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_HEAD: usize = 8 << 10;
    const MAX_LINE: usize = 64 << 10;
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";

    fn line(text: &str) -> Event {
        Event::Line(text.as_bytes().to_vec())
    }

    /// Reads `bytes` cut into pieces of each size; the result must always be the same.
    fn read(bytes: &[u8]) -> Result<Vec<Event>, Malformed> {
        let whole = LineDecoder::new(MAX_HEAD, MAX_LINE).feed(bytes);
        for size in 1..8 {
            let mut decoder = LineDecoder::new(MAX_HEAD, MAX_LINE);
            let pieces = bytes.chunks(size).map(|piece| decoder.feed(piece));
            let events: Result<Vec<_>, _> = pieces.collect();
            assert_eq!(events.map(|events| events.concat()), whole);
        }
        whole
    }

    #[test]
    fn lines_are_read_however_they_are_cut_into_chunks() {
        let expected = [Event::Status(200), line("{}"), line(""), line("abc")];
        for body in [
            &b"3\r\n{}\n\r\n1\r\n\n\r\n4\r\nabc\n\r\n"[..],
            b"8\r\n{}\n\nabc\n\r\n",
            b"1\r\n{\r\n7;a=b\r\n}\n\nabc\n\r\n",
            b"008 \r\n{}\n\nabc\n\r\nf\r\nnot ended",
        ] {
            assert_eq!(read(&[CHUNKED, body].concat()).unwrap(), expected);
        }
        let ended = [CHUNKED, b"2\r\na\n\r\n0\r\n\r\nHTTP/1.1 200 OK"].concat();
        assert_eq!(
            read(&ended).unwrap(),
            [Event::Status(200), line("a"), Event::End]
        );
    }

    #[test]
    fn an_answer_without_chunks_is_read_until_the_connection_closes() {
        let answer = b"HTTP/1.0 200\r\nServer: other\r\n\r\na\nb\nc";
        assert_eq!(
            read(answer).unwrap(),
            [Event::Status(200), line("a"), line("b")]
        );
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n";
        assert_eq!(read(answer).unwrap(), [Event::Status(404), line("no")]);
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n").unwrap(), []);
    }

    #[test]
    fn an_answer_that_is_not_a_stream_of_lines_is_refused() {
        let chunks = |body: &str| [CHUNKED, body.as_bytes()].concat();
        for (name, bytes) in [
            ("another protocol", b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()),
            ("HTTP/2", b"HTTP/2.0 200 OK\r\n\r\n".to_vec()),
            ("no code", b"HTTP/1.1 OK\r\n\r\n".to_vec()),
            ("a short code", b"HTTP/1.1 9\r\n\r\n".to_vec()),
            ("a long code", b"HTTP/1.1 2000 OK\r\n\r\n".to_vec()),
            (
                "gzip",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".to_vec(),
            ),
            (
                "an endless head",
                [b"HTTP/1.1 200 OK\r\nX: ", &[b'x'; MAX_HEAD][..]].concat(),
            ),
            ("no size", chunks("\r\n")),
            ("a word for a size", chunks("x\r\n")),
            ("a large size", chunks("1000000000000000\r\n")),
            ("a bare line feed", chunks("1\na")),
            (
                "an endless extension",
                chunks(&format!("1;{}", "x".repeat(MAX_HEAD))),
            ),
            ("a long chunk", chunks("1\r\nab")),
            (
                "an endless line",
                chunks(&format!("fffff\r\n{}", "x".repeat(MAX_LINE + 1))),
            ),
        ] {
            assert!(read(&bytes).is_err(), "{name}");
        }
    }

    #[test]
    fn head_and_lines_are_as_long_as_the_caller_says() {
        let is_refused = |bytes: &[u8]| LineDecoder::new(64, 16).feed(bytes).is_err();
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        assert!(!is_refused(
            format!("{head}{}\n", "x".repeat(16)).as_bytes()
        ));
        assert!(is_refused(format!("{head}{}", "x".repeat(17)).as_bytes()));
        assert!(!is_refused(&[b'x'; 63]));
        assert!(is_refused(&[b'x'; 64]));
    }
}
