//! Reads and writes bodies by their framing (RFC 9112 sections 6 to 8).
//!
//! Decides where the data is and when a body is complete. Trailer fields are stored, data is
//! not. A body that was cut off never counts as complete.

use alloc::vec::Vec;
use core::ops::Range;

use crate::chunks::Chunks;
use crate::fault::{Fault, Malformed};
use crate::framing::Framing;
use crate::trailers::Trailers;
use crate::write::put_field;

/// The most bytes of all trailers, unless the caller says otherwise.
const TRAILER_BYTES: u32 = 8 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    Chunks(Chunks),
    UntilClose,
    Done,
    /// A fault is final, because the start of the next message is unknown.
    Broken(Malformed),
}

/// Reads a body from raw bytes. The data does not depend on how the bytes are split.
#[derive(Clone, Debug)]
pub struct BodyReader {
    framing: Framing,
    state: State,
    trailers: Trailers,
}

/// The result of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the input that were used.
    pub consumed: usize,
    /// The position of data within the input; may be empty.
    pub data: Range<usize>,
    /// The body is complete. Further bytes of the input do not belong to it.
    pub done: bool,
}

impl BodyReader {
    /// Starts at the byte after the head.
    pub fn new(framing: Framing) -> Self {
        Self::with_trailers(framing, TRAILER_BYTES)
    }

    /// The same; `max_trailers` is how many bytes all trailers may have.
    pub fn with_trailers(framing: Framing, max_trailers: u32) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunks(Chunks::new(max_trailers)),
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            framing,
            state,
            trailers: Trailers::default(),
        }
    }

    /// The trailer fields so far; all of them once the body is complete.
    pub fn trailers(&self) -> &Trailers {
        &self.trailers
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The framing that the reader was made for.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The number of bytes still to come, if the body has a length.
    pub fn remaining_length(&self) -> Option<u64> {
        match (self.framing, self.state) {
            (Framing::Length(_), State::Length(left)) => Some(left),
            (Framing::Length(_), _) => Some(0),
            _ => None,
        }
    }

    /// The next `count` bytes of a body with a length were passed on without being read here. At
    /// most [`Self::remaining_length`] bytes are counted.
    pub fn skip(&mut self, count: u64) {
        if let State::Length(left) = &mut self.state {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.state = State::Done;
            }
        }
    }

    /// One step, which gives at most one piece of data. Call it again with the rest of the
    /// input while it consumes bytes, until the body is complete.
    pub fn read(&mut self, input: &[u8]) -> Result<Piece, Malformed> {
        let piece = |data: Range<usize>| Piece {
            consumed: data.end,
            data,
            done: false,
        };
        let mut piece = match &mut self.state {
            State::Length(left) => {
                let length = fitting(*left, input);
                *left -= length as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
                piece(0..length)
            }
            State::Chunks(chunks) => match read_chunks(chunks, &mut self.trailers, input) {
                Ok(data) => {
                    if chunks.is_done() {
                        self.state = State::Done;
                    }
                    piece(data)
                }
                Err(fault) => return Err(self.fail(fault)),
            },
            State::UntilClose => piece(0..input.len()),
            State::Done => piece(0..0),
            State::Broken(malformed) => return Err(*malformed),
        };
        piece.done = self.is_done();
        Ok(piece)
    }

    /// The peer has closed the connection: the body is complete if its framing says so,
    /// otherwise cut off.
    pub fn end(&mut self) -> Result<(), Malformed> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            State::Length(_) | State::Chunks(_) => Err(self.fail(Fault::CutOff)),
            State::Broken(malformed) => Err(malformed),
        }
    }

    fn fail(&mut self, fault: Fault) -> Malformed {
        let malformed = Malformed::from(fault);
        self.state = State::Broken(malformed);
        malformed
    }
}

/// Reads framing until data, the end of the body or the end of the input. It stops after data,
/// so that data before a fault is always returned, however the bytes arrive.
fn read_chunks(
    chunks: &mut Chunks,
    trailers: &mut Trailers,
    input: &[u8],
) -> Result<Range<usize>, Fault> {
    let mut at = 0;
    while at < input.len() && !chunks.is_done() {
        let length = fitting(chunks.data_left(), &input[at..]);
        if length > 0 {
            chunks.pass_data(length);
            return Ok(at..at + length);
        }
        let was_in_trailers = chunks.is_in_trailers();
        chunks.take(input[at])?;
        if was_in_trailers && chunks.is_in_trailers() {
            trailers.push(input[at]);
        }
        at += 1;
    }
    Ok(at..at)
}

fn fitting(left: u64, input: &[u8]) -> usize {
    usize::try_from(left).map_or(input.len(), |left| left.min(input.len()))
}

/// Writes a body in a framing.
#[derive(Clone, Debug)]
pub struct BodyWriter {
    framing: Framing,
    /// No more bytes may follow: the last chunk has been written, or there is no body.
    finished: bool,
}

impl BodyWriter {
    /// A writer that starts after a head with this framing.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            finished: framing == Framing::None,
        }
    }

    /// Appends data. Empty data appends nothing, in particular no last chunk. Data beyond
    /// the announced length is dropped, because it would be read as the next message.
    pub fn data(&mut self, out: &mut Vec<u8>, data: &[u8]) {
        if data.is_empty() || self.finished {
            return;
        }
        match &mut self.framing {
            Framing::None => {}
            Framing::Length(left) => {
                let length = fitting(*left, data);
                *left -= length as u64;
                out.extend_from_slice(&data[..length]);
            }
            Framing::UntilClose => out.extend_from_slice(data),
            Framing::Chunked => {
                out.reserve(data.len() + 20);
                put_hexadecimal(out, data.len());
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The number of bytes that may follow, if the body has a length.
    pub fn remaining_length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) if !self.finished => Some(left),
            _ => None,
        }
    }

    /// The next `count` bytes of a body with a length were written without this writer. At most
    /// [`Self::remaining_length`] bytes are counted.
    pub fn skip(&mut self, count: u64) {
        if let Framing::Length(left) = &mut self.framing {
            *left = left.saturating_sub(count);
        }
    }

    /// Appends the end of the body: with chunks, the last chunk.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.finish_with(out, core::iter::empty());
    }

    /// Like [`Self::finish`], but also appends trailer fields, for a recipient that wants them.
    /// Only a body in chunks can have trailer fields.
    pub fn finish_with<'t>(
        &mut self,
        out: &mut Vec<u8>,
        trailers: impl Iterator<Item = (&'t [u8], &'t [u8])>,
    ) {
        if self.framing == Framing::Chunked && !self.finished {
            out.extend_from_slice(b"0\r\n");
            for (name, value) in trailers {
                put_field(out, name, value);
            }
            out.extend_from_slice(b"\r\n");
        }
        self.finished = true;
    }
}

fn put_hexadecimal(out: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = number >> (place * 4) & 0xf;
        out.push(b"0123456789abcdef"[digit]);
    }
}
