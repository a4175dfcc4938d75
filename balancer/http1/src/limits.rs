//! How large a head may be, and therefore when the codec stops waiting for more of it.

use crate::fault::Fault;

/// The most bytes of all trailer fields of an answer, as of its head: a status of gRPC may have
/// details.
pub const ANSWER_TRAILER_BYTES: u32 = 256 << 10;

/// The limits of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, from its first line to its empty line.
    pub head_bytes: usize,
    /// Bytes of a request's target. An answer has no target.
    pub target_bytes: usize,
    /// Field lines of a head.
    pub fields: usize,
}

impl Default for Limits {
    /// The limits for requests. They are above those of common servers (16 KiB in Node, 32
    /// KiB in nginx, 60 KiB in Envoy).
    fn default() -> Self {
        Self::of(64 << 10, 1000)
    }
}

impl Limits {
    /// The limits for heads of this size; a target may take half of a head.
    #[must_use]
    pub const fn of(head_bytes: usize, fields: usize) -> Self {
        Self {
            head_bytes,
            target_bytes: head_bytes / 2,
            fields,
        }
    }

    /// The limits for answers: the most that browsers accept (256 KiB in Chrome). Apps that
    /// set policies and many cookies need tens of KiB.
    #[must_use]
    pub const fn answers() -> Self {
        Self::of(256 << 10, 1000)
    }

    /// The part of `bytes` that a head may take. Only this part is examined, so the result
    /// does not depend on how many bytes happen to have arrived.
    pub(crate) fn window<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        // Positions are 32 bits wide.
        let most = self.head_bytes.min(u32::MAX as usize);
        &bytes[..bytes.len().min(most)]
    }

    /// The head does not end in `window`: either more bytes may come, or there are too
    /// many.
    pub(crate) fn wait<T>(&self, window: &[u8]) -> Result<Option<T>, Fault> {
        if window.len() >= self.head_bytes.min(u32::MAX as usize) {
            return Err(Fault::HeadLong);
        }
        Ok(None)
    }
}
