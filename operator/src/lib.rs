//! The shell around `operator/plan`: watches, reads, applies, tells.
//!
//! A pass over one app: [`observe`] reads, `scaledapp_plan::cluster` decides,
//! [`apply`] writes what differs, [`status`] says how it went (always),
//! [`events`] tell of changes. [`controller`] decides when, [`lease`] whether
//! this replica writes, [`heartbeat`] knows which balancers serve.

pub mod admissions;
pub mod api;
pub mod apply;
pub mod backoff;
pub mod call;
pub mod cli;
pub mod context;
pub mod controller;
pub mod events;
pub mod health;
pub mod heartbeat;
pub mod hostnames;
pub mod lease;
pub mod merged;
pub mod metrics;
pub mod observe;
pub mod pod_health;
pub mod probe;
pub mod reconcile;
pub mod render;
pub mod report;
pub mod request;
pub mod rooms;
pub mod run;
mod said;
pub mod status;
pub mod stores;
pub mod tokens;
pub mod triggers;
pub mod waits;
pub mod watches;
