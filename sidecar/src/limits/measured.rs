//! The measurements of a worker, for `limits`.

use std::time::Duration;

use scaledapp_engine::WorkerId;

/// The measurements of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) worker: WorkerId,
    /// Time since it became ready; `None` if it is starting, draining or stopping.
    pub(crate) age: Option<Duration>,
    /// Resident bytes of its process tree.
    pub(crate) bytes: u64,
    /// The number of answered requests.
    pub(crate) served: u64,
    /// Whether the supervisor has set a heap limit at which the worker's runtime ends the worker.
    /// Such a worker has to be recycled when it outgrows its share of the container.
    pub(crate) capped: bool,
    /// For how long it has made no progress, if it accepts no connections.
    pub(crate) hung: Option<Duration>,
}
