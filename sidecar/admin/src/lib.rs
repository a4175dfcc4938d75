//! What every long-running binary of `ScaledApp` shares around its work: the
//! read-only admin port, logging, stop signals, the command line's exit codes
//! and durations.
//!
//! Nothing here decides whether a program is ready or what it measures: that
//! is asked of its [`Routes`].

pub mod cli;
pub mod duration;

mod logging;
mod routes;
mod server;
mod signals;

pub use logging::init_logging;
pub use routes::{Probe, Routes};
pub use server::{Admin, BindError};
pub use signals::{Signal, Signals};
