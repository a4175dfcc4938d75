//! Defines, in one place, the labels and annotations of the operator's objects, the port names,
//! the conditions and the reasons.

/// Labels of the objects that belong to an app.
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
    /// On pods: the app's name, in a label that no other software uses.
    pub const APP: &str = "scaledapp.io/app";
    /// Number of a balancer's slot.
    pub const SLOT: &str = "scaledapp.io/slot";
    /// Name of the Service that an `EndpointSlice` belongs to.
    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
    /// On Endpoints: Kubernetes does not copy Endpoints with this label to an `EndpointSlice`.
    pub const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
    /// The writer of an `EndpointSlice`; always [`super::ENDPOINTS_MANAGER`].
    pub const ENDPOINTS_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
}

/// `app.kubernetes.io/name` and `part-of` of everything.
pub const APP: &str = "scaledapp";
/// `app.kubernetes.io/managed-by`, and the field manager of server-side apply.
pub const MANAGER: &str = "scaledapp-operator";
/// `endpointslice.kubernetes.io/managed-by`: Kubernetes' own controllers do not change a slice with
/// this value.
pub const ENDPOINTS_MANAGER: &str = "operator.scaledapp.io";

/// Values of [`label::COMPONENT`].
pub mod component {
    /// The app's own pods and their Service.
    pub const APP: &str = "app";
    /// The balancers and the Services in front of them.
    pub const BALANCER: &str = "balancer";
}

/// Annotations.
pub mod annotation {
    /// On a pod: the desired state, which the supervisor reads as a file.
    pub const DESIRED: &str = "scaledapp.io/desired";
    /// On a pod: the number of workers in its desired state.
    pub const WORKERS: &str = "scaledapp.io/workers";
    /// On a `ScaledApp`: the reload token; a new value causes a reload. On a pod: the reload token
    /// in its desired state.
    pub const RELOAD: &str = "scaledapp.io/reload";
    /// On the `ConfigMap` of an app: when its number of workers last changed.
    pub const WORKERS_SINCE: &str = "scaledapp.io/workers-since";
    /// On the `ConfigMap` of an app: when its reload token last changed. On a pod: when the
    /// operator wrote the token into the pod's desired state.
    pub const RELOAD_SINCE: &str = "scaledapp.io/reload-since";
    /// On a slot's Service: the time when the slot was retired. Since then the Service exists only
    /// for clients whose resolvers still return its address.
    pub const RETIRED: &str = "scaledapp.io/retired-at";
    /// On a `ScaledApp`: a new value replaces the pods, so that they get the current supervisor.
    pub const UPGRADE: &str = "scaledapp.io/upgrade";
    /// On a Deployment: hash of the user's input for its pods.
    pub const INPUTS: &str = "scaledapp.io/inputs";
    /// On a Deployment: the pinned pod template, made when the user's input changed last.
    pub const TEMPLATE: &str = "scaledapp.io/template";
    /// On a Deployment: the total number of pods that replaced an equal number of pods per node, so
    /// that no pod had to be replaced.
    pub const KEPT_TOTAL: &str = "scaledapp.io/kept-total";
    /// On a Deployment with an autoscaler: the number of pods that the last event about it named,
    /// and when.
    pub const SCALED: &str = "scaledapp.io/scaled";
    /// On a Deployment with pods per node: the number of nodes that count.
    pub const NODES: &str = "scaledapp.io/nodes";
    /// On a Deployment with pods per node: hashes of the nodes that lack a pod and cannot
    /// take one, each with a letter for the reason.
    pub const FULL_NODES: &str = "scaledapp.io/full-nodes";
    /// On a Deployment with pods per node: the time since which pods are on nodes that no longer
    /// count.
    pub const FEWER_SINCE: &str = "scaledapp.io/fewer-nodes-since";
    /// On every object that the operator applies: hash of the applied object, so that an unchanged
    /// object is not written again.
    pub const APPLIED: &str = "scaledapp.io/applied";
    /// On a pod, for cluster autoscalers: volumes that do not keep a node from being removed.
    pub const EVICTABLE_VOLUMES: &str =
        "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    /// On a pod, for the `ReplicaSet` controller: pods with lower values are deleted first.
    pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
}

/// Names of ports.
pub mod port {
    /// The port that serves requests.
    pub const HTTP: &str = "http";
    /// The port that serves connections of another protocol. Meshes read protocols from names.
    pub const TCP: &str = "tcp";
    /// The port that serves requests over TLS.
    pub const HTTPS: &str = "https";
    /// The read-only admin port of a supervisor or balancer.
    pub const ADMIN: &str = "admin";
}

/// Types of conditions.
pub mod condition {
    /// Requests are served: there are pods and balancers.
    pub const READY: &str = "Ready";
    /// A change is being rolled out.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is missing, or a release does not come up; requests may still be served.
    pub const DEGRADED: &str = "Degraded";
    /// kstatus: the app is not yet as specified.
    pub const RECONCILING: &str = "Reconciling";
    /// This generation of the object is rolled out and serves.
    pub const UPDATED: &str = "Updated";
    /// kstatus: the operator cannot make progress until a person acts.
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
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The text in conditions and events.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    /// Everything is as specified.
    AsWanted,
    /// The operator has not reconciled the app yet.
    NotObserved,
    /// A field has an invalid value.
    InvalidSpec,
    /// A pod template of the user (`spec.podTemplate` or `spec.balancers.podTemplate`) is
    /// invalid.
    InvalidPodTemplate,
    /// An object with a name that the app needs exists already and does not belong to the app.
    NameConflict,
    /// An older object has the same hostname.
    HostnameTaken,
    /// The hostname is in a zone that belongs to other namespaces.
    HostnameRefused,
    /// The hostname is one of the DNS zone's own.
    HostnameReserved,
    /// No scaledapp-dns answers for the hostname.
    HostnameOutsideZones,
    /// Admission removes labels by which the operator finds its objects.
    LabelsChanged,
    /// The Role or the `RoleBinding` of the balancers is not as the operator creates it.
    RightsDiffer,
    /// An earlier app's objects cannot become the app's own.
    NotOwned,
    /// A `HorizontalPodAutoscaler` names the app or one of its Deployments and cannot scale it.
    AutoscalerCannotScale,
    /// cert-manager has not issued the certificate for the hostname.
    CertificateNotIssued,
    /// The API server refused a request or did not answer.
    ApplyFailed,
    /// `spec.paused` is true.
    Paused,
    /// The first pods and balancers are coming up.
    Starting,
    /// New pods replace old ones.
    RollingOut,
    /// The rollout made no progress within its deadline.
    RolloutStuck,
    /// The app's Deployment is paused, but the app is not.
    DeploymentPaused,
    /// Pods are being added or removed.
    Scaling,
    /// There is no pod because there is no request; the balancers hold the next one.
    ScaledToZero,
    /// Requests wait at the balancers for the first pod.
    WakingUp,
    /// No node takes one of the pods.
    Unschedulable,
    /// No node takes any pod.
    NoMatchingNode,
    /// A node has no room for its pod.
    NodesWithoutRoom,
    /// The API server refuses the pods.
    PodsRefused,
    /// A container cannot be started as it is configured.
    ContainerConfigError,
    /// The image cannot be pulled.
    ImagePullError,
    /// The kubelet cannot start the pod, for example because a volume or the network is missing.
    PodCannotStart,
    /// The app listens on another port than `spec.port`.
    WrongPort,
    /// Pods that are ready do not answer the operator or the balancers.
    PodsUnreachable,
    /// The app exits again and again.
    AppCrashing,
    /// No pod serves.
    NoReadyPod,
    /// Fewer pods serve than specified.
    FewerPodsReady,
    /// Fewer workers are ready than specified.
    FewerWorkersReady,
    /// No balancer serves.
    NoBalancerServing,
    /// Fewer balancers serve than specified.
    FewerBalancersServing,
    /// A slot has no address yet.
    NoAddress,
    /// A slot's address is a name, which scaledapp-dns cannot publish.
    AddressIsAName,
    /// Event: another balancer answers at a slot's address.
    SlotTakenOver,
    /// Event: a slot's own balancer answers there again.
    SlotReturned,
    /// Event: the number of workers in the pods changes.
    WorkersChanged,
    /// Event: a reload begins.
    Reloading,
    /// A pod did not reload, so the pods after it were not reloaded.
    ReloadFailed,
    /// Event: objects that are no longer needed are deleted.
    Removed,
}

impl Reason {
    /// The reason with this text; `None` if this version does not know it.
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
