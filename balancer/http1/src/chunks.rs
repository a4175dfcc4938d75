//! The framing bytes around chunks (RFC 9112 section 7.1): sizes, extensions, line ends and
//! trailers.
//!
//! Framing bytes are processed one at a time, so it makes no difference how they are split. The
//! data between them is not interpreted. Extensions are checked and dropped: they mean nothing
//! to the next hop. Trailers are checked; `trailers` says which of them may be passed on.

use crate::fault::Fault;
use crate::lexis::{is_space, is_token_byte, is_value_byte};

/// The most hexadecimal digits of a chunk's size. Sixteen digits are 64 bits.
const SIZE_DIGITS: u8 = 16;

/// The most bytes of extensions in one line.
const EXTENSION_BYTES: u32 = 1 << 10;

/// The most bytes of extensions that may run ahead of the data. Without this limit, a body
/// could continue forever with extensions and one byte of data in each chunk.
const EXTENSION_ADVANCE: u32 = 16 << 10;

/// The position of the next byte within the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size {
        digits: u8,
    },
    Extension {
        bytes: u32,
        at: Extension,
    },
    SizeLf,
    /// The data of a chunk, which is not given to [`Chunks::take`].
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    End,
}

/// The position within `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`.
/// Space before the first semicolon is refused, because many parsers take it for a part of
/// the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// A name must follow.
    Start,
    Name,
    /// In the space after a name.
    NameEnd,
    /// A value must follow.
    Equals,
    Token,
    Quoted,
    /// After a backslash.
    Escaped,
    /// After the closing quote.
    Unquoted,
    /// In the space after a value.
    ValueEnd,
}

impl Extension {
    /// The state after `byte`; `None` if the byte is not allowed here.
    fn after(self, byte: u8) -> Option<Self> {
        match self {
            Self::Start if is_space(byte) => Some(Self::Start),
            Self::Start | Self::Name if is_token_byte(byte) => Some(Self::Name),
            Self::Name | Self::NameEnd if byte == b'=' => Some(Self::Equals),
            Self::Name | Self::NameEnd if is_space(byte) => Some(Self::NameEnd),
            Self::Equals if is_space(byte) => Some(Self::Equals),
            Self::Equals if byte == b'"' => Some(Self::Quoted),
            Self::Equals | Self::Token if is_token_byte(byte) => Some(Self::Token),
            Self::Quoted if byte == b'"' => Some(Self::Unquoted),
            Self::Quoted if byte == b'\\' => Some(Self::Escaped),
            Self::Quoted | Self::Escaped if is_value_byte(byte) => Some(Self::Quoted),
            Self::Token | Self::Unquoted | Self::ValueEnd if is_space(byte) => Some(Self::ValueEnd),
            Self::Name | Self::NameEnd | Self::Token | Self::Unquoted | Self::ValueEnd
                if byte == b';' =>
            {
                Some(Self::Start)
            }
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Token | Self::Unquoted)
    }
}

/// The state between two bytes of framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    at: At,
    /// The rest of the current chunk, in bytes.
    size: u64,
    advance: u32,
    trailers: u32,
    max_trailers: u32,
}

impl Chunks {
    /// `max_trailers` is how many bytes all trailers may have.
    pub(crate) const fn new(max_trailers: u32) -> Self {
        Self {
            at: At::Size { digits: 0 },
            size: 0,
            advance: EXTENSION_ADVANCE,
            trailers: 0,
            max_trailers,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == At::End
    }

    /// How many bytes of data come next, before any framing.
    pub(crate) fn data_left(&self) -> u64 {
        if self.at == At::Data { self.size } else { 0 }
    }

    /// Counts bytes of data that have been read.
    pub(crate) fn pass_data(&mut self, bytes: usize) {
        self.size = self.size.saturating_sub(bytes as u64);
        let credit = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.advance = self.advance.saturating_add(credit).min(EXTENSION_ADVANCE);
        if self.size == 0 {
            self.at = At::DataCr;
        }
    }

    /// Whether the bytes that come next belong to a trailer field that has begun, or may begin
    /// one.
    pub(crate) fn is_in_trailers(&self) -> bool {
        matches!(
            self.at,
            At::TrailerStart | At::TrailerName | At::TrailerValue | At::TrailerLf
        )
    }

    /// Processes the next byte of framing.
    pub(crate) fn take(&mut self, byte: u8) -> Result<(), Fault> {
        self.at = match self.at {
            At::Size { digits } => self.size(byte, digits)?,
            At::Extension { bytes, at } => self.extension(byte, bytes, at)?,
            At::SizeLf if byte != b'\n' => return Err(Fault::ChunkSize),
            At::SizeLf if self.size == 0 => At::TrailerStart,
            At::SizeLf => At::Data,
            At::DataCr if byte == b'\r' => At::DataLf,
            At::DataLf if byte == b'\n' => At::Size { digits: 0 },
            At::TrailerStart | At::TrailerName | At::TrailerValue | At::TrailerLf | At::LastLf => {
                self.trailer(byte)?
            }
            // The data must be followed by CRLF. In `Data` and `End`, the caller passes no
            // bytes.
            At::DataCr | At::DataLf | At::Data | At::End => return Err(Fault::ChunkEnd),
        };
        Ok(())
    }

    fn size(&mut self, byte: u8, digits: u8) -> Result<At, Fault> {
        if let Some(digit) = (byte as char).to_digit(16) {
            if digits == SIZE_DIGITS {
                return Err(Fault::ChunkSize);
            }
            // The preceding chunk is complete, so `size` was 0 before the first digit.
            self.size = self.size << 4 | u64::from(digit);
            return Ok(At::Size { digits: digits + 1 });
        }
        match byte {
            b'\r' if digits > 0 => Ok(At::SizeLf),
            b';' if digits > 0 => Ok(At::Extension {
                bytes: 1,
                at: Extension::Start,
            }),
            _ => Err(Fault::ChunkSize),
        }
    }

    fn extension(&mut self, byte: u8, bytes: u32, at: Extension) -> Result<At, Fault> {
        if byte == b'\r' && at.may_end() {
            return Ok(At::SizeLf);
        }
        if bytes == EXTENSION_BYTES || self.advance == 0 {
            return Err(Fault::ChunkExtension);
        }
        self.advance -= 1;
        let at = at.after(byte).ok_or(Fault::ChunkExtension)?;
        Ok(At::Extension {
            bytes: bytes + 1,
            at,
        })
    }

    fn trailer(&mut self, byte: u8) -> Result<At, Fault> {
        self.trailers += 1;
        if self.trailers > self.max_trailers {
            return Err(Fault::TrailerLong);
        }
        match (self.at, byte) {
            (At::TrailerStart, b'\r') => Ok(At::LastLf),
            (At::TrailerStart | At::TrailerName, byte) if is_token_byte(byte) => {
                Ok(At::TrailerName)
            }
            (At::TrailerName, b':') => Ok(At::TrailerValue),
            (At::TrailerValue, b'\r') => Ok(At::TrailerLf),
            (At::TrailerValue, byte) if is_value_byte(byte) => Ok(At::TrailerValue),
            (At::TrailerLf, b'\n') => Ok(At::TrailerStart),
            (At::LastLf, b'\n') => Ok(At::End),
            _ => Err(Fault::Trailer),
        }
    }
}
