//! The tree that is shown of an app: slots and who answers there, pods, workers. These types are
//! also the documented contract of `-o json`.

use serde::Serialize;

use super::counters::Rates;

/// The version of the JSON. A field may be added without a new version.
pub(crate) const VERSION: u32 = 1;

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Health {
    /// It does not serve.
    Failing,
    /// It serves, and something is missing.
    Warning,
    /// Nothing is known of it.
    Unknown,
    /// Everything is as it should be.
    Good,
}

/// `status` as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) version: u32,
    pub(crate) apps: Vec<App>,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct App {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) health: Health,
    /// `Ready`, or the reason why it is not.
    pub(crate) state: String,
    /// The version in the app's image: its tag, or the first digits of its digest.
    pub(crate) image_version: String,
    pub(crate) hostname: Option<String>,
    pub(crate) paused: bool,
    /// Whether the operator has seen the object's last change.
    pub(crate) up_to_date: bool,
    pub(crate) ready_pods: i64,
    /// `READY/WANTED`, as the operator counts.
    pub(crate) pods_summary: String,
    pub(crate) workers_summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rates: Option<Rates>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) pods: Vec<Pod>,
    /// What could not be read, and why.
    pub(crate) unknown: Vec<String>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Whether this status of the condition is a problem.
    #[serde(skip)]
    pub(crate) is_problem: bool,
}

/// A slot: an address of the app.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slot {
    #[serde(rename = "slot")]
    pub(crate) number: i64,
    pub(crate) address: String,
    pub(crate) health: Health,
    /// The balancer pods that answer there.
    pub(crate) answered_by: Vec<String>,
    /// Whether the slot's own balancer answers; `null` if that is not known.
    pub(crate) own: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rates: Option<Rates>,
    pub(crate) in_flight: Option<u32>,
    pub(crate) queued: Option<u32>,
    /// What is wrong, for people.
    pub(crate) note: String,
}

/// A pod of the app.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) health: Health,
    /// `Running`, `Pending`, or why a container does not run.
    pub(crate) state: String,
    pub(crate) ready: bool,
    pub(crate) workers_ready: Option<u32>,
    pub(crate) workers_desired: Option<u32>,
    pub(crate) generation: Option<u32>,
    /// Restarts of workers and of containers.
    pub(crate) restarts: u32,
    pub(crate) in_flight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rates: Option<Rates>,
    /// The version of the pod's own supervisor.
    pub(crate) supervisor: String,
    /// How workers get their sockets.
    pub(crate) mechanism: Option<String>,
    pub(crate) dispatch: Option<String>,
    pub(crate) reload_failed: bool,
    pub(crate) workers: Vec<Worker>,
    /// Why the pod's own report is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unknown: Option<String>,
}

/// A worker, or a slot of a supervisor without a process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Worker {
    pub(crate) slot: u32,
    pub(crate) health: Health,
    pub(crate) state: String,
    pub(crate) generation: Option<u32>,
    pub(crate) restarts: u32,
    pub(crate) in_flight: u32,
    pub(crate) rss_bytes: u64,
    /// Share of a core between two readings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cores: Option<f64>,
    pub(crate) up_seconds: Option<f64>,
    /// How the last worker in the slot ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listens_elsewhere: Option<u16>,
}
