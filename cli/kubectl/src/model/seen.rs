//! What was read of a cluster, before anything is made of it. Each source may be missing, with the
//! reason in a few words.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::counters::Counters;

/// A value, or why it is not known, such as `may not get pods/proxy`.
pub(crate) type Source<T> = Result<T, String>;

/// A pod: namespace and name.
pub(crate) type PodKey = (String, String);

/// What the admin port of a pod answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answered {
    /// The JSON of `/status`.
    pub(crate) status: Source<String>,
    /// What `/metrics` counts, if it was read.
    pub(crate) counters: Option<Counters>,
    /// Seconds at which it was read, by a clock that never jumps.
    pub(crate) at: f64,
}

/// One reading.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    /// The ScaledApps. They are not parsed into the types of this version, because a newer
    /// cluster's objects have fields that this version does not know.
    pub(crate) apps: Vec<Value>,
    /// The pods of apps and balancers.
    pub(crate) pods: Source<Vec<Pod>>,
    /// The slots' slices.
    pub(crate) slices: Source<Vec<EndpointSlice>>,
    /// What pods answered. A pod that was not asked is missing.
    pub(crate) answers: BTreeMap<PodKey, Answered>,
}
