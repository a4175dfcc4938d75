//! Tests of the operator with a real API server, its controllers and its scheduler, and
//! with simulated nodes: what Kubernetes refuses, defaults, places and deletes, and how the
//! operator reacts.
//!
//! This layer is between the simulated API server (`operator/tests/api`), which shows
//! single requests, and the kind layer, where containers run. No app runs here.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod admission;
mod api;
mod chart;
mod injected;
mod kubelet;
mod life;
mod long;
mod missing;
mod names;
mod neighbours;
mod placement;
mod reach;
mod refusals;
mod rights;
mod same;
mod scaling;
mod server;
mod story;
mod templates;
mod upgrade;
