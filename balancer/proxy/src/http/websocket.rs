//! The frames of a WebSocket (RFC 6455 section 5.2): where one ends, so that the proxy can say
//! between two of them that the connection ends. This file has no I/O.
//!
//! When it says so is decided in `tunnel`.

/// The close frame that tells a client that this server goes away (status 1001, RFC 6455 section
/// 7.4.1). A client that gets it connects again; a connection that ends without it may count as a
/// fault.
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// The same close frame as [`GOING_AWAY`] in the form in which a client sends it, with a mask of
/// zeros.
pub(super) const CLIENT_GOING_AWAY: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// The longest header: two bytes, eight of a length, four of a mask.
const MAX_HEADER_BYTES: usize = 14;
const CLOSE: u8 = 8;

/// The position within one direction of a WebSocket.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; MAX_HEADER_BYTES],
    /// How many bytes of a header have been passed.
    have: usize,
    /// How many bytes of the current payload are to come.
    left: u64,
    /// A close frame has begun, after which no other frame may follow.
    is_closed: bool,
}

impl Frames {
    /// Bytes of this direction have been passed on.
    pub(super) fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let passed = self.step(data);
            data = &data[passed..];
        }
    }

    /// The number of bytes up to the next end of a frame; only these count as passed on. `None` if
    /// no frame ends within `data`: then all of it counts as passed on.
    pub(super) fn pass_to_end(&mut self, data: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < data.len() {
            at += self.step(&data[at..]);
            if self.is_between() {
                return Some(at);
            }
        }
        None
    }

    /// Processes some of the bytes, which are not empty. Returns how many.
    fn step(&mut self, data: &[u8]) -> usize {
        if self.left > 0 {
            let passed = (data.len() as u64).min(self.left);
            self.left -= passed;
            return passed as usize;
        }
        self.header[self.have] = data[0];
        self.have += 1;
        if self.have >= 2 && self.have == self.header_bytes() {
            self.is_closed |= self.header[0] & 0x0f == CLOSE;
            self.left = self.payload_bytes();
            self.have = 0;
        }
        1
    }

    /// The size of the header, whose first two bytes are known.
    fn header_bytes(&self) -> usize {
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn payload_bytes(&self) -> u64 {
        let of = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte))
        };
        match self.header[1] & 0x7f {
            126 => of(&self.header[2..4]),
            127 => of(&self.header[2..10]),
            short => u64::from(short),
        }
    }

    /// Whether a close frame has been passed.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether a frame may be added now. A control frame may stand between any two frames, also
    /// within a message (RFC 6455 section 5.4).
    pub(super) fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.is_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame whose mask and payload consist of zeros.
    fn frame(opcode: u8, length: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match length {
            0..=125 => bytes.push(mask + length as u8),
            126..=0xffff => {
                bytes.push(mask + 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask + 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend(std::iter::repeat_n(0, length + usize::from(is_masked) * 4));
        bytes
    }

    #[test]
    fn the_ends_of_frames_of_every_size_are_found_however_the_bytes_are_split() {
        for is_masked in [false, true] {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for length in [0, 1, 125, 126, 300, 70_000] {
                bytes.extend(frame(2, length, is_masked));
                ends.push(bytes.len());
            }
            for split in (0..bytes.len()).step_by(7).chain(ends.iter().copied()) {
                let mut frames = Frames::default();
                frames.pass(&bytes[..split]);
                assert_eq!(frames.is_between(), ends.contains(&split), "{split}");
                frames.pass(&bytes[split..]);
                assert!(frames.is_between(), "{split}");
            }
        }
    }

    #[test]
    fn the_next_end_of_a_frame_is_found_among_many_bytes() {
        let mut bytes = frame(1, 3, false);
        bytes.extend(frame(2, 300, false));
        bytes.extend(frame(1, 1, false));
        let mut frames = Frames::default();
        frames.pass(&bytes[..7]);
        assert_eq!(frames.pass_to_end(&bytes[7..]), Some(5 + 4 + 300 - 7));
        let mut frames = Frames::default();
        frames.pass(&bytes[..7]);
        assert_eq!(frames.pass_to_end(&bytes[7..100]), None);
        assert_eq!(frames.pass_to_end(&bytes[100..]), Some(5 + 4 + 300 - 100));
    }

    #[test]
    fn nothing_follows_a_close_frame() {
        for bytes in [&GOING_AWAY[..], &CLIENT_GOING_AWAY] {
            let mut frames = Frames::default();
            assert!(frames.is_between());
            frames.pass(bytes);
            assert_eq!((frames.left, frames.have), (0, 0));
            assert!(!frames.is_between());
        }
    }
}
