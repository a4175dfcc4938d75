//! The I/O around `operator/plan`: watching, reading, applying, reporting.
//!
//! A pass over one app: [`observe`] reads, `scaledapp_plan::cluster` decides, [`apply`] writes
//! what differs, [`status`] reports the outcome in any case, and [`events`] reports changes.
//! [`controller`] decides when a pass runs, and [`lease`] decides whether this replica writes.
//! [`heartbeat`] finds out which balancers serve.

mod admin_target;
pub mod admissions;
pub mod api;
mod app_metrics;
pub mod apply;
pub mod backoff;
pub mod call;
pub mod certificates;
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
pub mod node_usage;
pub mod observe;
mod pod_answers;
pub mod pod_events;
pub mod pod_health;
pub mod reconcile;
pub mod render;
pub mod report;
pub mod request;
pub mod run;
pub mod scaling;
pub mod status;
pub mod stores;
pub mod tokens;
pub mod triggers;
pub mod watches;
