//! What the operator has read, once, before it decides.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::jiff::Timestamp;

use super::{ObjectKey, Objects};

/// Everything that a decision about one app needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The time of the pass.
    pub now: Timestamp,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// The objects labelled as this app's (`instance` and `managed-by`), in its
    /// namespace.
    pub live: Objects,
    /// The pods labelled as this app's, of both components.
    pub pods: Vec<Pod>,
    /// Objects of [`super::names`] that exist without this app as controller.
    pub foreign: Vec<ObjectKey>,
    /// `NAMESPACE/NAME` of an older `ScaledApp` with the same hostname.
    pub hostname_taken_by: Option<String>,
}

/// A node, as far as it decides where pods go.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Not cordoned, not being deleted.
    pub schedulable: bool,
    /// Its `Ready` condition is true.
    pub ready: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
}

/// A pod of the app or of its balancers. Made from the API's pod with `From`;
/// [`Pod::heard`] is then filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// `app.kubernetes.io/component`.
    pub component: String,
    /// The slot of a balancer.
    pub slot: Option<u32>,
    /// Its address.
    pub ip: Option<String>,
    /// The node that it is on.
    pub node: Option<String>,
    /// Its `Ready` condition is true.
    pub ready: bool,
    /// It has been deleted and is ending.
    pub deleting: bool,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Image of its supervisor, if it has one.
    pub sidecar_image: Option<String>,
    /// Why it does not run, in Kubernetes' words.
    pub failure: Option<PodFailure>,
    /// What it said itself, on its admin port.
    pub heard: Heard,
}

/// Why a pod does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFailure {
    /// One of [`scaledapp_crds::words::reason`].
    pub reason: &'static str,
    /// What Kubernetes or the supervisor said.
    pub message: String,
}

/// What a pod said on its admin port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Heard {
    /// Not asked yet: counts as alive, so that a new leader changes nothing.
    #[default]
    NotYet,
    /// It was asked and does not answer.
    Silent,
    /// A balancer: whether `/readyz` says 200.
    Balancer {
        /// It takes connections.
        serving: bool,
    },
    /// A supervisor: its `/status`.
    Supervisor(Supervisor),
}

/// The part of a supervisor's `/status` that counts here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supervisor {
    /// Workers wanted.
    pub desired: u32,
    /// Workers ready.
    pub ready: u32,
    /// Token of the reload that it carried out last.
    pub reloaded: Option<String>,
    /// Why the reload with the token of the pod's annotation failed.
    pub reload_failed: Option<String>,
}
