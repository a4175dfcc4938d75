//! What all binaries of `ScaledApp` share: the read-only admin port, logging, stop signals,
//! files that may change, the command line's exit codes, and tables.
//!
//! This crate does not decide whether a program is ready or what it measures: the program's
//! [`Routes`] decide that.

pub mod cli;

mod admin_client;
mod chunked;
mod dns_client;
mod feed;
mod follow;
mod http_port;
mod line_decoder;
mod line_stream;
mod lines;
mod logging;
mod output;
mod pieces;
mod places;
mod polled;
mod queue;
mod routes;
mod run_name;
mod secret;
mod server;
mod signals;
mod table;

pub use admin_client::{AdminAnswer, AdminError, ask_admin};
pub use chunked::{Chunked, ChunkedDecoder};
pub use dns_client::ask_dns;
pub use feed::Load;
pub use follow::follow;
pub use http_port::{Answers, HttpContent, StreamPlace, Streams, serve_http};
pub use line_decoder::{Event as LineEvent, LineDecoder, Malformed as MalformedLines};
pub use line_stream::{LineError, LineStream};
pub use lines::Lines;
pub use logging::{Logging, colours_wanted, dropped_log_lines, flush_log, init_logging, say};
pub use output::Stream;
pub use places::{Bounds, Id, Places};
pub use polled::{Content, Look, PolledFile};
pub use routes::{Page, Probe, Routes};
pub use run_name::run_name;
pub use secret::secret;
pub use server::{Admin, BindError};
pub use signals::{Signal, Signals, reset as reset_signals};
pub use table::table;
