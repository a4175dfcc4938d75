//! What is measured of a worker for `limits`.

use std::time::Duration;

use scaledapp_engine::WorkerId;

/// What is measured of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) worker: WorkerId,
    /// Since it was ready; `None`: it is not, or leaves.
    pub(crate) age: Option<Duration>,
    /// Resident bytes of its process tree.
    pub(crate) bytes: u64,
    /// Requests answered.
    pub(crate) served: u64,
    /// Its runtime ends it when it has outgrown its share of the container: we
    /// told it that.
    pub(crate) capped: bool,
    /// It accepts no connection, and has shown no sign of life for so long.
    pub(crate) deaf: Option<Duration>,
}
