//! The app as a cluster runs it: all of [`ValidatedApp`], and what only a
//! cluster has.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, ResourceRequirements};
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::v1alpha1::Exposure;
use serde_json::Value;

use crate::{ValidatedApp, Violation};

/// What the operator itself was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of `scaledapp-sidecar`, pinned per app until its inputs change.
    pub sidecar_image: String,
    /// Image of `scaledapp-balancer`.
    pub balancer_image: String,
    /// Pull policy of both; `None` leaves it to Kubernetes.
    pub image_pull_policy: Option<String>,
    /// Secrets to pull both with, in the app's namespace.
    pub image_pull_secrets: Vec<String>,
}

/// The app, complete. Made by [`validate`] only.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// What it is everywhere. Its `command` and `env` are resolved; what goes
    /// into pods is below, because there the kubelet resolves references.
    pub app: ValidatedApp,
    /// Its namespace.
    pub namespace: String,
    /// Its uid, for owner references.
    pub uid: String,
    /// Generation of the object that this was made from.
    pub generation: i64,
    /// Program and arguments as written.
    pub command: Vec<String>,
    /// Variables as written.
    pub env: Vec<EnvVar>,
    /// Whole ConfigMaps and Secrets as variables.
    pub env_from: Vec<EnvFromSource>,
    /// What a pod asks for and may use, in canonical amounts.
    pub resources: ResourceRequirements,
    /// Who can reach the balancers.
    pub exposure: Exposure,
    /// The user's overlay, as written.
    pub pod_template: Option<Value>,
    /// Nothing but the slots may change.
    pub paused: bool,
    /// Token of the reload asked for last.
    pub reload: Option<String>,
    /// Token of the supervisor upgrade asked for last.
    pub upgrade: Option<String>,
}

/// Checks an object and decides what its absent fields mean in a cluster.
///
/// # Errors
/// All that is wrong, in the order of the fields.
pub fn validate(object: &ScaledApp) -> Result<App, Vec<Violation>> {
    let _ = object;
    Err(Vec::new())
}
