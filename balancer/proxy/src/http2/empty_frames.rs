//! Leaves out DATA frames that carry nothing, before the `h2` crate counts them.
//!
//! RFC 9113 section 6.1 allows such frames, and some peers send one whenever they flush. The `h2`
//! crate ends a connection after a hundred of them in its whole life, with all of its streams. They
//! are left out here, so they cost no more than any other nine bytes. This module has no I/O.

use super::limits::FRAME_HEADER_BYTES;

/// The type of DATA frames (RFC 9113 section 6.1), and the flags that give an empty one a meaning.
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// What is known of the bytes that have passed so far.
#[derive(Debug)]
pub(super) struct EmptyFrames {
    /// The bytes of the present frame, or of the preface, that are still to come.
    rest: usize,
    /// The beginning of a frame's header whose end has not arrived.
    held: Vec<u8>,
}

impl EmptyFrames {
    /// The first frame comes after `preface` bytes of another kind.
    pub(super) const fn after(preface: usize) -> Self {
        Self {
            rest: preface,
            held: Vec::new(),
        }
    }

    /// The bytes that have arrived and are held back. The next bytes to filter begin with them.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Moves the bytes that pass to the front. Returns how many there are.
    pub(super) fn filter(&mut self, bytes: &mut [u8]) -> usize {
        let (mut from, mut to) = (0, 0);
        self.held.clear();
        while from < bytes.len() {
            if self.rest == 0 {
                let Some(header) = bytes[from..].first_chunk() else {
                    self.held.extend_from_slice(&bytes[from..]);
                    break;
                };
                if is_void(header) {
                    from += FRAME_HEADER_BYTES;
                    continue;
                }
                self.rest = FRAME_HEADER_BYTES + length(header);
            }
            let count = self.rest.min(bytes.len() - from);
            if from != to {
                bytes.copy_within(from..from + count, to);
            }
            (from, to) = (from + count, to + count);
            self.rest -= count;
        }
        to
    }
}

/// The length of a frame's payload.
fn length(header: &[u8; FRAME_HEADER_BYTES]) -> usize {
    u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize
}

/// Whether the frame with this header means nothing. A DATA frame of the connection itself (stream
/// 0) is an error, which the `h2` crate answers.
fn is_void(header: &[u8; FRAME_HEADER_BYTES]) -> bool {
    let [_, _, _, kind, flags, stream @ ..] = *header;
    let is_of_stream = u32::from_be_bytes(stream) << 1 != 0;
    length(header) == 0 && kind == DATA && flags & (END_STREAM | PADDED) == 0 && is_of_stream
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    }

    /// What passes if the bytes arrive in pieces of this size.
    fn passed(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut frames = EmptyFrames::after(3);
        let mut passed = Vec::new();
        for piece in bytes.chunks(size) {
            let mut piece = [frames.held(), piece].concat();
            let kept = frames.filter(&mut piece);
            passed.extend_from_slice(&piece[..kept]);
        }
        passed
    }

    #[test]
    fn frames_without_a_meaning_are_left_out_and_all_others_pass() {
        let void = frame(DATA, 0, 1, b"");
        let kept = [
            frame(4, 0, 0, b"123456"),
            frame(DATA, 0, 1, b"body with \0\0\0\0\0\0\0\0\x01 in it"),
            frame(4, 1, 0, b""),
            frame(DATA, PADDED, 1, b""),
            frame(DATA, 0, 0, b""),
            frame(DATA, END_STREAM, 1, b""),
        ];
        let mut sent = b"PRI".to_vec();
        for frame in &kept {
            sent.extend([&void[..], &void[..], &frame[..]].concat());
        }
        sent.extend_from_slice(&void);
        let wanted = [b"PRI".to_vec(), kept.concat()].concat();
        for size in 1..=sent.len() {
            assert_eq!(passed(&sent, size), wanted, "in pieces of {size}");
        }
    }
}
