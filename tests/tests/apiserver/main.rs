//! The operator against a real API server, its controllers and its scheduler,
//! with simulated nodes: what Kubernetes refuses, defaults, places and deletes,
//! and what the operator makes of that.
//!
//! Between the API server in memory (`operator/tests/api`), which shows single
//! requests, and the kind layer, where containers run. Nothing is served here.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod admission;
mod api;
mod chart;
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
