//! What `Connection` says (RFC 9110 section 7.6.1): whether the connection stays open, and
//! which fields are only for this hop.

use crate::fault::Fault;
use crate::fields::Fields;
use crate::framing::Version;
use crate::known::Known;
use crate::lexis::list;

/// How many fields `Connection` may name in one head. Each is searched for among all
/// fields, so without this limit a small head could cost much time.
const MAX_NOMINATIONS: usize = 32;

/// The options that have a meaning of their own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

impl Options {
    /// Whether the sender keeps the connection open (RFC 9112 section 9.3).
    pub(crate) fn persist(self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// Reads all `Connection` fields and marks the fields that they name.
    pub(crate) fn take(fields: &mut Fields, bytes: &[u8]) -> Result<Self, Fault> {
        let mut options = Self::default();
        let mut nominations = 0;
        for index in 0..fields.spans.len() {
            let span = fields.spans[index];
            if span.known != Known::Connection {
                continue;
            }
            for option in list(span.value(bytes)) {
                if options.note(option) {
                    continue;
                }
                nominations += 1;
                if nominations > MAX_NOMINATIONS {
                    return Err(Fault::Options);
                }
                nominate(fields, bytes, option);
            }
        }
        Ok(options)
    }

    fn note(&mut self, option: &[u8]) -> bool {
        let flag = match option.len() {
            5 if option.eq_ignore_ascii_case(b"close") => &mut self.close,
            7 if option.eq_ignore_ascii_case(b"upgrade") => &mut self.upgrade,
            10 if option.eq_ignore_ascii_case(b"keep-alive") => &mut self.keep_alive,
            _ => return false,
        };
        *flag = true;
        true
    }
}

fn nominate(fields: &mut Fields, bytes: &[u8], option: &[u8]) {
    for span in &mut fields.spans {
        if span.known.can_be_nominated() && span.name(bytes).eq_ignore_ascii_case(option) {
            span.known = Known::Nominated;
        }
    }
}
