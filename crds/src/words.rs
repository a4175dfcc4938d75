//! Every label, annotation, port name, condition and reason, once.

/// Labels of what belongs to an app.
pub mod label {
    /// Always [`super::APP`].
    pub const NAME: &str = "app.kubernetes.io/name";
    /// The app's name.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// [`super::component`].
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    /// Always [`super::APP`].
    pub const PART_OF: &str = "app.kubernetes.io/part-of";
    /// Always [`super::MANAGER`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// On pods: the app's name, under a name that is ours alone.
    pub const APP: &str = "scaledapp.io/app";
    /// Number of a balancer's slot.
    pub const SLOT: &str = "scaledapp.io/slot";
    /// Name of the Service that an `EndpointSlice` is of.
    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
    /// On Endpoints: no slices are made of them.
    pub const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
    /// Who writes an `EndpointSlice`; always [`super::ENDPOINTS_MANAGER`].
    pub const ENDPOINTS_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
}

/// `app.kubernetes.io/name` and `part-of` of everything.
pub const APP: &str = "scaledapp";
/// `app.kubernetes.io/managed-by`, and the one field manager.
pub const MANAGER: &str = "scaledapp-operator";
/// `endpointslice.kubernetes.io/managed-by`: no controller of Kubernetes touches those.
pub const ENDPOINTS_MANAGER: &str = "operator.scaledapp.io";

/// Values of [`label::COMPONENT`].
pub mod component {
    /// The app's own pods and what selects them.
    pub const APP: &str = "app";
    /// The balancers and what leads to them.
    pub const BALANCER: &str = "balancer";
}

/// Annotations.
pub mod annotation {
    /// On a pod, and there a file for its supervisor: what it was told last.
    pub const DESIRED: &str = "scaledapp.io/desired";
    /// On a pod: the workers that its supervisor was told of last.
    pub const WORKERS: &str = "scaledapp.io/workers";
    /// On a `ScaledApp`: another value asks for a reload. On a pod: the value
    /// that its supervisor was told of last.
    pub const RELOAD: &str = "scaledapp.io/reload";
    /// On the `ConfigMap` of an app: since when another number of workers counts.
    pub const WORKERS_SINCE: &str = "scaledapp.io/workers-since";
    /// On the `ConfigMap` of an app, since when a reload is asked for; on a pod,
    /// when its supervisor was told.
    pub const RELOAD_SINCE: &str = "scaledapp.io/reload-since";
    /// On a slot's Service: since when it is there only for those whom a
    /// resolver still sends.
    pub const RETIRED: &str = "scaledapp.io/retired-at";
    /// On a `ScaledApp`: another value rolls the pods onto today's supervisor.
    pub const UPGRADE: &str = "scaledapp.io/upgrade";
    /// On a Deployment: hash of what the user gave for its pods.
    pub const INPUTS: &str = "scaledapp.io/inputs";
    /// On a Deployment: the pod template as we made it when the inputs changed last.
    pub const TEMPLATE: &str = "scaledapp.io/template";
    /// On a Deployment: the number of pods that was asked for in place of as many on
    /// each node, and for which the pods stayed as they were.
    pub const KEPT_TOTAL: &str = "scaledapp.io/kept-total";
    /// On a Deployment with pods per node: how many nodes it counts on.
    pub const NODES: &str = "scaledapp.io/nodes";
    /// On a Deployment with pods per node: hashes of the nodes that lack a pod and
    /// take none, each with a letter for the reason.
    pub const FULL_NODES: &str = "scaledapp.io/full-nodes";
    /// On a Deployment with pods per node: since when there are fewer nodes.
    pub const FEWER_SINCE: &str = "scaledapp.io/fewer-nodes-since";
    /// On everything: hash of what we applied, so that equal need not be written.
    pub const APPLIED: &str = "scaledapp.io/applied";
    /// On a pod, read by cluster autoscalers: volumes that keep no node from going.
    pub const EVICTABLE_VOLUMES: &str =
        "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    /// On a pod, read by the `ReplicaSet` controller: the lower, the sooner deleted.
    pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
}

/// Names of ports.
pub mod port {
    /// Where requests are served.
    pub const HTTP: &str = "http";
    /// The read-only admin port of a supervisor or balancer.
    pub const ADMIN: &str = "admin";
}

/// Types of conditions.
pub mod condition {
    /// Requests are served: pods and balancers are there.
    pub const READY: &str = "Ready";
    /// A change is on its way.
    pub const PROGRESSING: &str = "Progressing";
    /// It serves, but with less than was asked for.
    pub const DEGRADED: &str = "Degraded";
    /// kstatus: not yet as asked for.
    pub const RECONCILING: &str = "Reconciling";
    /// This generation of the object is out, and serves.
    pub const UPDATED: &str = "Updated";
    /// kstatus: will not get there without somebody's help.
    pub const STALLED: &str = "Stalled";
}

macro_rules! reasons {
    ($($(#[$about:meta])* $name:ident,)*) => {
        /// Reasons of conditions and events. Their text is their name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
        pub enum Reason {
            $($(#[$about])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As conditions and events have it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    /// All is as asked for.
    AsWanted,
    /// Nothing has been looked at yet.
    NotObserved,
    /// A field holds a value that cannot be.
    InvalidSpec,
    /// `spec.podTemplate` cannot be laid over ours.
    InvalidPodTemplate,
    /// An object of that name belongs to somebody else.
    NameConflict,
    /// An older object has the same hostname.
    HostnameTaken,
    /// The hostname is in a zone that belongs to other namespaces.
    HostnameRefused,
    /// The hostname is one of the DNS zone's own.
    HostnameReserved,
    /// No DNS of ours answers for the hostname.
    HostnameOutsideZones,
    /// Admission takes labels away by which the operator finds its objects.
    LabelsChanged,
    /// The Role or the `RoleBinding` of the balancers is not as the operator makes it.
    RightsDiffer,
    /// The API server refused or did not answer.
    ApplyFailed,
    /// `spec.paused`.
    Paused,
    /// The first pods and balancers are coming up.
    Starting,
    /// New pods replace old ones.
    RollingOut,
    /// The rollout made no progress within its deadline.
    RolloutStuck,
    /// Somebody has paused the app's Deployment, not the app.
    DeploymentPaused,
    /// Pods are being added or removed.
    Scaling,
    /// No node takes one of the pods.
    Unschedulable,
    /// No node takes any pod.
    NoMatchingNode,
    /// A node has no room for its pod.
    NodesWithoutRoom,
    /// The API server lets no pod be made.
    PodsRefused,
    /// A container cannot be started as it is.
    ContainerConfigError,
    /// The image cannot be pulled.
    ImagePullError,
    /// The kubelet cannot start the pod: a volume or the network is missing.
    PodCannotStart,
    /// The app listens on another port than the one that was named.
    WrongPort,
    /// Pods that are ready do not answer the operator or the balancers.
    PodsUnreachable,
    /// The app ends again and again.
    AppCrashing,
    /// No pod serves.
    NoReadyPod,
    /// Fewer pods serve than were asked for.
    FewerPodsReady,
    /// Fewer workers are ready than were asked for.
    FewerWorkersReady,
    /// No balancer serves.
    NoBalancerServing,
    /// Fewer balancers serve than were asked for.
    FewerBalancersServing,
    /// A slot has no address yet.
    NoAddress,
    /// A slot's address is a name, which DNS of ours cannot publish.
    AddressIsAName,
    /// Event: another balancer answers at a slot's address.
    SlotTakenOver,
    /// Event: a slot's own balancer answers there again.
    SlotReturned,
    /// Event: the number of workers in the pods changes.
    WorkersChanged,
    /// Event: a reload begins.
    Reloading,
    /// A pod did not reload; the others were left as they are.
    ReloadFailed,
    /// Event: objects that belong to nothing any more are removed.
    Removed,
}

impl Reason {
    /// The reason of this text; `None` for one that only another version knows.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|known| known.as_str() == text)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq<&str> for Reason {
    fn eq(&self, text: &&str) -> bool {
        self.as_str() == *text
    }
}
