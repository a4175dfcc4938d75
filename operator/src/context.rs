//! What every pass uses.

use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use scaledapp_answers::Ownership;
use scaledapp_plan::cluster::Settings;
use std::sync::Arc;

use crate::admissions::Admissions;
use crate::api::Caller;
use crate::backoff::Retries;
use crate::certificates::Certificates;
use crate::events::Sent;
use crate::health::Health;
use crate::node_usage::NodeUsage;
use crate::pod_events::PodEvents;
use crate::pod_health::PodsHealth;
use crate::scaling::Decisions;
use crate::stores::{Guarded, Stores};
use crate::tokens::Tokens;

/// What every pass uses.
#[allow(missing_debug_implementations, reason = "kube's client has none")]
pub struct Context {
    /// Calls to the API server.
    pub caller: Caller,
    /// The operator's own namespace.
    pub namespace: String,
    /// What is known of the cluster.
    pub stores: Stores,
    /// The settings of plans.
    pub settings: Settings,
    /// Which namespace may have which hostname.
    pub ownership: Ownership,
    /// The state of the watches.
    pub health: Arc<Health>,
    /// What the pods' admin ports answered.
    pub pods_health: Arc<PodsHealth>,
    /// Events sent recently.
    pub sent: Sent,
    /// Pauses after failed passes.
    pub backoff: Retries<ObjectRef<Guarded>>,
    /// The apps' forwarding tokens.
    pub tokens: Tokens,
    /// What runs on the nodes that lack a pod.
    pub node_usage: NodeUsage,
    /// The kubelets' events about pods that do not start.
    pub pod_events: PodEvents,
    /// The Certificates of apps with an issuer.
    pub certificates: Certificates,
    /// The API server's recent answers to the operator's writes.
    pub admissions: Admissions,
    /// What the autoscalers have decided.
    pub decisions: Decisions,
    /// The clock, which tests replace.
    pub now: fn() -> Timestamp,
}
