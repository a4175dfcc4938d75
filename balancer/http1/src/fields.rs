//! The field lines of a head (RFC 9112 section 5): which are well formed, and
//! where their names and values are.
//!
//! Decides nothing about what a field means.

use alloc::vec::Vec;

use crate::fault::Fault;
use crate::known::Known;
use crate::lexis::{is_value, token_length, trimmed};
use crate::limits::Limits;
use crate::line::end_of_line;

/// Where one field is in the bytes of its head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    start: u32,
    colon: u32,
    value: u32,
    end: u32,
    pub(crate) known: Known,
}

impl Span {
    pub(crate) fn name<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.start as usize..self.colon as usize]
    }

    pub(crate) fn value<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.value as usize..self.end as usize]
    }
}

/// Reusable memory for the fields of one head: spans, not copies, so a head
/// costs no allocation once it has held as many fields.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    pub(crate) spans: Vec<Span>,
}

impl Fields {
    /// Reads the lines from `start` to the empty one and gives where the head
    /// ends; none while that line is not there.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        mut start: usize,
        limits: &Limits,
    ) -> Result<Option<usize>, Fault> {
        self.spans.clear();
        while let Some(end) = end_of_line(bytes, start)? {
            if end == start {
                return Ok(Some(end + 2));
            }
            if self.spans.len() >= limits.fields {
                return Err(Fault::FieldsMany);
            }
            self.spans.push(field(bytes, start, end)?);
            start = end + 2;
        }
        Ok(None)
    }

    pub(crate) fn section<'b>(&'b self, bytes: &'b [u8]) -> Section<'b> {
        Section {
            bytes,
            spans: &self.spans,
        }
    }
}

fn field(bytes: &[u8], start: usize, end: usize) -> Result<Span, Fault> {
    if matches!(bytes[start], b' ' | b'\t') {
        return Err(Fault::Folding);
    }
    // A space before the colon is no token byte, so it is refused here too.
    let colon = start + token_length(&bytes[start..end]);
    if colon == start || bytes[colon] != b':' {
        return Err(Fault::FieldName);
    }
    let value = trimmed(bytes, colon + 1..end);
    if !is_value(&bytes[value.clone()]) {
        return Err(Fault::FieldValue);
    }
    // The window of a head is below 4 GiB (see `Limits::window`).
    Ok(Span {
        start: start as u32,
        colon: colon as u32,
        value: value.start as u32,
        end: value.end as u32,
        known: Known::of(&bytes[start..colon]),
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
    pub(crate) fn all(self, known: Known) -> impl Iterator<Item = &'b [u8]> {
        let spans = self.spans.iter().filter(move |span| span.known == known);
        spans.map(move |span| span.value(self.bytes))
    }

    pub(crate) fn first(self, known: Known) -> Option<&'b [u8]> {
        self.all(known).next()
    }

    pub(crate) fn named(self, wanted: &str) -> Option<&'b [u8]> {
        let is_it = |span: &&Span| {
            (span.colon - span.start) as usize == wanted.len()
                && span
                    .name(self.bytes)
                    .eq_ignore_ascii_case(wanted.as_bytes())
        };
        let span = self.spans.iter().find(is_it)?;
        Some(span.value(self.bytes))
    }
}
