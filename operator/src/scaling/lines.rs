//! Reads the bytes of a `/load` answer: its status, then lines of bounded length.
//!
//! The decoder accepts input in pieces of any size. It reads HTTP/1 answers (RFC 9112, chunked or
//! until the connection closes) and refuses everything else. [`super::streams`] decides what the
//! status and the lines mean.

use scaledapp_runtime::{Chunked, ChunkedDecoder};

/// The longest head, in bytes.
const MAX_HEAD: usize = 4 << 10;
/// The longest line, in bytes. A line of `/load` has about two hundred.
pub(crate) const MAX_LINE: usize = 4 << 10;

/// The bytes are no stream of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a stream of lines over HTTP/1: {0}")]
pub(crate) struct Malformed(&'static str);

/// The decoder of one answer.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    state: State,
    /// The status, once the head is complete.
    status: Option<u16>,
    /// The incomplete head or line so far.
    held: Vec<u8>,
    /// The last complete line.
    line: Option<Vec<u8>>,
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

impl Decoder {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// They are no answer of HTTP/1, or a line is too long.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for &byte in bytes {
            self.state = self.step(byte)?;
        }
        Ok(())
    }

    /// The status of the answer, once its head is complete.
    pub(crate) const fn status(&self) -> Option<u16> {
        self.status
    }

    /// The last line that was completed since the previous call. Earlier ones are not needed,
    /// because a line of `/load` counts since the process began.
    pub(crate) fn newest(&mut self) -> Option<Vec<u8>> {
        self.line.take()
    }

    /// Whether the answer has ended.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        Ok(match self.state {
            State::Head => {
                self.held.push(byte);
                if self.held.ends_with(b"\r\n\r\n") {
                    let (status, state) = head(&self.held)?;
                    self.held.clear();
                    self.status = Some(status);
                    state
                } else if self.held.len() >= MAX_HEAD {
                    return Err(Malformed("its head is longer than 4 KiB"));
                } else {
                    State::Head
                }
            }
            State::Plain => {
                self.content(byte)?;
                State::Plain
            }
            State::Chunked(mut decoder) => match decoder.next(byte).map_err(Malformed)? {
                Chunked::Framing => State::Chunked(decoder),
                Chunked::Content => {
                    self.content(byte)?;
                    State::Chunked(decoder)
                }
                Chunked::End => State::Over,
            },
            // The rest does not matter, because the connection is not used again.
            State::Over => State::Over,
        })
    }

    fn content(&mut self, byte: u8) -> Result<(), Malformed> {
        if byte == b'\n' {
            let mut spare = self.line.take().unwrap_or_default();
            spare.clear();
            self.line = Some(std::mem::replace(&mut self.held, spare));
        } else if self.held.len() >= MAX_LINE {
            return Err(Malformed("a line is longer than 4 KiB"));
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
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|rest| rest.get(2..5)?.parse().ok())
        .filter(|code| (100..600).contains(code))
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

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// Reads `bytes` cut into pieces of each size; the result must always be the same.
    fn read(bytes: &[u8]) -> (Option<u16>, Option<Vec<u8>>, bool) {
        let run = |size: usize| {
            let mut decoder = Decoder::default();
            for piece in bytes.chunks(size) {
                decoder.feed(piece).unwrap();
            }
            (decoder.status(), decoder.newest(), decoder.is_over())
        };
        let whole = run(bytes.len());
        for size in 1..8 {
            assert_eq!(run(size), whole);
        }
        whole
    }

    #[test]
    fn the_newest_complete_line_is_kept_however_the_bytes_are_cut() {
        let line = |text: &str| Some(text.as_bytes().to_vec());
        let body = b"3\r\n{}\n\r\n1\r\n\n\r\n4\r\nabc\n\r\n3\r\nnot\r\n";
        assert_eq!(
            read(&[CHUNKED, body].concat()),
            (Some(200), line("abc"), false)
        );
        let ended = [CHUNKED, b"2\r\na\n\r\n0\r\n\r\nHTTP/1.1 200 OK"].concat();
        assert_eq!(read(&ended), (Some(200), line("a"), true));
        let plain = b"HTTP/1.0 404\r\n\r\nno\nmore";
        assert_eq!(read(plain), (Some(404), line("no"), false));
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n"), (None, None, false));
    }

    #[test]
    fn other_protocols_and_endless_lines_are_refused() {
        let long = [CHUNKED, b"ffff\r\n", &[b'x'; MAX_LINE + 1]].concat();
        let gzip = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".to_vec();
        let bad = [
            long,
            gzip,
            vec![b'x'; MAX_HEAD],
            b"SSH-2.0-x\r\n\r\n".to_vec(),
            b"HTTP/1.1 9\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n".to_vec(),
        ];
        for bytes in bad {
            assert!(Decoder::default().feed(&bytes).is_err());
        }
    }
}
