//! The autoscaler against an app that is simulated as a fluid: properties, and one scenario for
//! each edge case.

mod app;
mod properties;
mod scenarios;
