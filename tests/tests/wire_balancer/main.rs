//! The built balancer between clients and upstreams that misbehave.
//!
//! Parsing, selection and forwarding have unit tests in their packages. These tests need the whole
//! binary.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod access_log;
#[path = "../../src/authority.rs"]
mod authority;
mod client_limits;
mod conformance;
mod discovery;
mod doors;
mod error_pages;
mod forwarding;
mod grpc;
mod hold;
mod http2;
mod malformed;
mod memory;
mod selection;
mod sticky;
mod tcp;
mod tls;
mod upstreams;
mod websockets;

use std::time::Duration;

/// Time-out for an operation that takes a moment if the machine is not busy.
const SOON: Duration = Duration::from_secs(10);
