//! Writing an answer: sections, names and the size limit (RFC 1035 section 4, RFC 2181 section 9:
//! an answer contains a record set completely or not at all).

use crate::message::{CLASS_IN, HEADER, Header, Question, TYPE_OPT};
use crate::name::{Name, prefix_length};

/// The UDP payload in bytes that the server announces, and the most that it sends. It fits any IPv6
/// path without fragments (1280 less headers; DNS Flag Day 2020).
pub(crate) const PAYLOAD: u16 = 1232;
const OPT_SIZE: usize = 11;
const EDE_SIZE: usize = 6;
/// EDNS option of extended errors (RFC 8914).
const OPTION_EDE: u16 = 15;
const TRUNCATED: u8 = 0x02;

/// The sections of an answer, each with its own count of records.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Section {
    Answer = 6,
    Authority = 8,
    Additional = 10,
}

/// The OPT record at the end of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opt {
    pub(crate) dnssec_ok: bool,
    /// Upper eight bits of the response code.
    pub(crate) extended_rcode: u8,
    /// The code of an extended error (RFC 8914).
    pub(crate) extended_error: Option<u16>,
}

impl Opt {
    fn size(self) -> usize {
        OPT_SIZE
            + if self.extended_error.is_some() {
                EDE_SIZE
            } else {
                0
            }
    }
}

/// An answer being written.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    opt: Option<Opt>,
    /// The apex, and its offset in the question.
    apex: Option<(&'a Name, u16)>,
    pub(crate) truncated: bool,
}

impl<'a> Writer<'a> {
    /// Writes the header. `flags` are those that do not come from the query's header: AA and
    /// the response code.
    pub(crate) fn start(
        out: &'a mut Vec<u8>,
        header: Header,
        flags: u16,
        limit: usize,
        opt: Option<Opt>,
    ) -> Self {
        out.clear();
        out.extend(header.id.to_be_bytes());
        out.extend((0x8000 | header.repeated_flags() | flags).to_be_bytes());
        out.extend([0; 8]);
        let limit = limit - opt.map_or(0, Opt::size);
        Self {
            out,
            limit,
            opt,
            apex: None,
            truncated: false,
        }
    }

    /// Repeats the question, letter for letter.
    pub(crate) fn question(&mut self, raw: &[u8]) {
        self.out.extend_from_slice(raw);
        self.out[5] = 1;
    }

    /// From now on, compresses names of the zone `apex`, if the question's name is in that zone.
    pub(crate) fn compress(&mut self, question: &Question<'_>, apex: &'a Name) {
        self.apex = prefix_length(question.name(), apex.as_wire())
            .map(|prefix| (apex, (HEADER + prefix) as u16));
    }

    /// Writes the records that `write` adds, or none of them if they do not all fit. Returns
    /// whether they fit. If records that were asked for are missing, the caller must call
    /// [`Self::truncate`].
    pub(crate) fn whole(&mut self, section: Section, write: impl FnOnce(&mut Self) -> u16) -> bool {
        let before = self.out.len();
        let written = write(self);
        if self.out.len() > self.limit {
            self.out.truncate(before);
            return false;
        }
        self.count(section, written);
        true
    }

    pub(crate) fn truncate(&mut self) {
        self.truncated = true;
        self.out[2] |= TRUNCATED;
    }

    fn count(&mut self, section: Section, more: u16) {
        let at = section as usize;
        let count = u16::from_be_bytes([self.out[at], self.out[at + 1]]) + more;
        self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }

    /// Writes a record whose owner is the question's name.
    pub(crate) fn record_at_question(&mut self, kind: u16, ttl: u32, data: &[u8]) {
        self.pointer(HEADER as u16);
        self.fixed(kind, ttl);
        self.u16(data.len() as u16);
        self.out.extend_from_slice(data);
    }

    /// Writes a record of `owner`; `data` writes its data.
    pub(crate) fn record(
        &mut self,
        owner: &Name,
        kind: u16,
        ttl: u32,
        data: impl FnOnce(&mut Self),
    ) {
        self.name(owner);
        self.fixed(kind, ttl);
        let length = self.out.len();
        self.u16(0);
        data(self);
        let written = (self.out.len() - length - 2) as u16;
        self.out[length..length + 2].copy_from_slice(&written.to_be_bytes());
    }

    fn fixed(&mut self, kind: u16, ttl: u32) {
        self.u16(kind);
        self.u16(CLASS_IN);
        self.u32(ttl);
    }

    /// Writes a name. If it is in the zone, its last part is a pointer to the apex in the question.
    pub(crate) fn name(&mut self, name: &Name) {
        let wire = name.as_wire();
        let suffix = self
            .apex
            .and_then(|(apex, at)| prefix_length(wire, apex.as_wire()).map(|prefix| (prefix, at)));
        match suffix {
            Some((prefix, at)) => {
                self.out.extend_from_slice(&wire[..prefix]);
                self.pointer(at);
            }
            None => self.out.extend_from_slice(wire),
        }
    }

    fn pointer(&mut self, at: u16) {
        self.u16(0xc000 | at);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn u16(&mut self, number: u16) {
        self.out.extend(number.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.out.extend(number.to_be_bytes());
    }

    /// Adds the OPT record, for which space was reserved.
    pub(crate) fn finish(mut self) {
        let Some(opt) = self.opt else { return };
        self.out.push(0);
        self.u16(TYPE_OPT);
        self.u16(PAYLOAD);
        // The server's EDNS version is 0, whatever version the query has (RFC 6891 6.1.3).
        self.out
            .extend([opt.extended_rcode, 0, u8::from(opt.dnssec_ok) << 7, 0]);
        match opt.extended_error {
            None => self.u16(0),
            Some(code) => {
                self.u16(EDE_SIZE as u16);
                self.u16(OPTION_EDE);
                self.u16(2);
                self.u16(code);
            }
        }
        self.count(Section::Additional, 1);
    }
}
