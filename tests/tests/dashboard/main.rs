//! The dashboard in a real browser: Chromium shows the page for a run on this machine.
//!
//! The crate's own tests check the JSON and the port. These check what a person sees: that counts are
//! those of the processes, that a killed worker is seen within a second, and that the page keeps to its
//! own policy. Screenshots are written to `target/dashboard`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod browser;
mod stories;
