//! What every long-running binary of `ScaledApp` shares around its work: the
//! read-only admin port, logging, stop signals, files that may change, the
//! command line's exit codes and durations.
//!
//! Nothing here decides whether a program is ready or what it measures: that
//! is asked of its [`Routes`].

pub mod cli;
pub mod duration;

mod logging;
mod output;
mod polled;
mod queue;
mod routes;
mod server;
mod signals;

pub use logging::{Logging, dropped_log_lines, flush_log, init_logging, say};
pub use output::Stream;
pub use polled::{Content, Look, PolledFile};
pub use routes::{Page, Probe, Routes};
pub use server::{Admin, BindError};
pub use signals::{Signal, Signals};
