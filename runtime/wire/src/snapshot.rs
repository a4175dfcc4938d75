//! One line of a supervisor's `/watch`.

use serde::{Deserialize, Serialize};

use crate::WatchedScaling;

/// How requests reach the workers of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Dispatch {
    /// Through the dispatcher in the supervisor.
    Request,
    /// Directly: the workers accept connections themselves.
    Connection,
    /// Not at all: the app has no port.
    None,
    /// A value that only a newer supervisor knows, or none.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Dispatch {
    /// The name of the value in flags, logs and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Connection => "connection",
            Self::None => "none",
            Self::Unknown => "-",
        }
    }
}

/// Whether a pod is ready, and how busy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// How many requests the pod can process at the same time.
    #[serde(default)]
    pub capacity: u32,
    /// How requests reach the workers of the pod. Older supervisors do not send this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatch: Option<Dispatch>,
    /// Whether the pod is about to end and takes no new work.
    #[serde(default)]
    pub draining: bool,
    /// Requests in flight; under Connection dispatch, open connections.
    #[serde(default)]
    pub in_flight: u32,
    /// Requests that wait for a worker.
    #[serde(default)]
    pub queued: u32,
    /// Whether at least one worker is ready and the pod is not about to end. This is the
    /// one field without which a line is not a snapshot.
    pub ready: bool,
    /// The range of the number of workers, if the supervisor decides the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<WatchedScaling>,
    /// The number of ready workers.
    #[serde(default)]
    pub workers: u32,
}
