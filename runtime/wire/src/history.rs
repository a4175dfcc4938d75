//! What happened at a supervisor, and how its workers ended.

use serde::{Deserialize, Serialize};

/// How a slot's last worker ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LastExit {
    /// Its exit code as a shell gives it: 128 and the number of a signal.
    pub code: i32,
    /// The load of the app for which it was started, if a process ran at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Its process, if one ran at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Why, in one word.
    pub reason: String,
    /// Such as `SIGKILL`, if a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Such as `exit code 3`.
    pub text: String,
    /// When, as RFC 3339 writes it.
    pub time: String,
}

/// Whether an event is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EventKind {
    /// It is none.
    Normal,
    /// It is one.
    Warning,
    /// A newer supervisor's word, or none.
    #[default]
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// The word for it in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
            Self::Unknown => "-",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// What, in one word.
    pub reason: String,
    /// Where; none: it concerns all slots.
    pub slot: Option<u32>,
    /// What, in a sentence.
    pub text: String,
    /// When, as RFC 3339 writes it.
    pub time: String,
    /// Whether it is a failure.
    #[serde(rename = "type")]
    pub kind: EventKind,
}

/// The answer to `ctl events`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// Those that are kept, oldest first.
    pub events: Vec<Event>,
    /// How many before them are not.
    pub forgotten: u64,
}
