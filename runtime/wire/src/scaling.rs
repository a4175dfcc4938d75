//! What a supervisor shows of the number of its workers if it decides that number itself.

use serde::{Deserialize, Serialize};

/// Why the number of workers has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum ScalingReason {
    /// Requests waited.
    Waiting,
    /// The workers were busier than they should be.
    Busy,
    /// Fewer workers had been enough for a while.
    Idle,
    /// The ends of the range have changed.
    Range,
    /// Workers ended again and again, and one of them is enough to try.
    Crashing,
    /// A value that only a newer supervisor knows, or none.
    #[default]
    #[serde(other)]
    Unknown,
}

impl ScalingReason {
    /// The name of the value in labels and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Busy => "Busy",
            Self::Idle => "Idle",
            Self::Range => "Range",
            Self::Crashing => "Crashing",
            Self::Unknown => "-",
        }
    }
}

/// Why no further worker starts although one is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Held {
    /// A worker ends again and again.
    Crashing,
    /// A worker boots for longer than usual.
    SlowBoot,
    /// Workers are being replaced.
    Replacing,
    /// No worker is ready.
    NoneReady,
    /// The workers use all cores of the container.
    Cores,
    /// One more worker does not fit into the memory.
    Memory,
    /// The upper end of the range is reached.
    Most,
    /// A value that only a newer supervisor knows, or none.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The range of a supervisor's number of workers, and why the number is what it is. The present
/// number is `desired` of the same status.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scaling {
    /// Why no further worker starts now, if one is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// The same reason as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_text: Option<String>,
    /// The last change; `None` if there was none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<ScalingChange>,
    /// The most workers.
    pub max: u32,
    /// The fewest workers.
    pub min: u32,
}

/// A change of the number of workers that the supervisor decided.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalingChange {
    /// The number before.
    pub from: u32,
    /// Why, in one word.
    pub reason: ScalingReason,
    /// Why, as a sentence.
    pub text: String,
    /// When (RFC 3339).
    pub time: String,
    /// The number after.
    pub to: u32,
}

/// What a line of `/watch` says of [`Scaling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchedScaling {
    /// Why no further worker starts now, if one is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// The most workers.
    pub max: u32,
    /// The fewest workers.
    pub min: u32,
    /// Why the number changed last; `None` if it has not changed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ScalingReason>,
    /// How many workers there should be now.
    pub wanted: u32,
}
