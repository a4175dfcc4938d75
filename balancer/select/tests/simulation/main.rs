//! The code that chooses endpoints, in a simulation of balancers, pods and workers: how long
//! requests take, compared with the best possible queue and with simpler algorithms.
//!
//! `cargo test -p scaledapp-select --test simulation -- --ignored --nocapture` prints
//! the table of docs/selection.md.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod model;
mod workloads;

mod faults;
mod latency;
mod slow_start;
mod zones;
