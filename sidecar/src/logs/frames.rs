//! Cuts the workers' output into lines and marks them with their origin.
//!
//! `logs` decides where lines go and what happens if their reader is too slow.

use std::time::SystemTime;

use scaledapp_runtime::Stream;
use serde::Serialize;

use crate::clock;

/// The longest line that is passed on in one piece, in bytes.
pub(crate) const LINE_BYTES: usize = 16 * 1024;

/// A line, or a piece of one that is too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The bytes without the newline.
    pub(crate) bytes: Vec<u8>,
    /// Whether it continues the previous piece.
    pub(crate) continues: bool,
    /// Whether more of the same line follows.
    pub(crate) partial: bool,
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    begun: Vec<u8>,
    continues: bool,
}

impl Lines {
    /// Takes the next complete piece off the front of `input`; `None` if the rest is the
    /// beginning of a line, which is kept.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Option<Piece> {
        let room = LINE_BYTES - self.begun.len();
        let looked_at = &input[..input.len().min(room + 1)];
        if let Some(end) = looked_at.iter().position(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(&input[..end]);
            *input = &input[end + 1..];
            return Some(self.cut(false));
        }
        if input.len() <= room {
            self.begun.extend_from_slice(input);
            *input = &[];
            return None;
        }
        self.begun.extend_from_slice(&input[..room]);
        *input = &input[room..];
        let rest = self.begun.split_off(whole_characters(&self.begun));
        let piece = self.cut(true);
        self.begun = rest;
        Some(piece)
    }

    /// The rest, once the stream has ended.
    pub(crate) fn end(&mut self) -> Option<Piece> {
        (!self.begun.is_empty()).then(|| self.cut(false))
    }

    fn cut(&mut self, partial: bool) -> Piece {
        Piece {
            bytes: std::mem::take(&mut self.begun),
            continues: std::mem::replace(&mut self.continues, partial),
            partial,
        }
    }
}

/// The length without an incomplete UTF-8 character at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needs = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if needs > back { at } else { bytes.len() };
    }
    bytes.len()
}

/// The origin of a line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) slot: u32,
    pub(crate) pid: u32,
    pub(crate) stream: Stream,
}

/// How a line is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// `[SLOT] ` before each line; `[SLOT]+ ` before the continuation of a line that was
    /// too long.
    Prefix,
    /// A JSON object for each line.
    Json,
}

#[derive(Serialize)]
struct Record<'a> {
    time: &'a str,
    slot: u32,
    pid: u32,
    stream: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

/// Appends a marked piece to `text` as one line.
pub(crate) fn mark(
    text: &mut Vec<u8>,
    mark: Mark,
    origin: Origin,
    time: SystemTime,
    piece: &Piece,
) {
    match mark {
        Mark::Prefix => {
            let plus = if piece.continues { "+" } else { "" };
            text.extend_from_slice(format!("[{}]{plus} ", origin.slot).as_bytes());
            text.extend_from_slice(&piece.bytes);
        }
        Mark::Json => {
            let message = piece.bytes.strip_suffix(b"\r").unwrap_or(&piece.bytes);
            let record = Record {
                time: &clock::rfc3339(time),
                slot: origin.slot,
                pid: origin.pid,
                stream: origin.stream.as_str(),
                message: &String::from_utf8_lossy(message),
                partial: piece.partial,
            };
            let begun = text.len();
            if serde_json::to_writer(&mut *text, &record).is_err() {
                // Writing numbers and texts cannot fail, but half a record must not remain.
                text.truncate(begun);
                return;
            }
        }
    }
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn all(lines: &mut Lines, reads: &[&[u8]]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for mut read in reads.iter().copied() {
            pieces.extend(std::iter::from_fn(|| lines.next(&mut read)));
            assert!(read.is_empty());
        }
        pieces.extend(lines.end());
        pieces
    }

    fn marked(how: Mark, bytes: &[u8]) -> String {
        let mut text = Vec::new();
        let origin = Origin {
            slot: 3,
            pid: 42,
            stream: Stream::Stderr,
        };
        for piece in all(&mut Lines::default(), &[bytes]) {
            mark(
                &mut text,
                how,
                origin,
                UNIX_EPOCH + Duration::from_millis(1),
                &piece,
            );
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn lines_are_complete_over_several_reads_and_the_last_needs_no_newline() {
        let pieces = all(&mut Lines::default(), &[b"one\ntw", b"o\n\nth", b"ree"]);
        let texts: Vec<&[u8]> = pieces.iter().map(|piece| &piece.bytes[..]).collect();
        assert_eq!(texts, [&b"one"[..], b"two", b"", b"three"]);
        assert!(
            pieces
                .iter()
                .all(|piece| !piece.partial && !piece.continues)
        );
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_marked() {
        let line = format!("x{}", "é".repeat(LINE_BYTES));
        let pieces = all(&mut Lines::default(), &[line.as_bytes(), b"\nnext\n"]);
        assert_eq!(pieces.len(), 4);
        let marks: Vec<(bool, bool)> = pieces
            .iter()
            .map(|piece| (piece.continues, piece.partial))
            .collect();
        assert_eq!(
            marks,
            [(false, true), (true, true), (true, false), (false, false)]
        );
        for piece in &pieces {
            assert!(piece.bytes.len() <= LINE_BYTES);
            assert!(std::str::from_utf8(&piece.bytes).is_ok());
        }
    }

    #[test]
    fn a_line_that_just_fits_is_not_cut() {
        let mut line = vec![b'x'; LINE_BYTES];
        line.push(b'\n');
        let pieces = all(&mut Lines::default(), &[&line]);
        assert_eq!(pieces.len(), 1);
        assert!(!pieces[0].partial);
    }

    #[test]
    fn marks_name_the_worker_and_allow_any_bytes() {
        assert_eq!(marked(Mark::Prefix, b"hello\nfoo"), "[3] hello\n[3] foo\n");
        assert_eq!(
            marked(Mark::Json, b"say \"\x01\xff\"\r\n"),
            "{\"time\":\"1970-01-01T00:00:00.001Z\",\"slot\":3,\"pid\":42,\"stream\":\"stderr\",\
             \"message\":\"say \\\"\\u0001\u{fffd}\\\"\"}\n"
        );
        let long = "x".repeat(LINE_BYTES + 1);
        assert!(marked(Mark::Prefix, long.as_bytes()).ends_with("\n[3]+ x\n"));
        assert!(marked(Mark::Json, long.as_bytes()).contains("\"partial\":true}\n"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_byte_is_lost_or_moved(
            reads in prop::collection::vec(
                prop::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 0..20_000), 0..6)
        ) {
            let slices: Vec<&[u8]> = reads.iter().map(Vec::as_slice).collect();
            let mut back = Vec::new();
            for piece in all(&mut Lines::default(), &slices) {
                prop_assert!(piece.bytes.len() <= LINE_BYTES);
                back.extend_from_slice(&piece.bytes);
                if !piece.partial {
                    back.push(b'\n');
                }
            }
            let mut sent = reads.concat();
            if !sent.is_empty() && sent.last() != Some(&b'\n') {
                sent.push(b'\n');
            }
            prop_assert_eq!(back, sent);
        }
    }
}
