//! Names as clients of real recursors see them: BIND and unbound follow a delegation to
//! `scaledapp-dns`, or are told where it is.
//!
//! What the server answers byte by byte is tested beside it; whether a chain of a parent zone,
//! a recursor and this server works is shown here. Needs root for a network namespace, in which
//! all servers have port 53 of an address of their own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod lab;
mod stories;
