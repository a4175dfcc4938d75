//! Memory for bytes that have been read but not used yet. A connection has this memory only
//! while there are such bytes, so an idle connection has none.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use crate::headroom::Headroom;
use crate::transport::Transport;

/// The initial size of a buffer: one read can fill it, and most messages fit into it.
pub(crate) const SMALL_BYTES: usize = 16 << 10;
/// The size for a body after a read has filled the buffer: more data probably follows, and
/// larger reads take fewer system calls.
pub(crate) const LARGE_BYTES: usize = 64 << 10;
/// The most spare buffers that a thread keeps for its next connections.
const MAX_KEPT: usize = 64;

/// A thread's spare memory.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// Each has [`SMALL_BYTES`] bytes, all initialized.
    inputs: RefCell<Vec<Vec<u8>>>,
    outputs: RefCell<Vec<Vec<u8>>>,
    /// Bytes of answers that are kept for slow readers.
    held: Cell<usize>,
    /// Where new memory is counted.
    headroom: Rc<Headroom>,
}

impl Buffers {
    /// No spare memory yet; new memory is counted in `headroom`.
    pub(crate) fn new(headroom: Rc<Headroom>) -> Self {
        Self {
            headroom,
            ..Self::default()
        }
    }

    /// Memory to read into: bytes that are all initialized.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.inputs.borrow_mut().pop().unwrap_or_else(|| {
            self.headroom.spend(SMALL_BYTES as u64);
            vec![0; SMALL_BYTES]
        })
    }

    /// Whether [`Self::take`] has spare memory.
    fn has_spare(&self) -> bool {
        !self.inputs.borrow().is_empty()
    }

    /// Takes memory from [`Self::take`] back.
    pub(crate) fn put(&self, bytes: Vec<u8>) {
        let mut inputs = self.inputs.borrow_mut();
        if bytes.len() == SMALL_BYTES && inputs.len() < MAX_KEPT {
            inputs.push(bytes);
        }
    }

    /// Empty memory to write a message into.
    pub(crate) fn output(&self) -> Vec<u8> {
        self.outputs.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes memory from [`Self::output`] back.
    pub(crate) fn put_output(&self, mut bytes: Vec<u8>) {
        let mut outputs = self.outputs.borrow_mut();
        if bytes.capacity() <= LARGE_BYTES && outputs.len() < MAX_KEPT {
            bytes.clear();
            outputs.push(bytes);
        }
    }
}

/// How many bytes of answers a thread keeps for slow readers. Beyond that, a server has to
/// wait until the client reads.
const MAX_HELD_BYTES: usize = 32 << 20;

/// The bytes of an answer that one connection keeps for a slow reader.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    buffers: &'a Buffers,
    bytes: usize,
}

impl<'a> Held<'a> {
    pub(crate) fn new(buffers: &'a Buffers) -> Self {
        Self { buffers, bytes: 0 }
    }

    /// Sets the number of bytes kept; returns whether the connection may keep more.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        let all = self.buffers.held.get() - self.bytes + bytes;
        self.buffers.held.set(all);
        self.bytes = bytes;
        all < MAX_HELD_BYTES
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The bytes that were read from one connection and have not been used.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Initialized memory, or none.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled the buffer, so there is probably more to read.
    was_filled: bool,
}

impl Buffer {
    /// The unused bytes.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The unused bytes, mutable.
    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Marks bytes as used.
    pub(crate) fn consume(&mut self, count: usize) {
        // `usize::MAX` means all bytes.
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Whether a read can store bytes without more memory.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.is_empty() || self.end - self.start < self.bytes.len()
    }

    /// Whether the next read takes new memory.
    pub(crate) fn takes_memory(&self, buffers: &Buffers) -> bool {
        self.is_empty() && self.bytes.len() < SMALL_BYTES && !buffers.has_spare()
    }

    /// Doubles the memory, up to `most` bytes.
    pub(crate) fn grow(&mut self, most: usize, buffers: &Buffers) {
        let wanted = (self.bytes.len() * 2).clamp(SMALL_BYTES, most.max(SMALL_BYTES));
        if wanted > self.bytes.len() {
            buffers.headroom.spend((wanted - self.bytes.len()) as u64);
            self.bytes.resize(wanted, 0);
        }
    }

    /// Gives the memory back if no bytes are in it.
    pub(crate) fn release(&mut self, buffers: &Buffers) {
        if self.is_empty() && !self.bytes.is_empty() {
            buffers.put(std::mem::take(&mut self.bytes));
        }
    }

    /// The size of its memory in bytes.
    pub(crate) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Gives back the unused memory, except for a little room.
    pub(crate) fn squeeze(&mut self, buffers: &Buffers) {
        const ROOM: usize = 1 << 10;
        let filled = self.end - self.start;
        if self.bytes.len() <= filled + ROOM {
            return;
        }
        let mut slim = Vec::new();
        if filled > 0 {
            slim.reserve_exact(filled + ROOM);
            slim.extend_from_slice(self.filled());
            slim.resize(filled + ROOM, 0);
        }
        buffers.put(std::mem::replace(&mut self.bytes, slim));
        (self.start, self.end) = (0, filled);
    }

    /// Reads once; 0 is the end of the stream. Must be called only while there is room.
    pub(crate) fn poll_fill(
        &mut self,
        transport: &mut Transport,
        buffers: &Buffers,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // A buffer that has memory, but less than this, was squeezed.
        if self.is_empty() && self.bytes.len() < SMALL_BYTES {
            self.bytes = buffers.take();
        }
        if self.start > 0 && self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        let result = transport.poll_read(context, &mut room);
        let read = room.filled().len();
        self.end += read;
        self.was_filled = read > 0 && self.end == self.bytes.len();
        if self.is_empty() {
            self.release(buffers);
        }
        ready!(result)?;
        Poll::Ready(Ok(read))
    }

    /// Makes more room if the last read filled the buffer; meant for bodies.
    pub(crate) fn widen(&mut self, buffers: &Buffers) {
        if self.was_filled && self.is_empty() && self.bytes.len() == SMALL_BYTES {
            buffers.headroom.spend((LARGE_BYTES - SMALL_BYTES) as u64);
            self.bytes.resize(LARGE_BYTES, 0);
        }
    }

    /// Whether the memory is full of unused bytes.
    pub(crate) fn is_full(&self) -> bool {
        !self.bytes.is_empty() && self.end - self.start == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_squeezed_buffer_keeps_its_bytes_and_has_room() {
        let (mut buffer, buffers) = (Buffer::default(), Buffers::default());
        buffer.squeeze(&buffers);
        assert!(buffer.held() == 0 && buffer.is_empty());
        buffer.bytes = vec![7; LARGE_BYTES];
        (buffer.start, buffer.end) = (100, 105);
        buffer.squeeze(&buffers);
        assert_eq!(buffer.filled(), [7; 5]);
        assert!(buffer.held() < 2048 && buffer.has_room());
        buffer.consume(5);
        buffer.squeeze(&buffers);
        assert_eq!(buffer.held(), 0);
    }

    #[test]
    fn all_remaining_bytes_can_be_consumed_at_once() {
        let mut buffer = Buffer {
            bytes: vec![7; SMALL_BYTES],
            start: 3,
            end: 5,
            was_filled: false,
        };
        buffer.consume(usize::MAX);
        assert!(buffer.is_empty());
    }
}
