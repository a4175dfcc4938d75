//! Events of a supervisor, and how its workers ended.

use serde::{Deserialize, Serialize};

/// How a slot's last worker ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LastExit {
    /// The exit code as a shell reports it: 128+n after signal n.
    pub code: i32,
    /// The worker's generation; `None` if no process was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// The worker's pid, if a process was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The cause in one word.
    pub reason: String,
    /// The signal that ended the worker, such as `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// A text such as `exit code 3`.
    pub text: String,
    /// The time of the end (RFC 3339).
    pub time: String,
}

/// Whether an event is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EventKind {
    /// The event is not a failure.
    Normal,
    /// The event is a failure.
    Warning,
    /// A value that only a newer supervisor knows, or none.
    #[default]
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// The name of the value in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
            Self::Unknown => "-",
        }
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// What happened, in one word.
    pub reason: String,
    /// The slot; `None` if the event concerns all slots.
    pub slot: Option<u32>,
    /// What happened, in a sentence.
    pub text: String,
    /// The time (RFC 3339).
    pub time: String,
    /// Whether the event is a failure.
    #[serde(rename = "type")]
    pub kind: EventKind,
}

/// The answer to `ctl events`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// The events that are kept, oldest first.
    pub events: Vec<Event>,
    /// How many older events are no longer kept.
    pub forgotten: u64,
}
