//! Tests of what an app becomes in a cluster, and of its status.

#![allow(
    clippy::unwrap_used,
    reason = "all of this target is test code, helpers included"
)]

mod autoscaler;
mod certificate;
mod given;
mod neighbours;
mod nodes;
mod observed;
mod older;
mod pinning;
mod scaling;
mod slots;
mod snapshots;
mod status;
mod templates;
mod validate;
mod warnings;
mod workers;
