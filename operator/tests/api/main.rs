//! Tests of the operator with a simulated API server: order of writes, field manager,
//! second passes, failures, the Lease.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

mod certificates;
mod heartbeat;
mod lease;
mod metrics;
mod names;
mod namespaces;
mod operator;
mod passes;
mod render;
mod rights;
mod scaling;
mod server;
