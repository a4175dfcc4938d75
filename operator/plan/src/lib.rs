//! What a `ScaledApp` means: which objects are valid ([`validate`]), and what a valid object
//! becomes on one machine ([`local`]) or, with the feature `kubernetes`, in a cluster
//! (`cluster`).
//!
//! Pure: no files, sockets, clock or processes. The same input gives the same
//! plan, byte for byte.

mod app;
mod autoscaling;
#[cfg(feature = "kubernetes")]
pub mod cluster;
mod expand;
pub mod local;
mod names;
mod validate;

pub use app::{
    AccessLog, Balancers, ClientCertificates, Dns, Environment, Issuer, Limits, Pods, Protocol,
    Readiness, Times, Tls, ValidatedApp, WorkerCount, Workers,
};
pub use autoscaling::Autoscaling;
pub use names::{Hostname, HostnameError};
pub use validate::{Violation, validate};
