//! What every pass needs.

use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use scaledapp_answers::Ownership;
use scaledapp_plan::cluster::Settings;
use std::sync::Arc;

use crate::admissions::Admissions;
use crate::api::Caller;
use crate::backoff::Retries;
use crate::events::Sent;
use crate::health::Health;
use crate::pod_health::PodsHealth;
use crate::rooms::Rooms;
use crate::stores::{Guarded, Stores};
use crate::tokens::Tokens;
use crate::waits::Waits;

/// What every pass needs.
#[allow(missing_debug_implementations, reason = "kube's client has none")]
pub struct Context {
    /// How the API server is asked.
    pub caller: Caller,
    /// Where the operator itself is.
    pub namespace: String,
    /// What is known of it.
    pub stores: Stores,
    /// What plans are made with.
    pub settings: Settings,
    /// Which namespace may have which hostname.
    pub ownership: Ownership,
    /// How the watches do.
    pub health: Arc<Health>,
    /// What pods say.
    pub pods_health: Arc<PodsHealth>,
    /// Events sent lately.
    pub sent: Sent,
    /// Failures in a row.
    pub backoff: Retries<ObjectRef<Guarded>>,
    /// For apps that have none yet.
    pub tokens: Tokens,
    /// What runs on nodes that lack a pod.
    pub rooms: Rooms,
    /// What kubelets say of pods that do not start.
    pub waits: Waits,
    /// What others make of what we write.
    pub admissions: Admissions,
    /// The time; an argument, so that tests can choose it.
    pub now: fn() -> Timestamp,
}
