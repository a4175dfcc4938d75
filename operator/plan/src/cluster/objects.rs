//! The shape of a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;

use super::App;

/// Objects in the order in which they are applied. Destructure without `..`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Objects {
    /// `NAME-desired`.
    pub config_maps: Vec<ConfigMap>,
    /// `NAME` and `NAME-lb`.
    pub service_accounts: Vec<ServiceAccount>,
    /// `NAME-lb`.
    pub roles: Vec<Role>,
    /// `NAME-lb`.
    pub role_bindings: Vec<RoleBinding>,
    /// `NAME`, `NAME-pods` and `NAME-lb-I`.
    pub services: Vec<Service>,
    /// `NAME-lb-I`.
    pub endpoint_slices: Vec<EndpointSlice>,
    /// `NAME` and `NAME-lb-I`.
    pub deployments: Vec<Deployment>,
    /// `NAME` and `NAME-lb`.
    pub pod_disruption_budgets: Vec<PodDisruptionBudget>,
}

/// Kinds of [`Objects`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs, reason = "they are Kubernetes' own names")]
pub enum Kind {
    ConfigMap,
    ServiceAccount,
    Role,
    RoleBinding,
    Service,
    EndpointSlice,
    Deployment,
    PodDisruptionBudget,
}

/// An object in the app's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// What is to be done. Same input, same plan, byte for byte.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// To be applied, where [`super::is_applied`] says that it is not.
    pub apply: Objects,
    /// To be deleted after that: live ones that this app owns and nothing needs.
    pub delete: Vec<ObjectKey>,
    /// Annotations to be set on pods, last.
    pub touch: Vec<PodAnnotations>,
    /// To be sent after what they speak of was written.
    pub events: Vec<Event>,
    /// Look again after this long, even if nothing changes.
    pub wake: Option<Duration>,
    /// Why nothing but slots was planned.
    pub stalled: Option<Stalled>,
}

/// Annotations to be set on one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodAnnotations {
    /// The pod.
    pub name: String,
    /// Its uid, so that no namesake is meant.
    pub uid: String,
    /// What to set; others stay.
    pub annotations: BTreeMap<String, String>,
}

/// Something that only a person can cure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stalled {
    /// One of [`scaledapp_crds::words::reason`].
    pub reason: &'static str,
    /// What is wrong, where, and the cure.
    pub message: String,
}

/// Whether an event tells of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "they are Kubernetes' own names")]
pub enum EventType {
    Normal,
    Warning,
}

/// An event about the `ScaledApp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// One of [`scaledapp_crds::words::reason`].
    pub reason: &'static str,
    /// What was done, in one word.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
}

/// The objects that `app` wants to own: the operator looks which of them exist
/// without it as controller, and says so in [`super::Observed::foreign`].
pub fn names(app: &App) -> Vec<ObjectKey> {
    let _ = app;
    Vec::new()
}
