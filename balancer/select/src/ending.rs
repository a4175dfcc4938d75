//! How the process behind an endpoint ended, if it did.
//!
//! The owner of the process finds that out; what follows for a request is decided in
//! `retry`.

/// What ended the process behind an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EndedBy {
    /// No other cause is known, so a request that it executed may be the cause.
    Itself = 1,
    /// Clearly something else, such as a decision of its owner.
    Other = 2,
    /// A SIGKILL that neither its owner has sent nor the kernel counts. A first one is
    /// taken for the work of somebody outside. When the next process ends in the same way
    /// over the same request, that is no coincidence (`RLIMIT_CPU`, a watchdog, an app
    /// that kills itself).
    Outside = 3,
}

/// What became of the process that had a request when its connection broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It runs on: it has closed the connection, and that was all.
    Lives,
    /// It has ended, or is about to.
    Ended(EndedBy),
    /// Not known: the process is supervised by another host, or is one of several.
    Unknown,
}
