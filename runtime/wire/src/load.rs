//! A line of `/load`: what the autoscaler reads from balancers and supervisors.
//!
//! `GET /load` of an admin port is answered by a stream of JSON lines: the first one at once, then
//! one each second. A balancer also sends a line as soon as a request begins to wait while no
//! endpoint can take it, so that a pod is started without waiting for the second to end.
//!
//! What counts up (`arrivals`, `answers`, …) counts since the process began. A reader takes the
//! differences between lines with the same `run`.

use serde::{Deserialize, Serialize};

/// How much clients ask of a balancer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BalancerLoad {
    /// Requests that have arrived; under TCP, connections.
    pub arrivals: u64,
    /// Connections that need a pod to live on: those of TCP, and those that were upgraded.
    pub connected: u32,
    /// Requests that were sent to a pod and are not yet answered.
    pub in_flight: u32,
    /// Requests that wait for a pod.
    pub queued: u32,
    /// Identifies the process; another value means that the counters began again.
    pub run: String,
}

/// How busy the workers of a pod are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodLoad {
    /// The sum of the times that workers took for the answers in `answers`, in seconds.
    pub answer_seconds: f64,
    /// Answers of workers with a status below 500.
    pub answers: u64,
    /// How long the first worker took from its start until it was ready, in seconds; `None` until
    /// one was ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_seconds: Option<f64>,
    /// Workers with at least one request.
    pub busy: u32,
    /// CPU time that the workers have used, including those that have ended, in seconds.
    pub cpu_seconds: f64,
    /// Answers with a status of 500 or more, and requests that ended without an answer.
    pub failures: u64,
    /// Requests at workers; under Connection dispatch, open connections.
    pub in_flight: u32,
    /// Requests that wait in the pod for a worker.
    pub queued: u32,
    /// Identifies the process; another value means that the counters began again.
    pub run: String,
    /// Ready workers.
    pub workers: u32,
}
