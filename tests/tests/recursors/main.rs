//! Names as clients of real recursors see them: BIND and unbound follow a delegation to
//! `scaledapp-dns`, or are configured with its address.
//!
//! The server's own tests check its answers byte by byte. These tests check the chain of parent
//! zone, recursor and server. They need root for a network namespace, in which each server uses
//! port 53 on an address of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod lab;
mod stories;
