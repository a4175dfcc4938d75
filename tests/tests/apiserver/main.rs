//! Tests of the operator with a real API server, controllers and scheduler, and with
//! simulated nodes. They show how the operator reacts to what Kubernetes refuses, defaults,
//! schedules and deletes.
//!
//! This layer is between the mock API server (`operator/tests/api`), with which single
//! requests are tested, and the kind layer, where containers run. No app runs here.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod admission;
mod api;
mod autoscaling;
mod certificates;
mod chart;
mod injected;
mod kubelet;
mod life;
mod load;
mod long;
mod missing;
mod names;
mod neighbours;
mod placement;
mod plugin;
mod reach;
mod refusals;
mod rights;
mod same;
mod scaling;
mod server;
mod story;
mod templates;
mod upgrade;
