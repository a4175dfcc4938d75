//! How the end of a body is announced (RFC 9112 section 6), and which announcements are
//! refused because they are ambiguous.
//!
//! Messages that have no body by rule are not considered here; see `response`.

use crate::fault::Fault;
use crate::fields::Section;
use crate::known::Known;
use crate::lexis::{is_token, number, trim};
use crate::line::Sender;

/// The version of a message. All other versions are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunks, no interim responses, and one request per connection unless the
    /// client asks for more.
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How the end of a body is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, by rule or because no field announces one.
    None,
    /// The body has this many bytes (`Content-Length`).
    Length(u64),
    /// The body is in chunks, the last of which is marked.
    Chunked,
    /// The body ends with the connection. Only in responses.
    UntilClose,
}

/// What the fields say about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    Length(u64),
    Chunked,
}

impl Told {
    pub(crate) fn of(
        section: Section<'_>,
        version: Version,
        sender: Sender,
    ) -> Result<Self, Fault> {
        let mut lengths = section.all(Known::ContentLength);
        let mut codings = section.all(Known::TransferEncoding);
        match (lengths.next(), codings.next()) {
            (None, None) => Ok(Self::Nothing),
            (Some(_), Some(_)) => Err(Fault::LengthAndCoding),
            (Some(length), None) => match sender {
                // A second `Content-Length` is refused even if its number is equal: a canonical
                // message gives the length once.
                Sender::Client if lengths.next().is_some() => Err(Fault::LengthRepeated),
                Sender::Client => number(length).map(Self::Length).ok_or(Fault::Length),
                Sender::Server => same_length(length, lengths),
            },
            (None, Some(coding)) => match sender {
                Sender::Client if codings.next().is_some() => Err(Fault::Coding),
                Sender::Client => only_chunked(coding, version),
                Sender::Server => chunked_again(coding, codings, version),
            },
        }
    }
}

/// The length of an answer whose `Content-Length` is given more than once, in several
/// fields or as a list. RFC 9110 section 8.6 allows a recipient to treat equal numbers as
/// one.
fn same_length<'b>(first: &'b [u8], others: impl Iterator<Item = &'b [u8]>) -> Result<Told, Fault> {
    let mut length = None;
    for value in core::iter::once(first).chain(others) {
        for element in value.split(|&byte| byte == b',') {
            let told = number(trim(element)).ok_or(Fault::Length)?;
            if length.is_some_and(|length| length != told) {
                return Err(Fault::LengthRepeated);
            }
            length = Some(told);
        }
    }
    length.map(Told::Length).ok_or(Fault::Length)
}

/// The coding of an answer that may name `chunked` more than once: frameworks that pass on
/// the fields of an answer may add it a second time. RFC 9112 section 6.1 forbids applying
/// it twice, so it counts once.
fn chunked_again<'b>(
    first: &'b [u8],
    others: impl Iterator<Item = &'b [u8]>,
    version: Version,
) -> Result<Told, Fault> {
    for value in core::iter::once(first).chain(others) {
        let mut elements = value.split(|&byte| byte == b',').map(trim).peekable();
        let first = elements.next().unwrap_or_default();
        let is_one = elements.peek().is_none();
        for element in core::iter::once(first).chain(elements) {
            match only_chunked(element, version) {
                // A list such as `gzip, chunked` is a different fault from a single unknown
                // coding.
                Err(Fault::CodingUnknown) if !is_one => return Err(Fault::Coding),
                Err(fault) => return Err(fault),
                Ok(_) => {}
            }
        }
    }
    Ok(Told::Chunked)
}

fn only_chunked(coding: &[u8], version: Version) -> Result<Told, Fault> {
    if version == Version::Http10 {
        // RFC 9112 section 6.1: a coding in a message of HTTP/1.0 is faulty framing.
        Err(Fault::CodingOld)
    } else if coding.eq_ignore_ascii_case(b"chunked") {
        Ok(Told::Chunked)
    } else if is_token(coding) {
        Err(Fault::CodingUnknown)
    } else {
        Err(Fault::Coding)
    }
}
