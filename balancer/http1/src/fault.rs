//! Everything that can be wrong with a message, as one closed list. Each fault has the
//! status of the answer, a short name for metrics and the broken rule as a sentence.
//!
//! The modules that read messages decide when a rule is broken.

use core::error::Error;
use core::fmt;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status to answer with: 400, 405, 414, 431, 501 or 505.
    pub status: u16,
    /// One of [`REASONS`]: short enough for a metric's label and for the text of an answer.
    pub reason: &'static str,
}

/// Why a response or a body cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// One of [`REASONS`].
    pub reason: &'static str,
}

/// A single list, so that the enum, its texts and the public set cannot differ.
macro_rules! faults {
    ($($name:ident $status:literal $reason:literal $rule:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault { $($name,)* }

        /// Every reason that a [`Refusal`] or [`Malformed`] can have.
        pub const REASONS: &[&str] = &[$($reason,)*];

        const STATUS: &[u16] = &[$($status,)*];

        /// The broken rule as a sentence, for the log.
        const RULES: &[&str] = &[$($rule,)*];
    };
}

faults! {
    BareLf 400 "bare-lf"
        "a line ends with LF alone, not with CRLF (RFC 9112 section 2.2)",
    BareCr 400 "bare-cr"
        "a CR stands alone in the head (RFC 9112 section 2.2)",
    RequestLine 400 "request-line"
        "the first line is not a request line (RFC 9112 section 3)",
    Method 400 "method"
        "the method is not a token (RFC 9110 section 9.1)",
    MethodLong 501 "method-too-long"
        "the method is longer than any known method",
    Connect 405 "connect"
        "CONNECT asks for a forward proxy, which this is not",
    Target 400 "target"
        "the request target is malformed (RFC 9112 section 3.2)",
    TargetLong 414 "target-too-long"
        "the request target is longer than half of the limit for a head",
    Version 505 "version"
        "the version is neither HTTP/1.0 nor HTTP/1.1",
    HeadLong 431 "head-too-long"
        "the head is longer than the limit",
    FieldsMany 431 "too-many-fields"
        "the head has more fields than the limit",
    FieldName 400 "field-name"
        "a field's name is not a token, or there is space before the colon of a field that frames the message (RFC 9112 section 5.1)",
    FieldValue 400 "field-value"
        "a field's value has a control byte (RFC 9110 section 5.5)",
    Folding 400 "line-folding"
        "a line begins with a space, which continues a field: this is refused in a request, for a field that frames the message, and if there is no field before it (RFC 9112 section 5.2)",
    HostMissing 400 "host-missing"
        "Host is missing (RFC 9112 section 3.2)",
    HostRepeated 400 "host-repeated"
        "Host is given more than once (RFC 9112 section 3.2)",
    Host 400 "host"
        "Host is empty or not a host (RFC 9112 section 3.2)",
    HostDiffers 400 "host-differs-from-target"
        "Host differs from the request target (RFC 9112 section 3.2.2)",
    Options 400 "too-many-connection-options"
        "Connection names too many fields",
    LengthAndCoding 400 "length-and-coding"
        "Content-Length and Transfer-Encoding are both given (RFC 9112 section 6.3)",
    LengthRepeated 400 "length-repeated"
        "Content-Length is given more than once: a request must not repeat it, and an answer may repeat only the same number (RFC 9110 section 8.6)",
    Length 400 "length"
        "Content-Length is not a number (RFC 9110 section 8.6)",
    Coding 400 "coding"
        "Transfer-Encoding lists more than chunked (RFC 9112 section 6.1)",
    CodingUnknown 501 "coding-unknown"
        "Transfer-Encoding is not chunked, the only coding that is supported (RFC 9112 section 7)",
    CodingOld 400 "coding-in-http10"
        "Transfer-Encoding is given in an HTTP/1.0 message (RFC 9112 section 6.1)",
    StatusLine 400 "status-line"
        "the first line is not a status line of HTTP/1.0 or HTTP/1.1 (RFC 9112 section 4)",
    Interim 400 "interim-with-body"
        "an interim answer (1xx) announces a body, or its version is HTTP/1.0 (RFC 9110 section 15.2)",
    Switching 400 "switching-unasked"
        "the answer is 101 although the request did not ask for another protocol (RFC 9110 section 15.2.2)",
    SwitchingTo 400 "switching-to-nothing"
        "the answer is 101 without Upgrade (RFC 9110 section 7.8)",
    ChunkSize 400 "chunk-size"
        "a chunk's size is not a hexadecimal number of at most 16 digits and CRLF (RFC 9112 section 7.1)",
    ChunkExtension 400 "chunk-extension"
        "a chunk's extension is malformed or too long (RFC 9112 section 7.1.1)",
    ChunkEnd 400 "chunk-end"
        "a chunk is longer than it says (RFC 9112 section 7.1)",
    Trailer 400 "trailer"
        "a trailer field is malformed (RFC 9112 section 7.1.2)",
    TrailerLong 400 "trailer-too-long"
        "the trailer is too long",
    CutOff 400 "body-cut-off"
        "the connection ended within the body (RFC 9112 section 8)",
}

impl Fault {
    const fn reason(self) -> &'static str {
        REASONS[self as usize]
    }
}

/// The rule that `reason` stands for; the reason itself if it is not one of [`REASONS`].
fn rule(reason: &'static str) -> &'static str {
    let at = REASONS.iter().position(|&known| known == reason);
    at.map_or(reason, |at| RULES[at])
}

impl Refusal {
    /// What was wrong and which rule was broken, for the log.
    pub fn rule(&self) -> &'static str {
        rule(self.reason)
    }
}

impl Malformed {
    /// Whether a field continues on a second line, which [`crate::unfold`] may repair.
    pub fn is_folded(&self) -> bool {
        self.reason == Fault::Folding.reason()
    }

    /// What was wrong and which rule was broken, for the log.
    pub fn rule(&self) -> &'static str {
        rule(self.reason)
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
