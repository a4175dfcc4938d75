//! The field lines of a head (RFC 9112 section 5): which are well-formed, and where their
//! names and values are.
//!
//! The meaning of a field is not decided here.

use alloc::vec::Vec;
use core::ops::Range;

use crate::fault::Fault;
use crate::known::Known;
use crate::lexis::{after_spaces, is_value, token_length, trimmed};
use crate::limits::Limits;
use crate::line::{Line, Sender, end_of_line};

/// The most bytes of a refused line that are shown.
const NAME_SHOWN: usize = 64;

/// The position of one field in the bytes of its head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    start: u32,
    /// Where the name ends.
    end_of_name: u32,
    value: u32,
    end: u32,
    pub(crate) known: Known,
}

impl Span {
    pub(crate) fn name<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.start as usize..self.end_of_name as usize]
    }

    pub(crate) fn value<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.value as usize..self.end as usize]
    }
}

/// Reusable memory for the fields of one head. It holds positions and no copies, so a head
/// costs no allocation once an earlier one had as many fields.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    pub(crate) spans: Vec<Span>,
    /// The position of the line that was refused.
    refused: Range<usize>,
    /// Whether a line ended with LF alone.
    pub(crate) has_bare_end: bool,
}

impl Fields {
    /// Reads the lines from `start` to the empty line and returns where the head ends;
    /// `None` while that line has not arrived.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        mut start: usize,
        limits: &Limits,
        sender: Sender,
    ) -> Result<Option<usize>, Fault> {
        self.spans.clear();
        self.refused = 0..0;
        self.has_bare_end = false;
        while let Some(line) = end_of_line(bytes, start, sender)? {
            let Line { end, next } = line;
            self.has_bare_end |= line.is_bare();
            if end == start {
                return Ok(Some(next));
            }
            if self.spans.len() >= limits.fields {
                return Err(Fault::FieldsMany);
            }
            match field(bytes, start, end, sender) {
                Ok(span) => self.spans.push(span),
                Err(fault) => {
                    self.refused = start..end;
                    return Err(fault);
                }
            }
            start = next;
        }
        Ok(None)
    }

    /// The beginning of the field line for which the head in `bytes` was refused, up to its
    /// colon, at most 64 bytes. The text is for the log, so it ends before the value, which
    /// may be a secret. Empty if the head was not refused for a single field line.
    pub fn refused<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let line = bytes.get(self.refused.clone()).unwrap_or_default();
        let end = line.iter().position(|&byte| byte == b':');
        &line[..end.unwrap_or(line.len()).min(NAME_SHOWN)]
    }

    pub(crate) fn section<'b>(&'b self, bytes: &'b [u8]) -> Section<'b> {
        Section {
            bytes,
            spans: &self.spans,
        }
    }
}

fn field(bytes: &[u8], start: usize, end: usize, sender: Sender) -> Result<Span, Fault> {
    if matches!(bytes[start], b' ' | b'\t') {
        return Err(Fault::Folding);
    }
    let end_of_name = start + token_length(&bytes[start..end]);
    let colon = match sender {
        // A space before the colon is not a token byte, so it is refused here, too.
        Sender::Client => end_of_name,
        Sender::Server => after_spaces(bytes, end_of_name),
    };
    // `colon` is at most `end`, and there is a line end at `end`, so the index is valid.
    if end_of_name == start || bytes[colon] != b':' {
        return Err(Fault::FieldName);
    }
    let known = Known::of(&bytes[start..end_of_name]);
    if colon > end_of_name && known.frames() {
        return Err(Fault::FieldName);
    }
    let value = trimmed(bytes, colon + 1..end);
    if !is_value(&bytes[value.clone()]) {
        return Err(Fault::FieldValue);
    }
    // The window of a head is below 4 GiB (see `Limits::window`).
    Ok(Span {
        start: start as u32,
        end_of_name: end_of_name as u32,
        value: value.start as u32,
        end: value.end as u32,
        known,
    })
}

/// The fields of one head, with the bytes that they are in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section<'b> {
    bytes: &'b [u8],
    spans: &'b [Span],
}

impl<'b> Section<'b> {
    pub(crate) fn iter(self) -> impl Iterator<Item = (Known, &'b [u8], &'b [u8])> {
        let parts = move |span: &Span| (span.known, span.name(self.bytes), span.value(self.bytes));
        self.spans.iter().map(parts)
    }

    /// The values of all fields with this meaning, in their order.
    pub(crate) fn all(self, known: Known) -> impl DoubleEndedIterator<Item = &'b [u8]> {
        let spans = self.spans.iter().filter(move |span| span.known == known);
        spans.map(move |span| span.value(self.bytes))
    }

    pub(crate) fn first(self, known: Known) -> Option<&'b [u8]> {
        self.all(known).next()
    }

    pub(crate) fn named(self, wanted: &str) -> Option<&'b [u8]> {
        let is_it = |span: &&Span| {
            (span.end_of_name - span.start) as usize == wanted.len()
                && span
                    .name(self.bytes)
                    .eq_ignore_ascii_case(wanted.as_bytes())
        };
        let span = self.spans.iter().find(is_it)?;
        Some(span.value(self.bytes))
    }
}
