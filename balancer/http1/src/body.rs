//! Bodies in and out of raw bytes by their framing (RFC 9112 sections 6 to 8).
//!
//! Decides where data is and when a body is whole, and keeps none of it. A body that is cut
//! off is never taken for whole.

use alloc::vec::Vec;
use core::ops::Range;

use crate::chunks::Chunks;
use crate::fault::{Fault, Malformed};
use crate::framing::Framing;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    Chunks(Chunks),
    UntilClose,
    Done,
    /// A fault is final, because it is not known where the next message starts.
    Broken(Malformed),
}

/// Reads a body out of raw bytes; any split of them gives the same data.
#[derive(Clone, Debug)]
pub struct BodyReader {
    framing: Framing,
    state: State,
}

/// The result of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the input that were used.
    pub consumed: usize,
    /// Where data is within the input; may be empty.
    pub data: Range<usize>,
    /// The body is whole. What follows in the input is not part of it.
    pub done: bool,
}

impl BodyReader {
    /// Starts at the byte after the head.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunks(Chunks::new()),
            Framing::UntilClose => State::UntilClose,
        };
        Self { framing, state }
    }

    /// Whether the body is whole.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The framing that it was made for.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Of a body with a length: bytes still to come.
    pub fn remaining_length(&self) -> Option<u64> {
        match (self.framing, self.state) {
            (Framing::Length(_), State::Length(left)) => Some(left),
            (Framing::Length(_), _) => Some(0),
            _ => None,
        }
    }

    /// One step: at most one piece of data. Call again with what is left of the
    /// input while it consumes, until done.
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
            State::Chunks(chunks) => match read_chunks(chunks, input) {
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

    /// The peer has closed: the body is whole if its framing says so, otherwise cut off.
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

/// Framing until data or the end of the input. Stops after data, so that what
/// came before a fault is handed out however the bytes arrive.
fn read_chunks(chunks: &mut Chunks, input: &[u8]) -> Result<Range<usize>, Fault> {
    let mut at = 0;
    while at < input.len() && !chunks.is_done() {
        let length = fitting(chunks.data_left(), &input[at..]);
        if length > 0 {
            chunks.pass_data(length);
            return Ok(at..at + length);
        }
        chunks.take(input[at])?;
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
    /// Nothing may follow: the last chunk is written, or there is no body.
    finished: bool,
}

impl BodyWriter {
    /// Starts after the head that told this framing.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            finished: framing == Framing::None,
        }
    }

    /// Appends data. Empty data appends nothing, and no last chunk. Data beyond the announced
    /// length is left out, because it would be read as the next message.
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

    /// Appends what ends the body: the last chunk where there are chunks.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.framing == Framing::Chunked && !self.finished {
            out.extend_from_slice(b"0\r\n\r\n");
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
