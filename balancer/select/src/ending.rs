//! How the process behind an endpoint ended, if it did.
//!
//! The owner of the process finds this out; `retry` decides what follows for a request.

/// What ended the process behind an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EndedBy {
    /// No other cause is known, so a request that it executed may be the cause.
    Itself = 1,
    /// Something else, such as a decision of its owner, is clearly the cause.
    Other = 2,
    /// A SIGKILL that neither the owner nor the kernel's out-of-memory killer has sent. The
    /// first such SIGKILL is attributed to something outside. If the next process ends in the same
    /// way over the same request, it is no coincidence: the cause may be `RLIMIT_CPU`, a
    /// watchdog, or an app that kills itself.
    Outside = 3,
}

/// What became of the process that had a request when its connection broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It still runs and has only closed the connection.
    Lives,
    /// It has ended, or is about to.
    Ended(EndedBy),
    /// Unknown, because the process is supervised on another host or is one of several.
    Unknown,
}
