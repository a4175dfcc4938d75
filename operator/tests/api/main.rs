//! The operator against an API server that the test plays: order of writes,
//! field manager, what a second pass does, what failures lead to, the Lease.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

mod heartbeat;
mod lease;
mod names;
mod namespaces;
mod operator;
mod passes;
mod render;
mod rights;
mod server;
