//! `/status` of a supervisor, which is also the answer to `ctl status`.

use serde::{Deserialize, Serialize};

use crate::{Dispatch, LastExit, Scaling};

/// How workers get their sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mechanism {
    /// The supervisor answers the `bind` and `listen` calls of the workers.
    Notify,
    /// Each worker gets a private port in `PORT`.
    Port,
    /// Workers need no sockets, because the app has no port.
    None,
    /// The field is missing, or has a value that only newer supervisors know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Mechanism {
    /// The name of the value in flags, logs and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Port => "port",
            Self::None => "none",
            Self::Unknown => "-",
        }
    }
}

/// The state of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WorkerState {
    /// The worker runs, but has not passed every configured check.
    Starting,
    /// The worker serves.
    Ready,
    /// The worker finishes requests in flight and gets no new ones.
    Draining,
    /// The worker has been sent the stop signal, the shutdown message or SIGKILL.
    Stopping,
    /// The field is missing, or has a value that only newer supervisors know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl WorkerState {
    /// The name of the value in logs and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Draining => "Draining",
            Self::Stopping => "Stopping",
            Self::Unknown => "-",
        }
    }
}

/// The state of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SlotState {
    /// The worker in the slot is starting.
    Starting,
    /// The worker in the slot serves.
    Ready,
    /// The worker in the slot is about to end, and no other worker follows.
    Stopping,
    /// The last worker in the slot has ended, and the next one starts after a pause.
    CrashLoop,
    /// The field is missing, or has a value that only newer supervisors know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl SlotState {
    /// The name of the value in logs and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Stopping => "Stopping",
            Self::CrashLoop => "CrashLoop",
            Self::Unknown => "-",
        }
    }
}

/// The state of a supervisor and its workers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The desired number of workers.
    pub desired: u32,
    /// How work reaches the workers.
    pub dispatch: Dispatch,
    /// Whether the supervisor is about to end.
    pub draining: bool,
    /// The number of the latest generation.
    pub generation: u32,
    /// How workers get their sockets.
    pub mechanism: Mechanism,
    /// The number of slots whose worker is ready.
    pub ready: u32,
    /// The token of the last reload by file, if it failed and none has succeeded since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload_failed: Option<String>,
    /// The token of the last reload by file that succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reloaded: Option<String>,
    /// The range of the number of workers, if the supervisor decides the number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Slots without a process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingSlot>,
    /// The workers, sorted by slot, then by generation.
    pub workers: Vec<Worker>,
}

/// One process of the app.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Worker {
    /// Where the worker is reached, for people to read; sent only in a [`crate::Description`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// CPU time that the worker and its children have used, in seconds. `None` if the kernel
    /// does not report it; older supervisors do not send this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// The worker's generation.
    pub generation: u32,
    /// Requests or connections in flight.
    pub in_flight: u32,
    /// How the previous worker in the slot ended.
    pub last_exit: Option<LastExit>,
    /// A port other than the app's on which the worker listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listens_elsewhere: Option<u16>,
    /// The worker's pid, which is also its process group.
    pub pid: u32,
    /// How many workers of its slot have ended before they were replaced, including those that were
    /// stopped because they were not ready in time.
    pub restarts: u32,
    /// Resident memory of the worker and its children, in bytes.
    pub rss_bytes: u64,
    /// The worker's slot.
    pub slot: u32,
    /// The worker's state.
    pub state: WorkerState,
    /// Seconds since the worker entered its state; older supervisors do not send this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_seconds: Option<f64>,
    /// Seconds since the worker's start; older supervisors do not send this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<f64>,
}

/// A slot whose next worker starts after a pause.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WaitingSlot {
    /// How the last worker in the slot ended.
    pub last_exit: Option<LastExit>,
    /// How many of its workers have ended before they were replaced, including those that were
    /// stopped because they were not ready in time.
    pub restarts: u32,
    /// The slot's number.
    pub slot: u32,
    /// Why the slot has no process.
    pub state: SlotState,
}
