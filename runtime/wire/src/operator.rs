//! `/status` of the operator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The state of one replica of the operator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OperatorStatus {
    /// The number of `ScaledApp`s that the replica knows.
    pub apps: usize,
    /// The replica's name in the Lease.
    pub identity: String,
    /// The replica that holds the Lease, if known.
    pub leader: Option<String>,
    /// Whether the replica may write.
    pub leads: bool,
    /// The state of each watched namespace; `None` if all namespaces are watched.
    pub namespaces: Option<BTreeMap<String, String>>,
    /// The number of pods in each state of health; empty while the operator starts.
    pub pods: BTreeMap<String, usize>,
    /// Whether the replica's lists are complete, so that it can lead.
    pub ready: bool,
    /// The operator's release.
    pub version: String,
    /// Why the replica is not ready.
    pub waits_for: Option<String>,
}
