//! What the operator reads once, at the beginning of a pass.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{self, PodStatus, Taint};
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::words::{component, label, port};
use scaledapp_crds::{API_VERSION, KIND};

use super::frame::{CONTAINER, INSTALL, VOLUME_BINARIES};
use super::meta::slot_of;
use super::pod_failure::{self, PodFailure, WaitsFor};
use super::{Admitted, LiveCertificate, ObjectKey, Objects, Resources, Stalled};

/// Everything that a decision about one app needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The time of the pass.
    pub now: Timestamp,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// The requests of all pods on a node, for the nodes that were looked up.
    pub used: BTreeMap<String, Resources>,
    /// The project's objects in the app's namespace whose label `app.kubernetes.io/instance` is the
    /// app's name.
    pub live: Objects,
    /// The app's pods: those that run the app, and those of its balancers.
    pub pods: Vec<Pod>,
    /// What admission changed in objects that were written recently.
    pub admitted: BTreeMap<ObjectKey, Admitted>,
    /// Objects that were written but are invisible to the watches, because admission removes the
    /// labels by which the watches select.
    pub hidden: Vec<ObjectKey>,
    /// Objects of [`super::names`] that exist without this app as controller.
    pub foreign: Vec<ObjectKey>,
    /// The Certificate of the app's host name.
    pub certificate: LiveCertificate,
    /// The forwarding tokens in force, one per line; `None` keeps the stored ones.
    pub token: Option<String>,
    /// `NAMESPACE/NAME` of an older `ScaledApp` with the same hostname.
    pub hostname_taken_by: Option<String>,
    /// Why the app's namespace may not have the hostname at all.
    pub hostname_refused: Option<Stalled>,
    /// The autoscalers that name the app or one of its Deployments, by name.
    pub autoscalers: Vec<Autoscaler>,
    /// The operator's own namespace, from which it connects to pods.
    pub asked_from: String,
    /// What the app's autoscaler has decided; `None` if the app has none, or as long as a new
    /// leader has not observed enough.
    pub scaling: Option<Scaled>,
}

/// What the autoscaler has decided for the app.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaled {
    /// Pods, workers, CPU, and why.
    pub decision: scaledapp_scale::Decision,
    /// Uids of app pods, the idlest first; the first ones are deleted first
    /// (pod-deletion-cost).
    pub idlest: Vec<String>,
}

/// The properties of a node that decide which pods it takes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// The node is neither cordoned nor being deleted.
    pub schedulable: bool,
    /// The node's `Ready` condition is true.
    pub ready: bool,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// The node's taints.
    pub taints: Vec<Taint>,
    /// The node's resources for pods, used or not; all 0 if unknown.
    pub offers: Resources,
}

/// A `HorizontalPodAutoscaler` that names a `ScaledApp` or a Deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Autoscaler {
    /// The autoscaler's name.
    pub name: String,
    /// The object whose number of pods the autoscaler writes.
    pub target: Target,
}

/// An object that an autoscaler names, in its own namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The `ScaledApp` of this name.
    App(String),
    /// The Deployment of this name.
    Deployment(String),
}

impl Autoscaler {
    /// Reads what the operator needs of an autoscaler; `None` if it names an object of another
    /// kind.
    pub fn of(autoscaler: &HorizontalPodAutoscaler) -> Option<Self> {
        let target = &autoscaler.spec.scale_target_ref;
        let group = |version: &str| Some(version.split_once('/')?.0.to_owned());
        let target = match (target.kind.as_str(), target.api_version.as_deref()) {
            (KIND, Some(version)) if group(version) == group(API_VERSION) => {
                Target::App(target.name.clone())
            }
            ("Deployment", Some(version)) if group(version).as_deref() == Some("apps") => {
                Target::Deployment(target.name.clone())
            }
            _ => return None,
        };
        Some(Self {
            name: autoscaler.metadata.name.clone()?,
            target,
        })
    }
}

/// A pod of the app or of its balancers. `From` converts the API's pod; the caller then sets
/// [`Pod::answer`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The label `app.kubernetes.io/component`.
    pub component: String,
    /// The slot, if the pod is a balancer.
    pub slot: Option<u32>,
    /// The pod has the label that only this project sets.
    pub marked: bool,
    /// Name of the controller that created the pod.
    pub made_by: Option<String>,
    /// The pod's address.
    pub ip: Option<String>,
    /// The node on which the pod runs.
    pub node: Option<String>,
    /// When the pod was created.
    pub created: Option<Timestamp>,
    /// The pod's `Ready` condition is true.
    pub ready: bool,
    /// The pod is being deleted or has ended.
    pub deleting: bool,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Image of the supervisor, if the pod has one.
    pub sidecar_image: Option<String>,
    /// The port that the main container names `http`.
    pub port: Option<u16>,
    /// The port that the main container names `admin`.
    pub admin_port: Option<u16>,
    /// The pod has a node, but none of its containers has run yet.
    pub preparing: bool,
    /// Why the pod does not run, as Kubernetes reports it.
    pub failure: Option<PodFailure>,
    /// The time since which the scheduler reports that no node takes the pod.
    pub refused_since: Option<Timestamp>,
    /// What the pod waits for, if no scheduler has reported anything about it yet.
    pub waits_for: Option<WaitsFor>,
    /// What the pod's admin port answered.
    pub answer: Answer,
}

/// What a pod's admin port answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Answer {
    /// The operator has not queried the pod yet. The pod counts as alive, so that a new leader
    /// changes nothing.
    #[default]
    NotYet,
    /// The pod was queried and does not answer.
    Silent,
    /// The pod has not answered for so long that its kubelet would have noticed if it were dead.
    Unreachable {
        /// Something accepts the connections, but does not answer as an admin port of this project
        /// does.
        accepted: bool,
    },
    /// A balancer.
    Balancer(Balancer),
    /// A supervisor: its `/status`.
    Supervisor(Supervisor),
}

impl Answer {
    /// Whether the pod was queried and does not answer.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Silent | Self::Unreachable { .. })
    }
}

/// The part of a balancer's answer that the operator uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancer {
    /// `/readyz` answers 200: the balancer accepts connections.
    pub serving: bool,
    /// Why the balancer does not accept connections, as it reports itself.
    pub why: Option<String>,
    /// The balancer has not reached any pod's admin port for some time.
    pub blind: bool,
}

/// The part of a supervisor's `/status` that the operator uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supervisor {
    /// Workers wanted.
    pub desired: u32,
    /// Workers ready.
    pub ready: u32,
    /// Token of the last reload that it carried out.
    pub reloaded: Option<String>,
    /// Why the reload with the token of the pod's annotation failed.
    pub reload_failed: Option<String>,
    /// Workers that start for the first time.
    pub booting: u32,
    /// Why no worker is ready.
    pub trouble: Option<Trouble>,
}

/// What keeps all workers of a pod from being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The workers listen on this port instead of the app's.
    ListensOn(u16),
    /// How one of the workers ended, as the supervisor reports it.
    Ended(String),
}

impl From<&v1::Node> for Node {
    fn from(node: &v1::Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            schedulable: spec.unschedulable != Some(true)
                && node.metadata.deletion_timestamp.is_none(),
            ready: conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            offers: Resources::of(status.and_then(|status| status.allocatable.as_ref())),
        }
    }
}

impl From<&v1::Pod> for Pod {
    fn from(pod: &v1::Pod) -> Self {
        let meta = &pod.metadata;
        let labels = meta.labels.as_ref();
        let spec = pod.spec.as_ref();
        let status = pod.status.clone().unwrap_or_default();
        let installs = spec.and_then(|spec| spec.init_containers.as_ref());
        let install = installs
            .into_iter()
            .flatten()
            .find(|container| container.name == INSTALL);
        let mut containers = spec.into_iter().flat_map(|spec| &spec.containers);
        let main = containers.find(|it| [CONTAINER, component::BALANCER].contains(&&*it.name));
        let port = |name: &str| {
            let mut ports = main?.ports.iter().flatten();
            let found = ports.find(|it| it.name.as_deref() == Some(name))?;
            u16::try_from(found.container_port).ok()
        };
        let mounted = || {
            let mut volumes = spec?.volumes.iter().flatten();
            let volume = volumes.find(|volume| volume.name == VOLUME_BINARIES)?;
            volume.image.as_ref()?.reference.clone()
        };
        let ended = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            component: labels
                .and_then(|labels| labels.get(label::COMPONENT).cloned())
                .unwrap_or_default(),
            slot: slot_of(meta),
            marked: labels.is_some_and(|labels| labels.contains_key(label::APP)),
            made_by: meta
                .owner_references
                .iter()
                .flatten()
                .find(|owner| owner.controller == Some(true))
                .map(|owner| owner.name.clone()),
            ip: status.pod_ip.clone().filter(|ip| !ip.is_empty()),
            node: spec.and_then(|spec| spec.node_name.clone()),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            ready: is_true(&status, "Ready"),
            // Evicted and finished pods stay listed but never run again.
            deleting: meta.deletion_timestamp.is_some() || ended,
            annotations: meta.annotations.clone().unwrap_or_default(),
            sidecar_image: install
                .and_then(|container| container.image.clone())
                .or_else(mounted),
            port: port(port::HTTP).or_else(|| port(port::TCP)),
            admin_port: port(port::ADMIN),
            preparing: spec.is_some_and(|spec| spec.node_name.is_some())
                && pod_failure::is_preparing(&status),
            failure: pod_failure::of_status(&status),
            refused_since: pod_failure::refused_since(&status),
            waits_for: spec.and_then(|spec| pod_failure::waits_for(spec, &status)),
            answer: Answer::NotYet,
        }
    }
}

fn is_true(status: &PodStatus, kind: &str) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}
