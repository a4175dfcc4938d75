//! Where a line of a head ends: CRLF and nothing else.
//!
//! RFC 9112 section 2.2 lets a recipient take a bare LF for an end. That
//! leniency is what makes two parsers differ, so here it is a fault, seen as
//! soon as the byte is there: a head that would be complete for a lenient
//! parser never waits for more.

use memchr::memchr;

use crate::fault::Fault;

/// The position of the CR that ends the line that starts at `start`; none while
/// it has not ended.
pub(crate) fn end_of_line(bytes: &[u8], start: usize) -> Result<Option<usize>, Fault> {
    let rest = &bytes[start..];
    match memchr(b'\n', rest) {
        Some(0) => Err(Fault::BareLf),
        Some(length) if rest[length - 1] != b'\r' => Err(Fault::BareLf),
        Some(length) => Ok(Some(start + length - 1)),
        // The last byte may be the CR of a CRLF that is under way.
        None => match memchr(b'\r', rest) {
            Some(at) if at + 1 < rest.len() => Err(Fault::BareCr),
            _ => Ok(None),
        },
    }
}

/// A line that has not ended, without the CR that may be its end.
pub(crate) fn unfinished(bytes: &[u8], start: usize) -> &[u8] {
    let line = &bytes[start..];
    line.strip_suffix(b"\r").unwrap_or(line)
}
