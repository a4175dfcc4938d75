//! Reading a query: header, the one question, and the OPT record (RFC 1035
//! section 4, RFC 6891).
//!
//! The reader is strict: anything that a resolver would never send is an error, so that later
//! code need not validate again.

use crate::name::{MAX_LABEL, MAX_NAME};

pub(crate) const HEADER: usize = 12;
pub(crate) const CLASS_IN: u16 = 1;
pub(crate) const TYPE_OPT: u16 = 41;

/// The header: the first twelve bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u16,
    flags: u16,
    counts: [u16; 4],
}

impl Header {
    /// `None` if the message is shorter than a header.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(message);
        Some(Self {
            id: cursor.u16()?,
            flags: cursor.u16()?,
            counts: [cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?],
        })
    }

    pub(crate) fn is_response(self) -> bool {
        self.flags & 0x8000 != 0
    }

    pub(crate) fn opcode(self) -> u16 {
        self.flags >> 11 & 0xf
    }

    /// Opcode and RD at their positions in the flags; an answer repeats them (RFC 1035 4.1.1).
    pub(crate) fn repeated_flags(self) -> u16 {
        self.flags & 0x7900
    }
}

/// The question, both as it was sent and in the form in which names are looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    /// Name, type and class, in the sender's letter case.
    pub(crate) raw: &'a [u8],
    lowered: [u8; MAX_NAME],
    pub(crate) kind: u16,
    pub(crate) class: u16,
}

impl Question<'_> {
    /// The name in lower-case wire form.
    pub(crate) fn name(&self) -> &[u8] {
        &self.lowered[..self.raw.len() - 4]
    }
}

/// The content of the sender's OPT record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) version: u8,
    pub(crate) payload: u16,
    pub(crate) dnssec_ok: bool,
}

/// A well-formed query of opcode QUERY.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) question: Question<'a>,
    pub(crate) edns: Option<Edns>,
}

/// The message is malformed and gets FORMERR. Contains the question if at least the question
/// could be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Malformed<'a> {
    /// Name, type and class as they were sent.
    pub(crate) question: Option<&'a [u8]>,
}

impl<'a> Query<'a> {
    pub(crate) fn read(header: Header, message: &'a [u8]) -> Result<Self, Malformed<'a>> {
        let [questions, answers, authorities, additionals] = header.counts;
        // A query has one question (RFC 9619). An IXFR also has one SOA (RFC 1995). OPT and TSIG
        // (RFC 8945) are the only additional records that queries use; reading more would only
        // cost time.
        if questions != 1 || answers != 0 || authorities > 1 || additionals > 2 {
            return Err(Malformed { question: None });
        }
        let mut cursor = Cursor {
            message,
            at: HEADER,
        };
        let question = cursor.question().ok_or(Malformed { question: None })?;
        let malformed = Malformed {
            question: Some(question.raw),
        };
        if authorities == 1 && cursor.record().ok_or(malformed)?.is_some() {
            return Err(malformed);
        }
        let mut edns = None;
        for _ in 0..additionals {
            let found = cursor.record().ok_or(malformed)?;
            if found.is_some() && edns.is_some() {
                return Err(malformed);
            }
            edns = edns.or(found);
        }
        if cursor.at != message.len() {
            return Err(malformed);
        }
        Ok(Self { question, edns })
    }
}

/// A reading position in a message. Its methods return `None` where the message is malformed.
struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn question(&mut self) -> Option<Question<'a>> {
        let start = self.at;
        let mut lowered = [0; MAX_NAME];
        let mut length = 0;
        loop {
            // A compression pointer could only lead into the header or into this name
            // itself, so it is an error like any unknown label type.
            let label = usize::from(self.u8().filter(|&label| usize::from(label) <= MAX_LABEL)?);
            let end = length + 1 + label;
            if end + usize::from(label != 0) > MAX_NAME {
                return None;
            }
            lowered[length] = label as u8;
            lowered[length + 1..end].copy_from_slice(self.take(label)?);
            lowered[length + 1..end].make_ascii_lowercase();
            length = end;
            if label == 0 {
                break;
            }
        }
        let kind = self.u16()?;
        let class = self.u16()?;
        Some(Question {
            raw: &self.message[start..self.at],
            lowered,
            kind,
            class,
        })
    }

    /// Skips the name of a record. Its pointers are followed only to check that they end.
    fn skip_name(&mut self) -> Option<()> {
        let mut start = self.at;
        let mut place = Cursor {
            message: self.message,
            at: self.at,
        };
        let mut behind = None;
        let mut length = 0;
        loop {
            let label = place.u8()?;
            match label {
                0 => break,
                1..=0x3f => {
                    length += 1 + usize::from(label);
                    place.take(usize::from(label))?;
                }
                0xc0.. => {
                    let target = usize::from(label & 0x3f) << 8 | usize::from(place.u8()?);
                    // A pointer must lead backwards (RFC 1035 4.1.4: "a prior occurrence"),
                    // so the walk ends.
                    if !(HEADER..start).contains(&target) {
                        return None;
                    }
                    behind.get_or_insert(place.at);
                    start = target;
                    place.at = target;
                }
                _ => return None,
            }
            if length >= MAX_NAME {
                return None;
            }
        }
        self.at = behind.unwrap_or(place.at);
        Some(())
    }

    /// Skips a record. Returns its content if it is an OPT.
    #[expect(
        clippy::option_option,
        reason = "the outer None means malformed, the inner one means a record other than OPT"
    )]
    fn record(&mut self) -> Option<Option<Edns>> {
        let owner = self.at;
        self.skip_name()?;
        let root = self.message[owner] == 0;
        let kind = self.u16()?;
        let class = self.u16()?;
        let ttl = self.take(4)?;
        let length = usize::from(self.u16()?);
        let data = self.take(length)?;
        if kind != TYPE_OPT {
            return Some(None);
        }
        // RFC 6891 6.1.2: the owner of an OPT is the root, and its data is a list of options.
        let mut options = Cursor::new(data);
        while options.at < data.len() {
            options.u16()?;
            let length = usize::from(options.u16()?);
            options.take(length)?;
        }
        root.then_some(Some(Edns {
            version: ttl[1],
            payload: class,
            dnssec_ok: ttl[2] & 0x80 != 0,
        }))
    }
}
