//! One direction of a message: bytes from one side, converted into the framing of the other
//! side, at the pace of the slower one.
//!
//! How framing is read and written is decided in `scaledapp-http1`; which connection is
//! read and written, in `attempt`.

use std::io;
use std::task::{Context, Poll, ready};

use scaledapp_http1::{ANSWER_TRAILER_BYTES, BodyReader, BodyWriter, Framing, Malformed, Trailers};

use crate::buffer::Buffer;
use crate::transport::Transport;

/// How many bytes of a body are collected before they are written, unless the caller says
/// otherwise.
pub(crate) const GATHER_BYTES: usize = 64 << 10;

/// Which trailer fields are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PassedTrailers {
    None,
    /// Those that no recipient mistakes for fields of the head.
    Safe,
    /// All of a call of gRPC.
    OfCall,
}

impl PassedTrailers {
    /// Those of an answer. `takes`: the client can use them.
    pub(crate) fn of(takes: bool, is_grpc: bool) -> Self {
        match (takes, is_grpc) {
            (false, _) => Self::None,
            (true, false) => Self::Safe,
            (true, true) => Self::OfCall,
        }
    }
}

/// A body in transit, with the head before it.
#[derive(Debug)]
pub(crate) struct Flow {
    reader: BodyReader,
    writer: BodyWriter,
    out: Vec<u8>,
    written: usize,
    /// How many bytes of the body were taken, without framing.
    data: u64,
    /// The end of the body is in `out`.
    ended: bool,
    /// `out` still contains everything from the first byte of the head on.
    whole: bool,
    /// How many written bytes may be kept, so that they can be sent again.
    keep: usize,
    /// Trailer fields are passed on.
    trailers: PassedTrailers,
    /// How many bytes may wait to be written: a head of any length, and some of the body.
    gather: usize,
    /// The size of `out` at the last call of [`Self::grown`].
    counted: usize,
}

impl Flow {
    /// A flow whose head is in `out`; `keep` bytes may be kept to be sent again.
    pub(crate) fn new(out: Vec<u8>, from: Framing, into: Framing, keep: usize) -> Self {
        let head = out.len();
        Self {
            reader: BodyReader::new(from),
            writer: BodyWriter::new(into),
            counted: out.capacity(),
            out,
            written: 0,
            data: 0,
            ended: false,
            whole: true,
            keep,
            trailers: PassedTrailers::None,
            // All kept bytes may be collected before any of them is written.
            gather: head + GATHER_BYTES.max(keep),
        }
    }

    /// A flow that consists of the bytes in `out`, such as a complete answer.
    pub(crate) fn of(out: Vec<u8>) -> Self {
        Self::new(out, Framing::None, Framing::None, 0)
    }

    /// Takes as many bytes as possible from `input`; returns their number.
    pub(crate) fn take(&mut self, input: &mut Buffer) -> Result<usize, Malformed> {
        let mut used = 0;
        while !self.reader.is_done() && !input.is_empty() && self.pending() < self.gather {
            let piece = self.reader.read(input.filled())?;
            self.data += piece.data.len() as u64;
            self.writer.data(&mut self.out, &input.filled()[piece.data]);
            input.consume(piece.consumed);
            used += piece.consumed;
            if piece.consumed == 0 && !piece.done {
                break;
            }
        }
        self.end();
        Ok(used)
    }

    /// How many of the next bytes can be passed on without being read here: the same length is
    /// missing on both sides, and all that was taken has been written.
    pub(crate) fn bypass(&self) -> u64 {
        if self.is_pending() || self.ended {
            return 0;
        }
        let lengths = (
            self.reader.remaining_length(),
            self.writer.remaining_length(),
        );
        match lengths {
            (Some(left), Some(same)) if left == same => left,
            _ => 0,
        }
    }

    /// That many of the bytes of [`Self::bypass`] were passed on.
    pub(crate) fn bypassed(&mut self, count: usize) {
        self.whole = false;
        self.data += count as u64;
        self.reader.skip(count as u64);
        self.writer.skip(count as u64);
        self.end();
    }

    /// The peer has closed its side: this ends the body, if its framing allows that.
    pub(crate) fn close(&mut self) -> Result<(), Malformed> {
        self.reader.end()?;
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        if self.reader.is_done() && !self.ended {
            let trailers = self.reader.trailers();
            match self.trailers {
                PassedTrailers::None => self.writer.finish(&mut self.out),
                PassedTrailers::Safe => self.writer.finish_with(&mut self.out, trailers.fields()),
                PassedTrailers::OfCall => self
                    .writer
                    .finish_with(&mut self.out, trailers.fields_of_call()),
            }
            self.ended = true;
        }
    }

    /// Passes trailer fields on as well, because the recipient can use them.
    pub(crate) fn pass_trailers(&mut self, which: PassedTrailers) {
        self.trailers = which;
    }

    /// The trailer fields of a body that has been taken.
    pub(crate) fn trailers(&self) -> &Trailers {
        self.reader.trailers()
    }

    /// How many bytes of the body were taken, without framing.
    pub(crate) fn data(&self) -> u64 {
        self.data
    }

    /// How many bytes of the body were written, without framing. While bytes wait, this is
    /// inexact by the framing among them.
    pub(crate) fn data_written(&self) -> u64 {
        self.data.saturating_sub(self.pending() as u64)
    }

    /// Whether every byte has been taken.
    pub(crate) fn is_taken(&self) -> bool {
        self.ended
    }

    /// Whether bytes wait to be written.
    pub(crate) fn is_pending(&self) -> bool {
        self.written < self.out.len()
    }

    /// The number of bytes that wait to be written.
    pub(crate) fn pending(&self) -> usize {
        self.out.len() - self.written
    }

    /// Lets up to `most` bytes wait to be written. Written bytes are then dropped, unless
    /// they are kept.
    pub(crate) fn gather(&mut self, most: usize) {
        self.gather = most;
        if self.written >= GATHER_BYTES && self.written > self.keep {
            self.out.drain(..self.written);
            self.written = 0;
            self.whole = false;
        }
    }

    /// The size of its memory in bytes.
    pub(crate) fn held(&self) -> usize {
        self.out.capacity()
    }

    /// By how many bytes its memory has grown since the last call.
    pub(crate) fn grown(&mut self) -> usize {
        let before = std::mem::replace(&mut self.counted, self.out.capacity());
        self.counted.saturating_sub(before)
    }

    /// Gives back the unused memory.
    pub(crate) fn squeeze(&mut self) {
        if !self.whole {
            self.out.drain(..self.written);
            self.written = 0;
        }
        self.out.shrink_to_fit();
    }

    /// Whether no more bytes may wait to be written.
    pub(crate) fn is_full(&self) -> bool {
        self.pending() >= self.gather
    }

    /// Whether every byte has been taken and written.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_taken() && !self.is_pending()
    }

    /// Whether any byte has been written.
    pub(crate) fn has_begun(&self) -> bool {
        self.written > 0 || !self.whole
    }

    /// Whether it can be sent again from its first byte.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Begins again with the first byte. Only possible while all bytes are kept.
    pub(crate) fn rewind(&mut self) {
        self.written = 0;
    }

    /// The head and the bytes after it; empty if it is not kept.
    pub(crate) fn head(&self) -> &[u8] {
        if self.whole { &self.out } else { &[] }
    }

    /// Adds a field line to a head that is still complete and can be sent again.
    pub(crate) fn add_field(&mut self, line: &[u8]) {
        let mut windows = self.out.windows(4);
        if let Some(at) = windows.position(|end| end == b"\r\n\r\n") {
            self.out.splice(at + 2..at + 2, line.iter().copied());
        }
    }

    /// The output, to which a head or an interim response can be added before the body.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Writes all bytes that wait. With `last`, the caller closes the proxy's side of the
    /// connection right afterwards.
    pub(crate) fn poll_write(
        &mut self,
        transport: &mut Transport,
        last: bool,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let bytes = &self.out[self.written..];
            let result = if last {
                transport.poll_write_last(context, bytes)
            } else {
                transport.poll_write(context, bytes)
            };
            match ready!(result)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        if self.out.len() > self.keep && !self.ended {
            self.out.clear();
            self.written = 0;
            self.whole = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Returns the memory, for the next message.
    pub(crate) fn into_out(self) -> Vec<u8> {
        self.out
    }

    /// Adds a body to a flow that has consisted of a head so far.
    pub(crate) fn set_body(&mut self, from: Framing, into: Framing) {
        self.reader = BodyReader::with_trailers(from, ANSWER_TRAILER_BYTES);
        self.writer = BodyWriter::new(into);
        self.ended = false;
        self.gather = self.out.len() + GATHER_BYTES;
    }
}
