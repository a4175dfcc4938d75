//! `/status` of a supervisor, which is also the answer to `ctl status`.

use serde::{Deserialize, Serialize};

use crate::{Dispatch, LastExit};

/// How workers come by their sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mechanism {
    /// The supervisor answers their `bind` and `listen` calls.
    Notify,
    /// Each gets a port of its own in `PORT`.
    Port,
    /// They need none: the app has no port.
    None,
    /// A newer supervisor's word, or none.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Mechanism {
    /// The word for it in flags, logs and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Port => "port",
            Self::None => "none",
            Self::Unknown => "-",
        }
    }
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WorkerState {
    /// It runs and has not passed every configured check.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what is in flight and gets nothing new.
    Draining,
    /// It has been told to end.
    Stopping,
    /// A newer supervisor's word, or none.
    #[default]
    #[serde(other)]
    Unknown,
}

impl WorkerState {
    /// The word for it in logs and tables.
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

/// What a slot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SlotState {
    /// Its worker starts.
    Starting,
    /// Its worker serves.
    Ready,
    /// Its worker is about to end, and no other follows.
    Stopping,
    /// Its last worker has ended, and the next one starts after a pause.
    CrashLoop,
    /// A newer supervisor's word, or none.
    #[default]
    #[serde(other)]
    Unknown,
}

impl SlotState {
    /// The word for it in logs and tables.
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

/// How a supervisor and its workers are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Workers wanted.
    pub desired: u32,
    /// Who accepts connections.
    pub dispatch: Dispatch,
    /// The supervisor is about to end.
    pub draining: bool,
    /// Of the newest load of the app.
    pub generation: u32,
    /// How workers come by their sockets.
    pub mechanism: Mechanism,
    /// Slots whose worker is ready.
    pub ready: u32,
    /// Token of the last reload by file, if it failed and none has gone through since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload_failed: Option<String>,
    /// Token of the last reload by file that went through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reloaded: Option<String>,
    /// Slots without a process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingSlot>,
    /// By slot, then by generation.
    pub workers: Vec<Worker>,
}

/// One process of the app.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Worker {
    /// Where it is reached, for people; only in a description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// CPU time used by it and its children. Where the kernel does not tell, and from
    /// older supervisors: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// The load of the app for which it was started.
    pub generation: u32,
    /// Requests or connections under way.
    pub in_flight: u32,
    /// How the worker before it in its slot ended.
    pub last_exit: Option<LastExit>,
    /// A port other than the app's on which it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listens_elsewhere: Option<u16>,
    /// Its process, which leads a process group.
    pub pid: u32,
    /// Workers of its slot that ended unasked.
    pub restarts: u32,
    /// Resident memory of it and its children.
    pub rss_bytes: u64,
    /// Its slot.
    pub slot: u32,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Since it came into its state; older supervisors do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_seconds: Option<f64>,
    /// Since its start; older supervisors do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<f64>,
}

/// A slot whose next worker starts after a pause.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WaitingSlot {
    /// How its last worker ended.
    pub last_exit: Option<LastExit>,
    /// Workers of it that ended unasked.
    pub restarts: u32,
    /// Its number.
    pub slot: u32,
    /// Why it has no process.
    pub state: SlotState,
}
