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

/// Reasons of conditions and events.
pub mod reason {
    /// All is as asked for.
    pub const AS_WANTED: &str = "AsWanted";
    /// Nothing has been looked at yet.
    pub const NOT_OBSERVED: &str = "NotObserved";
    /// A field holds a value that cannot be.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// `spec.podTemplate` cannot be laid over ours.
    pub const INVALID_POD_TEMPLATE: &str = "InvalidPodTemplate";
    /// An object of that name belongs to somebody else.
    pub const NAME_CONFLICT: &str = "NameConflict";
    /// An older object has the same hostname.
    pub const HOSTNAME_TAKEN: &str = "HostnameTaken";
    /// The hostname is in a zone that belongs to other namespaces.
    pub const HOSTNAME_REFUSED: &str = "HostnameRefused";
    /// The hostname is one of the DNS zone's own.
    pub const HOSTNAME_RESERVED: &str = "HostnameReserved";
    /// No DNS of ours answers for the hostname.
    pub const HOSTNAME_OUTSIDE: &str = "HostnameOutsideZones";
    /// Admission takes labels away by which the operator finds its objects.
    pub const LABELS_CHANGED: &str = "LabelsChanged";
    /// The Role or the `RoleBinding` of the balancers is not as the operator makes it.
    pub const RIGHTS_DIFFER: &str = "RightsDiffer";
    /// The API server refused or did not answer.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// `spec.paused`.
    pub const PAUSED: &str = "Paused";
    /// The first pods and balancers are coming up.
    pub const STARTING: &str = "Starting";
    /// New pods replace old ones.
    pub const ROLLING_OUT: &str = "RollingOut";
    /// The rollout made no progress within its deadline.
    pub const ROLLOUT_STUCK: &str = "RolloutStuck";
    /// Somebody has paused the app's Deployment, not the app.
    pub const DEPLOYMENT_PAUSED: &str = "DeploymentPaused";
    /// Pods are being added or removed.
    pub const SCALING: &str = "Scaling";
    /// No node takes one of the pods.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// No node takes any pod.
    pub const NO_MATCHING_NODE: &str = "NoMatchingNode";
    /// A node has no room for its pod.
    pub const NODES_WITHOUT_ROOM: &str = "NodesWithoutRoom";
    /// The API server lets no pod be made.
    pub const PODS_REFUSED: &str = "PodsRefused";
    /// A container cannot be started as it is.
    pub const CONTAINER_CONFIG: &str = "ContainerConfigError";
    /// The image cannot be pulled.
    pub const IMAGE_PULL: &str = "ImagePullError";
    /// The kubelet cannot start the pod: a volume or the network is missing.
    pub const POD_NOT_STARTED: &str = "PodCannotStart";
    /// The app listens on another port than the one that was named.
    pub const WRONG_PORT: &str = "WrongPort";
    /// Pods that are ready do not answer the operator or the balancers.
    pub const UNREACHABLE: &str = "PodsUnreachable";
    /// The app ends again and again.
    pub const CRASHING: &str = "AppCrashing";
    /// No pod serves.
    pub const NO_READY_POD: &str = "NoReadyPod";
    /// Fewer pods serve than were asked for.
    pub const FEWER_PODS: &str = "FewerPodsReady";
    /// Fewer workers are ready than were asked for.
    pub const FEWER_WORKERS: &str = "FewerWorkersReady";
    /// No balancer serves.
    pub const NO_BALANCER: &str = "NoBalancerServing";
    /// Fewer balancers serve than were asked for.
    pub const FEWER_BALANCERS: &str = "FewerBalancersServing";
    /// A slot has no address yet.
    pub const NO_ADDRESS: &str = "NoAddress";
    /// A slot's address is a name, which DNS of ours cannot publish.
    pub const ADDRESS_IS_A_NAME: &str = "AddressIsAName";
    /// Event: another balancer answers at a slot's address.
    pub const SLOT_TAKEN_OVER: &str = "SlotTakenOver";
    /// Event: a slot's own balancer answers there again.
    pub const SLOT_RETURNED: &str = "SlotReturned";
    /// Event: the number of workers in the pods changes.
    pub const WORKERS_CHANGED: &str = "WorkersChanged";
    /// Event: a reload begins.
    pub const RELOADING: &str = "Reloading";
    /// A pod did not reload; the others were left as they are.
    pub const RELOAD_FAILED: &str = "ReloadFailed";
    /// Event: objects that belong to nothing any more are removed.
    pub const REMOVED: &str = "Removed";

    /// All of them.
    pub const ALL: [&str; 41] = [
        AS_WANTED,
        NOT_OBSERVED,
        INVALID_SPEC,
        INVALID_POD_TEMPLATE,
        NAME_CONFLICT,
        HOSTNAME_TAKEN,
        HOSTNAME_REFUSED,
        HOSTNAME_RESERVED,
        HOSTNAME_OUTSIDE,
        LABELS_CHANGED,
        RIGHTS_DIFFER,
        APPLY_FAILED,
        PAUSED,
        STARTING,
        ROLLING_OUT,
        ROLLOUT_STUCK,
        DEPLOYMENT_PAUSED,
        SCALING,
        UNSCHEDULABLE,
        NO_MATCHING_NODE,
        NODES_WITHOUT_ROOM,
        PODS_REFUSED,
        CONTAINER_CONFIG,
        IMAGE_PULL,
        POD_NOT_STARTED,
        WRONG_PORT,
        UNREACHABLE,
        CRASHING,
        NO_READY_POD,
        FEWER_PODS,
        FEWER_WORKERS,
        NO_BALANCER,
        FEWER_BALANCERS,
        NO_ADDRESS,
        ADDRESS_IS_A_NAME,
        SLOT_TAKEN_OVER,
        SLOT_RETURNED,
        WORKERS_CHANGED,
        RELOADING,
        RELOAD_FAILED,
        REMOVED,
    ];
}
