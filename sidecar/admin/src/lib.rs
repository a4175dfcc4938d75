//! What the binaries of `ScaledApp` share around their work: the read-only admin
//! port, logging, stop signals, files that may change, pauses between tries, the
//! command line's exit codes, durations and tables.
//!
//! Nothing here decides whether a program is ready or what it measures: that
//! is asked of its [`Routes`].

pub mod cli;
pub mod duration;

mod follow;
mod logging;
mod output;
mod pauses;
mod places;
mod polled;
mod queue;
mod routes;
mod secret;
mod server;
mod signals;
mod table;

pub use follow::follow;
pub use logging::{Logging, colours_wanted, dropped_log_lines, flush_log, init_logging, say};
pub use output::Stream;
pub use pauses::{Pauses, spread};
pub use places::{Bounds, Id, Places};
pub use polled::{Content, Look, PolledFile};
pub use routes::{Page, Probe, Routes};
pub use secret::secret;
pub use server::{Admin, BindError};
pub use signals::{Signal, Signals, reset as reset_signals};
pub use table::table;
