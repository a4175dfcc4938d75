//! How large a head may be. Decides when waiting for more of it ends.

use crate::fault::Fault;

/// What a head may hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, from its first line to its empty line.
    pub head_bytes: usize,
    /// Bytes of a request's target.
    pub target_bytes: usize,
    /// Field lines of a head.
    pub fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 32 << 10,
            target_bytes: 8 << 10,
            fields: 128,
        }
    }
}

impl Limits {
    /// The most of `bytes` that a head may take. All is decided by these alone,
    /// so the verdict does not hang on how much happens to have arrived.
    pub(crate) fn window<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        // Spans are 32 bit wide.
        let most = self.head_bytes.min(u32::MAX as usize);
        &bytes[..bytes.len().min(most)]
    }

    /// No end of the head in `window`: more may come, or too much has.
    pub(crate) fn wait<T>(&self, window: &[u8]) -> Result<Option<T>, Fault> {
        if window.len() >= self.head_bytes.min(u32::MAX as usize) {
            return Err(Fault::HeadLong);
        }
        Ok(None)
    }
}
