//! Simulates the autoscaler: the real rules of `scaledapp-scale` and the real choice of pods by
//! `scaledapp-select`, against traces of load, beside the rules of HPA and of Knative.
//!
//! A run is an event simulation on a clock of its own, with random numbers from a seed. The same
//! trace and the same seed give the same requests to every rule, and the same result on every
//! machine. `cargo xtask simulate` runs all traces, draws them and writes the table.
//!
//! What is simplified: a pod has a fixed number of places for requests and serves each request in
//! the time that the trace has drawn for it; a request that finds no place waits in one queue; a
//! pod costs from the moment when it is asked for; a removed pod finishes its requests.

pub mod page;
pub mod plot;
pub mod rules;
pub mod trace;
pub mod view;
pub mod world;

pub use rules::Kind;
pub use trace::{TRACES, Trace};
pub use view::Rules;
pub use world::{Outcome, Second, run};
