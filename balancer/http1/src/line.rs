//! Where a line of a head ends: at CRLF, and in an answer also at a bare LF.
//!
//! RFC 9112 section 2.2 allows a recipient to accept a bare LF as a line end. In a request,
//! this leniency would let two parsers read the same bytes differently. A bare LF is
//! therefore a fault in a request, and it is noticed as soon as it arrives: the codec never
//! waits for more bytes of a head that a lenient parser would consider complete. Some apps
//! that write their answers by hand do end lines with LF, and nginx, `HAProxy` and Go
//! accept that. What a bare LF means for the connection is decided in `response`.

use memchr::memchr;

use crate::fault::Fault;

/// Which side wrote the head; the rules for a server are more lenient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    /// RFC 9112 section 5.1: space before a colon is removed from an answer.
    Server,
}

/// A complete line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where its content ends and CRLF or LF begins.
    pub(crate) end: usize,
    /// Where the next line begins.
    pub(crate) next: usize,
}

impl Line {
    /// Whether it ends with LF alone.
    pub(crate) const fn is_bare(self) -> bool {
        self.next - self.end == 1
    }
}

/// The end of the line that starts at `start`; `None` while it has not arrived.
pub(crate) fn end_of_line(
    bytes: &[u8],
    start: usize,
    sender: Sender,
) -> Result<Option<Line>, Fault> {
    let rest = &bytes[start..];
    match memchr(b'\n', rest) {
        Some(length) => {
            let next = start + length + 1;
            if length > 0 && rest[length - 1] == b'\r' {
                let end = next - 2;
                return Ok(Some(Line { end, next }));
            }
            match sender {
                Sender::Client => Err(Fault::BareLf),
                Sender::Server => Ok(Some(Line {
                    end: next - 1,
                    next,
                })),
            }
        }
        // The last byte may be the CR of a CRLF that has not fully arrived.
        None => match memchr(b'\r', rest) {
            Some(at) if at + 1 < rest.len() => Err(Fault::BareCr),
            _ => Ok(None),
        },
    }
}

/// A line that has not ended, without the CR that may belong to its end.
pub(crate) fn unfinished(bytes: &[u8], start: usize) -> &[u8] {
    let line = &bytes[start..];
    line.strip_suffix(b"\r").unwrap_or(line)
}
