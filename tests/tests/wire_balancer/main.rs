//! The built balancer against peers that misbehave on either side.
//!
//! Parsing and selection are tested in `scaledapp-http1` and
//! `scaledapp-proxy`; here is what only the whole shows.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod discovery;
mod doors;
mod forwarding;
mod malformed;
mod memory;
mod upstreams;

use std::time::Duration;

/// For what takes a moment on a busy machine.
const SOON: Duration = Duration::from_secs(10);
