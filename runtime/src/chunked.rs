//! The chunked transfer coding of HTTP/1 (RFC 9112 section 7.1), read byte by byte.
//!
//! The decoder is used for answers of admin ports and for apps' metrics. Bytes after the last
//! chunk are ignored, because the connection is not used again. The forwarding path reads with
//! `scaledapp-http1`, which has to be stricter.

/// The most bytes of the extension after a chunk's size.
const MAX_EXTENSION: usize = 1 << 10;
/// The most hexadecimal digits of a chunk's size. A size of that many digits cannot overflow.
const MAX_DIGITS: usize = 15;

/// What a byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunked {
    /// Framing.
    Framing,
    /// Content.
    Content,
    /// The end of the last chunk's size: the content is complete.
    End,
}

/// The position of the next byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a chunk's size.
    Size { size: u64, digits: usize },
    /// In a chunk's extension.
    Extension { size: u64, length: usize },
    /// Before the line feed after a chunk's size.
    SizeEnd { size: u64 },
    /// In a chunk.
    Data { left: u64 },
    /// Before the CR after a chunk.
    DataEnd,
    /// Before the LF after a chunk.
    DataEndLf,
    /// After the last chunk.
    Over,
}

/// The decoder of one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkedDecoder(State);

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self(State::Size { size: 0, digits: 0 })
    }
}

impl ChunkedDecoder {
    /// Processes the next byte and returns what it belongs to.
    ///
    /// # Errors
    /// The coding is malformed; the text says how.
    pub fn next(&mut self, byte: u8) -> Result<Chunked, &'static str> {
        let mut is = Chunked::Framing;
        self.0 = match self.0 {
            State::Size { size, digits } => match (byte, (byte as char).to_digit(16)) {
                (_, Some(digit)) if digits < MAX_DIGITS => State::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                },
                (b'\r', _) if digits > 0 => State::SizeEnd { size },
                (b';' | b' ' | b'\t', _) if digits > 0 => State::Extension { size, length: 0 },
                _ => return Err("a chunk's size cannot be read"),
            },
            State::Extension { size, .. } if byte == b'\r' => State::SizeEnd { size },
            State::Extension { length, .. } if byte == b'\n' || length >= MAX_EXTENSION => {
                return Err("a chunk's extension is malformed");
            }
            State::Extension { size, length } => State::Extension {
                size,
                length: length + 1,
            },
            State::SizeEnd { size: 0 } if byte == b'\n' => {
                is = Chunked::End;
                State::Over
            }
            State::SizeEnd { size } if byte == b'\n' => State::Data { left: size },
            State::SizeEnd { .. } => return Err("a chunk's size has no line end"),
            State::Data { left } => {
                is = Chunked::Content;
                match left - 1 {
                    0 => State::DataEnd,
                    left => State::Data { left },
                }
            }
            State::DataEnd if byte == b'\r' => State::DataEndLf,
            State::DataEndLf if byte == b'\n' => State::Size { size: 0, digits: 0 },
            State::DataEnd | State::DataEndLf => return Err("a chunk is longer than it says"),
            State::Over => State::Over,
        };
        Ok(is)
    }
}
