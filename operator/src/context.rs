//! What every pass needs.

use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, core::DeserializeGuard};
use scaledapp_answers::Ownership;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster::Settings;
use std::sync::Arc;

use crate::admissions::Admissions;
use crate::backoff::Retries;
use crate::events::Sent;
use crate::health::Health;
use crate::heartbeat::Hearts;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::rooms::Rooms;
use crate::stores::Stores;
use crate::tokens::Tokens;
use crate::waits::Waits;

/// One that cannot be read must not stop the watch of all others.
pub type Guarded = DeserializeGuard<ScaledApp>;

/// Of server-side apply, and of everything else that is written. Never changes:
/// fields of another manager would not be given up.
pub const FIELD_MANAGER: &str = scaledapp_crds::words::MANAGER;

/// What every pass needs.
#[allow(missing_debug_implementations, reason = "kube's client has none")]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Where the operator itself is.
    pub namespace: String,
    /// What is known of it.
    pub stores: Stores,
    /// What plans are made with.
    pub settings: Settings,
    /// Which namespace may have which hostname.
    pub ownership: Ownership,
    /// Whether this replica writes.
    pub leadership: Leadership,
    /// How the watches do.
    pub health: Arc<Health>,
    /// What pods say.
    pub hearts: Arc<Hearts>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
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
