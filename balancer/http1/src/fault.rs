//! Everything that can be wrong with a message: one closed list with the status
//! that answers it and the word that names it.
//!
//! Decides no rule itself; the modules that read do.

use core::error::Error;
use core::fmt;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What to answer: 400, 405, 414, 431, 501 or 505.
    pub status: u16,
    /// One of [`REASONS`]: short enough for a metric's label and a body's text.
    pub reason: &'static str,
}

/// Why a response or a body cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// One of [`REASONS`].
    pub reason: &'static str,
}

/// One list, so that the enum, its texts and the public set cannot differ.
macro_rules! faults {
    ($($name:ident $status:literal $reason:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault { $($name,)* }

        /// Every reason that a [`Refusal`] or [`Malformed`] can have.
        pub const REASONS: &[&str] = &[$($reason,)*];

        const STATUS: &[u16] = &[$($status,)*];
    };
}

faults! {
    BareLf 400 "bare-lf",
    BareCr 400 "bare-cr",
    RequestLine 400 "request-line",
    Method 400 "method",
    MethodLong 501 "method-too-long",
    Connect 405 "connect",
    Target 400 "target",
    TargetLong 414 "target-too-long",
    Version 505 "version",
    HeadLong 431 "head-too-long",
    FieldsMany 431 "too-many-fields",
    FieldName 400 "field-name",
    FieldValue 400 "field-value",
    Folding 400 "line-folding",
    HostMissing 400 "host-missing",
    HostRepeated 400 "host-repeated",
    Host 400 "host",
    HostDiffers 400 "host-differs-from-target",
    Options 400 "too-many-connection-options",
    LengthAndCoding 400 "length-and-coding",
    LengthRepeated 400 "length-repeated",
    Length 400 "length",
    Coding 400 "coding",
    CodingUnknown 501 "coding-unknown",
    CodingOld 400 "coding-in-http10",
    StatusLine 400 "status-line",
    Interim 400 "interim-with-body",
    Switching 400 "switching-unasked",
    SwitchingTo 400 "switching-to-nothing",
    ChunkSize 400 "chunk-size",
    ChunkExtension 400 "chunk-extension",
    ChunkEnd 400 "chunk-end",
    Trailer 400 "trailer",
    TrailerLong 400 "trailer-too-long",
    CutOff 400 "body-cut-off",
}

impl Fault {
    const fn reason(self) -> &'static str {
        REASONS[self as usize]
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self {
            status: STATUS[fault as usize],
            reason: fault.reason(),
        }
    }
}

impl From<Fault> for Malformed {
    fn from(fault: Fault) -> Self {
        Self {
            reason: fault.reason(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.status, self.reason)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason)
    }
}

impl Error for Refusal {}

impl Error for Malformed {}
