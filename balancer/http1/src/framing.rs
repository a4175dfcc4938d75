//! How a body's end is told (RFC 9112 section 6): what the fields say, and that
//! they say it once and in one way.
//!
//! Decides nothing about messages that have no body by rule; see the response.

use crate::fault::Fault;
use crate::fields::Section;
use crate::known::Known;
use crate::lexis::{is_token, number};

/// The version of a message. Others are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunks, no interim responses, one request per connection
    /// unless it asks for more.
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How a body's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, by rule or because nothing speaks of one.
    None,
    /// This many bytes, as `Content-Length` said.
    Length(u64),
    /// Chunks until the last one.
    Chunked,
    /// All until the connection closes. Only responses.
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
    pub(crate) fn of(section: Section<'_>, version: Version) -> Result<Self, Fault> {
        let mut lengths = section.all(Known::ContentLength);
        let mut codings = section.all(Known::TransferEncoding);
        match (lengths.next(), codings.next()) {
            (None, None) => Ok(Self::Nothing),
            (Some(_), Some(_)) => Err(Fault::LengthAndCoding),
            // Also where both are equal: a canonical message says it once.
            (Some(_), None) if lengths.next().is_some() => Err(Fault::LengthRepeated),
            (Some(length), None) => number(length).map(Self::Length).ok_or(Fault::Length),
            (None, Some(_)) if codings.next().is_some() => Err(Fault::Coding),
            (None, Some(coding)) => only_chunked(coding, version),
        }
    }
}

fn only_chunked(coding: &[u8], version: Version) -> Result<Told, Fault> {
    if version == Version::Http10 {
        // RFC 9112 section 6.1: such a message's framing is faulty.
        Err(Fault::CodingOld)
    } else if coding.eq_ignore_ascii_case(b"chunked") {
        Ok(Told::Chunked)
    } else if is_token(coding) {
        Err(Fault::CodingUnknown)
    } else {
        Err(Fault::Coding)
    }
}
