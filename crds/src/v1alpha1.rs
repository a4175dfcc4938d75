//! The fields of a `ScaledApp`, version `v1alpha1`, and their schema.
//!
//! The API server enforces the bounds and rules in this file. `operator/plan` enforces the same
//! ones with messages that name the same cures, for use without an API server. An absent member
//! of a union (`replicas`, `workers`) stays absent: a stored default of one member would
//! contradict the other member if a user applies that one later; `operator/plan` defaults.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Quantity};

mod access_log;
mod autoscaling;
mod error_pages;
mod limits;
mod protocol;
mod selection;
mod stickiness;
mod tls;
mod variables;

pub use access_log::{AccessLog, AccessLogFormat};
pub use autoscaling::{Autoscaling, CpuRange, PodRange, ScaleDown, Schedule, WorkerRange};
pub use error_pages::ErrorPages;
pub use limits::BalancerLimits;
pub use protocol::{AppProtocol, ProxyProtocol};
pub use selection::{Algorithm, TrafficDistribution};
pub use stickiness::Stickiness;
pub use tls::{ClientCertificateMode, ClientCertificates, IssuerRef, Tls, TlsVersion};
pub use variables::{EnvFrom, EnvVar, FieldRef, KeyRef, ObjectRef, ValueFrom};

/// One app: one command, run as many workers in many pods.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaledApp {
    /// [`crate::API_VERSION`].
    pub api_version: String,
    /// [`crate::KIND`].
    pub kind: String,
    /// Name, namespace, labels and annotations.
    pub metadata: Metadata,
    /// The desired app.
    pub spec: Spec,
}

/// The part of the object's metadata that a user writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Name of the app, an RFC 1123 label.
    pub name: String,
    /// Namespace. `scaledapp local` ignores it, because one machine has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels, for selectors.
    #[serde(
        default,
        deserialize_with = "crate::values::without_nulls",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// Annotations, for tools.
    #[serde(
        default,
        deserialize_with = "crate::values::without_nulls",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// The desired state of the app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[cfg_attr(
    feature = "kubernetes",
    derive(kube::CustomResource),
    kube(
        group = "scaledapp.io",
        version = "v1alpha1",
        kind = "ScaledApp",
        root = "ScaledAppObject",
        plural = "scaledapps",
        shortname = "sapp",
        namespaced,
        derive = "PartialEq",
        status = "crate::status::ScaledAppStatus",
        doc = "One HTTP app that runs on every core of every node behind several balancers.",
        scale(
            spec_replicas_path = ".spec.replicas.total",
            status_replicas_path = ".status.replicas",
            label_selector_path = ".status.selector"
        ),
        printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
        printcolumn = r#"{"name":"Updated","type":"string","jsonPath":".status.conditions[?(@.type==\"Updated\")].status"}"#,
        printcolumn = r#"{"name":"Pods","type":"string","jsonPath":".status.pods"}"#,
        printcolumn = r#"{"name":"Workers","type":"string","jsonPath":".status.workers.summary"}"#,
        printcolumn = r#"{"name":"Balancers","type":"string","jsonPath":".status.serving"}"#,
        printcolumn = r#"{"name":"Host","type":"string","jsonPath":".status.hostname"}"#,
        printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
        printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message","priority":1}"#,
        printcolumn = r#"{"name":"Scaling","type":"string","jsonPath":".status.autoscaling.reason","priority":1}"#,
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.command) && size(self.command) > 0", "message": "is empty: say what one worker runs, such as [node, server.js]", "fieldPath": ".command"}, {"rule": "!has(self.command) || size(self.command) == 0 || size(self.command[0]) > 0", "message": "begins with an empty word: begin with the program", "fieldPath": ".command"}, {"rule": r"!has(self.command) || size(self.command) != 1 || !self.command[0].matches('[ \\t\\n]')", "message": "is one word with spaces, and no shell splits it: write each word separately, such as [node, server.js]", "fieldPath": ".command"}, {"rule": "!has(self.env) || self.env.all(variable, variable.name != 'PORT' || (has(variable.value) && variable.value == (has(self.port) ? string(self.port) : '3000')))", "message": "PORT is set from spec.port: change that field", "fieldPath": ".env"}, {"rule": "(has(self.port) ? self.port : 3000) != (has(self.adminPort) ? self.adminPort : 9377)", "message": "is the supervisor's admin port in each pod: let the app listen on another port, or set spec.adminPort to another one", "fieldPath": ".port"}, {"rule": "!has(self.workers) || !has(self.workers.share) || !((has(self.adminPort) ? self.adminPort : 9377) in self.workers.share)", "message": "contains the supervisor's admin port of each pod: share another port, or set spec.adminPort to another one", "fieldPath": ".workers.share"}, {"rule": "!has(self.balancers) || !has(self.balancers.tls) || !has(self.balancers.tls.issuerRef) || (has(self.dns) && has(self.dns.hostname))", "message": "needs spec.dns.hostname, the name that the certificate is for: give it, or leave issuerRef out and create the Secret yourself", "fieldPath": ".balancers.tls.issuerRef"}, {"rule": "!has(self.balancers) || !has(self.balancers.stickiness) || !has(self.workers) || !has(self.workers.dispatch) || self.workers.dispatch != 'Connection' || (has(self.appProtocol) && self.appProtocol == 'tcp')", "message": "needs dispatch Request: with Connection, workers accept connections themselves, so a client cannot be led to one of them; leave it out, or leave workers.dispatch out", "fieldPath": ".balancers.stickiness"}, {"rule": "!(has(self.appProtocol) && self.appProtocol == 'tcp') || !has(self.workers) || !has(self.workers.dispatch) || self.workers.dispatch == 'Connection'", "message": "Request needs HTTP, and spec.appProtocol is tcp: write Connection, or leave it out", "fieldPath": ".workers.dispatch"}, {"rule": "!(has(self.appProtocol) && self.appProtocol == 'tcp') || !has(self.workers) || !(has(self.workers.maxRequests) || has(self.workers.maxInFlight) || (has(self.workers.readiness) && has(self.workers.readiness.path)))", "message": "maxRequests, maxInFlight and readiness.path need HTTP, and spec.appProtocol is tcp: leave them out", "fieldPath": ".workers"}, {"rule": "!(has(self.appProtocol) && self.appProtocol == 'tcp') || !has(self.balancers) || !has(self.balancers.stickiness) || has(self.balancers.stickiness.clientAddress)", "message": "needs a request that has a cookie or a header, and spec.appProtocol is tcp: use clientAddress: true, or leave it out", "fieldPath": ".balancers.stickiness"}, {"rule": "!(has(self.appProtocol) && self.appProtocol == 'tcp') || !has(self.balancers) || !(has(self.balancers.http2) || has(self.balancers.forwardedFrom) || has(self.balancers.accessLog) || has(self.balancers.errorPages))", "message": "http2, forwardedFrom, accessLog and errorPages are for HTTP, and spec.appProtocol is tcp: leave them out; a load balancer in front can say who its client is with proxyProtocol.from", "fieldPath": ".balancers"}, {"rule": "!(has(self.appProtocol) && self.appProtocol == 'tcp') || !has(self.balancers) || !has(self.balancers.tls) || !(has(self.balancers.tls.hsts) || (has(self.balancers.tls.redirect) && self.balancers.tls.redirect))", "message": "redirect and hsts are for HTTP, and spec.appProtocol is tcp: leave them out", "fieldPath": ".balancers.tls"}, {"rule": "!(has(self.appProtocol) && self.appProtocol == 'tcp') || !has(self.balancers) || !has(self.balancers.timeouts) || !(has(self.balancers.timeouts.body) || has(self.balancers.timeouts.answer) || has(self.balancers.timeouts.stream) || has(self.balancers.timeouts.idle) || has(self.balancers.timeouts.halfClose))", "message": "body, answer, stream, idle and halfClose are for HTTP, and spec.appProtocol is tcp: leave them out; upgrade limits how long a connection may be silent", "fieldPath": ".balancers.timeouts"}, {"rule": "!(has(self.appProtocol) && self.appProtocol == 'tcp') || !has(self.balancers) || !has(self.balancers.limits) || !(has(self.balancers.limits.bodyRate) || has(self.balancers.limits.bodySize) || has(self.balancers.limits.requestsPerSecondPerAddress) || has(self.balancers.limits.headBytes) || has(self.balancers.limits.headFields))", "message": "bodyRate, bodySize, headBytes, headFields and requestsPerSecondPerAddress are for HTTP, and spec.appProtocol is tcp: leave them out", "fieldPath": ".balancers.limits"}, {"rule": "(has(self.appProtocol) && self.appProtocol == 'tcp') || !has(self.balancers) || !has(self.balancers.proxyProtocol) || !has(self.balancers.proxyProtocol.toPods) || !self.balancers.proxyProtocol.toPods", "message": "needs appProtocol tcp: apps that speak HTTP learn their client from X-Forwarded-For; leave it out", "fieldPath": ".balancers.proxyProtocol.toPods"}, {"rule": "!has(self.autoscaling) || !has(self.replicas)", "message": "is not for an app with autoscaling, which decides how many pods there are: leave replicas out. `kubectl scale` writes replicas.total; set autoscaling.pods.min instead", "fieldPath": ".replicas"}, {"rule": "!has(self.autoscaling) || !has(self.workers) || !(has(self.workers.perCore) || has(self.workers.count))", "message": "perCore and count are not for an app with autoscaling, which decides how many workers a pod has: leave them out. For a fixed number, write the same min and max in autoscaling.workers", "fieldPath": ".workers"}, {"rule": "!has(self.autoscaling) || !has(self.autoscaling.workers) || !has(self.autoscaling.workers.min) || !has(self.autoscaling.workers.max) || self.autoscaling.workers.min >= self.autoscaling.workers.max || !((has(self.workers) && has(self.workers.dispatch) && self.workers.dispatch == 'Connection') || (has(self.appProtocol) && self.appProtocol == 'tcp'))", "message": "a range needs dispatch Request: with Connection, workers accept connections themselves, so nobody sees when one more is needed; write the same min and max", "fieldPath": ".autoscaling.workers"}, {"rule": "!has(self.autoscaling) || !has(self.autoscaling.cpu) || has(self.resources)", "message": "needs the CPU that a pod starts with: give spec.resources.limits.cpu or spec.resources.requests.cpu, or leave cpu out", "fieldPath": ".autoscaling.cpu"}]))]
pub struct Spec {
    /// The container image. `scaledapp local` runs `command` from this machine
    /// and pulls no image.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// What ONE worker runs. Required: the supervisor executes it itself, without the
    /// image's entrypoint.
    // Not required in the schema, so that a rule can name the cure.
    #[serde(default, deserialize_with = "crate::values::or_default")]
    #[schemars(schema_with = "crate::schema::words")]
    pub command: Vec<String>,
    /// Arguments after `command`.
    #[serde(
        default,
        deserialize_with = "crate::values::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "crate::schema::words")]
    pub args: Vec<String>,
    /// Environment of each worker.
    #[serde(
        default,
        deserialize_with = "crate::values::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// `ConfigMap`s and `Secret`s whose entries become environment variables. Only
    /// in a cluster.
    #[serde(
        default,
        deserialize_with = "crate::values::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 64))]
    pub env_from: Vec<EnvFrom>,
    /// Directory in which a worker starts. On one machine it is relative to the object's
    /// file, whose directory is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub working_dir: Option<String>,
    /// The port that the app listens on; also given as `PORT`. 3000 by default.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 65535), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 65535", "message": "is not a port: give the one that the app listens on, 1 to 65535"}]))]
    pub port: Option<i32>,
    /// The admin port of each pod's supervisor, for probes, metrics and state. 9377 by
    /// default; set another one if the app needs that port.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 65535), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 65535", "message": "is not a port: give one that the app does not use, 1 to 65535"}]))]
    pub admin_port: Option<i32>,
    /// What the app speaks on its port; `http` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<AppProtocol>,
    /// How many pods; one per node by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Replicas>,
    /// How many pods and workers the operator runs by itself, by load, in place of `replicas`;
    /// off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// How many workers in each pod, and how they are treated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Workers>,
    /// Resource requests and limits of a pod. Not enforced by `scaledapp local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The load balancers in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancers: Option<Balancers>,
    /// The app's name in DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Anything else that a pod needs (volumes, affinity, sidecars, a security context):
    /// `metadata` and `spec` as in a Deployment's template, merged over ours. The app's
    /// container is named `app`. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::anything")]
    pub pod_template: Option<serde_json::Value>,
    /// The supervisor in each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<Supervisor>,
    /// Keeps the operator from changing anything of this app, except where its addresses
    /// lead. Only in a cluster.
    #[serde(
        default,
        deserialize_with = "crate::values::truth",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub paused: bool,
}

/// The supervisor in each pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Supervisor {
    /// How it gets into a pod; `InitContainer` by default. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

/// How the supervisor gets into a pod: an init container copies it into an emptyDir
/// (`InitContainer`, the default), or its image is a volume of the pod (`ImageVolume`,
/// which needs Kubernetes 1.35).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Delivery {
    /// An init container copies it into an emptyDir.
    InitContainer,
    /// Its image is a volume of the pod.
    ImageVolume,
}

/// How many pods. Exactly one member is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(self.perNode) || !has(self.total)", "message": "perNode and total exclude each other: leave one out. `kubectl scale` writes total; to scale an app with perNode, change perNode with `kubectl edit`"}, {"rule": "has(self.perNode) || has(self.total)", "message": "is empty: give perNode or total, or leave it out (perNode: 1)"}]))]
pub struct Replicas {
    /// This many on every node.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 5000), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 5000", "message": "0 pods serve nothing, and there is a limit: give 1 to 5000"}]))]
    pub per_node: Option<i32>,
    /// This many in total.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 5000), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 5000", "message": "0 pods serve nothing, and there is a limit: give 1 to 5000"}]))]
    pub total: Option<i32>,
}

/// The workers of a pod. At most one of `perCore` and `count` is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(self.perCore) || !has(self.count)", "message": "perCore and count exclude each other: leave one out"}, {"rule": "!has(self.dispatch) || self.dispatch != 'Connection' || !has(self.readiness) || !has(self.readiness.path)", "message": "needs dispatch Request: with Connection, all workers share one queue, so no single one can be probed; leave the path out", "fieldPath": ".readiness.path"}, {"rule": "!has(self.dispatch) || self.dispatch != 'Connection' || !has(self.maxRequests)", "message": "needs dispatch Request: connections that workers accept for themselves are not counted; use maxAge or maxMemory", "fieldPath": ".maxRequests"}, {"rule": "!has(self.dispatch) || self.dispatch != 'Connection' || !has(self.maxInFlight)", "message": "needs dispatch Request: with Connection, workers accept connections themselves; leave it out", "fieldPath": ".maxInFlight"}, {"rule": "!has(self.incrementEnv) || !has(self.instanceEnv) || self.incrementEnv != self.instanceEnv", "message": "already holds the worker's number: leave it out", "fieldPath": ".incrementEnv"}]))]
pub struct Workers {
    /// This many for every core of the pod.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1024), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 1024", "message": "0 workers serve nothing, and there is a limit: give 1 to 1024"}]))]
    pub per_core: Option<i32>,
    /// This many in each pod.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1024), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 1024", "message": "0 workers serve nothing, and there is a limit: give 1 to 1024"}]))]
    pub count: Option<i32>,
    /// What workers receive; `Request` by default, `Connection` for tcp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatch: Option<Dispatch>,
    /// When a worker counts as ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// How long work in flight may take to finish; 30s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || duration(self) <= duration('1h')", "message": "is longer than 1h, and a stop could take that long: give at most 1h"}]))]
    pub drain_timeout: Option<Duration>,
    /// How long a worker may take to end after the stop signal, before it is killed (PM2's
    /// `kill_timeout`); 10s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || duration(self) <= duration('1h')", "message": "is longer than 1h, and a stop could take that long: give at most 1h"}]))]
    pub stop_grace: Option<Duration>,
    /// A worker whose processes use more memory than this is replaced without losing a
    /// request; unlimited by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Quantity>,
    /// A worker that has answered this many requests, or up to a tenth less, is replaced;
    /// unlimited by default.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64), extend("x-kubernetes-validations" = [{"rule": "self >= 1", "message": "0 requests would replace workers without end: give 1 or more, or leave it out"}]))]
    pub max_requests: Option<i64>,
    /// A worker that has served for this long, or up to a tenth less, is replaced;
    /// unlimited by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || duration(self) >= duration('1s')", "message": "would replace workers without end: give 1s or more, or leave it out"}]))]
    pub max_age: Option<Duration>,
    /// A worker that has requests, sends no byte and accepts no connection for this long is
    /// killed and replaced; 60s by default, 0s: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hang_timeout: Option<Duration>,
    /// Most requests that one worker has in flight; more wait in the queue. No limit by default.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 1000000", "message": "a worker with 0 requests serves nothing: give 1 or more, or leave it out"}]))]
    pub max_in_flight: Option<i32>,
    /// Further ports that all workers serve, beside spec.port.
    #[serde(
        default,
        deserialize_with = "crate::values::wholes",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 16), inner(range(min = 1, max = 65535)), extend("x-kubernetes-list-type" = "set"))]
    pub share: Vec<i32>,
    /// Path of each worker's metrics, such as /metrics, or 9464/metrics on another port.
    /// The supervisor merges them at /metrics/app of its admin port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [{"rule": "self.matches('^([0-9]{1,5})?/[!-~]*$')", "message": "is not a source of metrics: give a path such as /metrics, or a port and a path such as 9464/metrics"}]))]
    pub metrics_from: Option<String>,
    /// The signal that asks a worker to end; SIGTERM by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = [{"rule": "self.upperAscii().matches('^(SIG)?(TERM|INT|QUIT|HUP|USR1|USR2|WINCH)$')", "message": "is not a signal that asks a process to end: give SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH"}]))]
    pub stop_signal: Option<String>,
    /// Asks a worker to end with the message "shutdown" on Node's message channel instead
    /// of the signal. A worker that has closed the channel gets the signal.
    #[serde(
        default,
        deserialize_with = "crate::values::truth",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub shutdown_message: bool,
    /// A variable that counts up from worker to worker, starting at its value in `env`, or
    /// at 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [{"rule": "!self.contains('=') && self != 'PORT' && !self.startsWith('SCALEDAPP_')", "message": "cannot be counted up: give a variable of the app's own, such as DEBUG_PORT; all workers share spec.port"}]))]
    pub increment_env: Option<String>,
    /// The variable that holds a worker's number; `NODE_APP_INSTANCE` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [{"rule": "!self.contains('=') && self != 'PORT'", "message": "cannot hold the worker's number: give a variable's name, such as INSTANCE"}]))]
    pub instance_env: Option<String>,
}

/// What workers receive: each HTTP request goes to the least busy worker (`Request`, the
/// default), or each connection to an idle worker (`Connection`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Dispatch {
    /// Each HTTP request goes to the least busy worker.
    Request,
    /// Each connection goes to an idle worker.
    Connection,
}

/// When a worker counts as ready: when it listens and meets everything that is given here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Readiness {
    /// It must have called `process.send('ready')` on Node's message channel. Only the
    /// process that `command` starts has the channel, not one that a wrapper starts.
    #[serde(
        default,
        deserialize_with = "crate::values::truth",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub wait_ready: bool,
    /// Path that must answer 2xx or 3xx; without it, the worker only has to listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = [{"rule": "self.matches('^/[!-~]*$')", "message": "must start with / and contain no spaces, such as /healthz"}]))]
    pub path: Option<String>,
    /// A worker that takes longer than this is replaced; 60s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) > duration('0s') && duration(self) <= duration('1h'))", "message": "is out of range: give 1ms to 1h"}]))]
    pub timeout: Option<Duration>,
}

/// Resource requests and limits of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Requests.
    #[serde(
        default,
        deserialize_with = "crate::values::without_nulls",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(length(max = 32))]
    pub requests: BTreeMap<String, Quantity>,
    /// Limits.
    #[serde(
        default,
        deserialize_with = "crate::values::without_nulls",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(length(max = 32))]
    pub limits: BTreeMap<String, Quantity>,
}

/// The load balancers in front of the pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Balancers {
    /// How many balancers, each with its own address; 2 by default.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 8), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 8", "message": "0 balancers serve no client, and one DNS answer holds 8: give 1 to 8"}]))]
    pub replicas: Option<i32>,
    /// Who can reach the addresses; `ClusterIP` by default. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,
    /// Which pod gets a request; `LeastRequest` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// How long a pod that is new, or is back after failures, gets a growing share of its
    /// requests, from a tenth to all; 10s by default, 0s: all at once. Not with `Hash` or
    /// stickiness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || duration(self) <= duration('15m')", "message": "is longer than 15m, and new pods would help too late: give at most 15m"}]))]
    pub slow_start: Option<Duration>,
    /// `PreferSameZone`: balancers prefer pods in their own zone until these are busy. By
    /// default zones do not matter. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
    /// How a client comes back to the same pod and the same worker; it does not by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stickiness: Option<Stickiness>,
    /// Networks of proxies in front, such as a TLS terminator, whose X-Forwarded-*,
    /// Forwarded and X-Request-Id the balancers believe; none by default.
    #[serde(
        default,
        deserialize_with = "crate::values::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 64), inner(length(min = 1, max = 49)), extend("x-kubernetes-list-type" = "set", "x-kubernetes-validations" = [{"rule": "self.all(network, network.matches('^(((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])[.]){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(/(3[0-2]|[12]?[0-9]))?|[0-9a-fA-F]*:[0-9a-fA-F:.]*(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)$'))", "message": "contains something that is neither a network nor an address: give entries such as 10.0.0.0/8, fd00::/8 or 192.0.2.7; names are not looked up"}]))]
    pub forwarded_from: Vec<String>,
    /// The PROXY protocol with load balancers in front, and with pods; off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS on port 443 of the balancers' addresses, or with appProtocol tcp on spec.port; none
    /// by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// HTTP/2 with clients that ask for it; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<bool>,
    /// The timeouts of the balancers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What the balancers allow at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<BalancerLimits>,
    /// A line for each finished request; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Pages for the balancers' own answers; one word as text by default. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_pages: Option<ErrorPages>,
    /// Resource requests and limits of a balancer's pod, in place of the operator's
    /// default; {} requests nothing. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Anything else that a balancer's pod needs (a node selector, tolerations, affinity,
    /// labels): `metadata` and `spec` as in a Deployment's template, merged over ours. The
    /// balancer's container is named `balancer`. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::anything")]
    pub pod_template: Option<serde_json::Value>,
}

/// The timeouts of the balancers. The dispatcher in each pod has the same `body`, `answer`,
/// `stall`, `stream` and `upgrade`, so a change of these replaces the pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// For the head of a request, from its first byte to its last, and for a TLS handshake; 10s
    /// by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) > duration('0s') && duration(self) <= duration('24h'))", "message": "is out of range: give 1ms to 24h"}]))]
    pub head: Option<Duration>,
    /// For the whole body of a request; 6h by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) > duration('0s') && duration(self) <= duration('24h'))", "message": "is out of range: give 1ms to 24h"}]))]
    pub body: Option<Duration>,
    /// For the head of an answer, after which the client gets 504; 5m by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) > duration('0s') && duration(self) <= duration('24h'))", "message": "is out of range: give 1ms to 24h"}]))]
    pub answer: Option<Duration>,
    /// Between two bytes of a body; 5m by default. With appProtocol tcp: between two bytes of a
    /// connection of which one side has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) > duration('0s') && duration(self) <= duration('24h'))", "message": "is out of range: give 1ms to 24h"}]))]
    pub stall: Option<Duration>,
    /// Between two bytes of an event stream; 1h by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) > duration('0s') && duration(self) <= duration('24h'))", "message": "is out of range: give 1ms to 24h"}]))]
    pub stream: Option<Duration>,
    /// Without a byte in either direction of an upgraded connection (a WebSocket), or with
    /// appProtocol tcp of any connection; 1h by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) > duration('0s') && duration(self) <= duration('24h'))", "message": "is out of range: give 1ms to 24h"}]))]
    pub upgrade: Option<Duration>,
    /// Between two requests on a client's connection; 75s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) > duration('0s') && duration(self) <= duration('24h'))", "message": "is out of range: give 1ms to 24h"}]))]
    pub idle: Option<Duration>,
    /// How long a client that has closed its sending side may still wait for its answer;
    /// 500ms by default, 0s: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) >= duration('0s') && duration(self) <= duration('24h'))", "message": "is out of range: give 0s to 24h"}]))]
    pub half_close: Option<Duration>,
}

/// Who can reach the balancers' addresses: clients in the cluster (`ClusterIP`, the
/// default), or clients of the cloud's load balancers (`LoadBalancer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Exposure {
    /// Clients in the cluster.
    ClusterIP,
    /// Clients of the cloud's load balancers.
    LoadBalancer,
}

/// The app's name in DNS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    /// The whole name, such as `hello.apps.example.com`.
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = [{"rule": r"self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+\\.?$')", "message": "is not a DNS name with a zone: use labels of a-z, 0-9 and -, each at most 63 long, separated by dots, such as hello.apps.local"}]))]
    pub hostname: String,
    /// How long resolvers may keep an answer; 30s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) >= duration('1s') && duration(self) <= duration('24h') && duration(self).getMilliseconds() % 1000 == 0)", "message": "is out of range: give whole seconds from 1s to 24h"}]))]
    pub ttl: Option<Duration>,
}
