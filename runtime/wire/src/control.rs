//! The control socket's language: one request, one reply, a line of JSON each.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Dispatch, Event, LastExit, Mechanism, SlotState, Worker};

/// What a supervisor can be asked or told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Request {
    /// Answered with a [`crate::Status`].
    Status,
    /// Set the number of workers; answered when it is reached.
    Scale {
        /// How many.
        workers: WorkerCount,
    },
    /// Replace all workers; answered when done or failed.
    Reload,
    /// Replace one slot's worker; answered when done or failed.
    Restart {
        /// Which slot.
        slot: u32,
    },
    /// Send a signal to the workers' process groups.
    Signal {
        /// Its number.
        number: i32,
        /// Only to that slot's; `None`: to all.
        #[serde(default)]
        slot: Option<u32>,
    },
    /// The last stderr lines of each slot; answered with [`Tails`].
    Logs {
        /// Only that slot's.
        #[serde(default)]
        slot: Option<u32>,
    },
    /// All that is known of each slot; answered with a [`Description`].
    Describe {
        /// Only that one.
        #[serde(default)]
        slot: Option<u32>,
    },
    /// What happened lately; answered with [`crate::Events`].
    Events,
}

/// More workers than any machine has cores for are a typing error.
pub const MAX_WORKERS: u32 = 1024;

/// `N`, `+K` or `-K`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerCount {
    /// Exactly so many.
    To(u32),
    /// So many more than wanted now.
    More(u32),
    /// So many fewer than wanted now, at least 0.
    Fewer(u32),
}

impl FromStr for WorkerCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (make, digits): (fn(u32) -> Self, &str) = match text.as_bytes().first() {
            Some(b'+') => (Self::More, &text[1..]),
            Some(b'-') => (Self::Fewer, &text[1..]),
            _ => (Self::To, text),
        };
        // `parse` would take a second sign.
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| plain);
        number
            .map(make)
            .ok_or_else(|| format!("{text:?} is no worker count: give N, +K or -K"))
    }
}

impl WorkerCount {
    /// The count meant, when `now` are wanted now. Whether there may be so many is
    /// not decided here.
    pub const fn from(self, now: u32) -> u32 {
        match self {
            Self::To(n) => n,
            Self::More(k) => now.saturating_add(k),
            Self::Fewer(k) => now.saturating_sub(k),
        }
    }
}

/// The supervisor's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply<T> {
    /// Done; what was asked for, or null.
    Ok(T),
    /// Not done, and why.
    Error(String),
}

/// The last stderr lines by slot. The keys are numbers as text, in the order of text.
pub type Tails = BTreeMap<String, Vec<String>>;

/// The answer to `ctl describe`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Description {
    /// The app's own command.
    pub command: Vec<String>,
    /// Workers wanted.
    pub desired: u32,
    /// Who accepts connections.
    pub dispatch: Dispatch,
    /// Of the newest load of the app.
    pub generation: u32,
    /// How workers come by their sockets.
    pub mechanism: Mechanism,
    /// How long a command may take that waits for boots, drains and stops. Older
    /// supervisors do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience_seconds: Option<f64>,
    /// The app's port, if it has one.
    pub port: Option<u16>,
    /// Slots whose worker is ready.
    pub ready: u32,
    /// All slots, or the one that was asked for.
    pub slots: Vec<SlotDescription>,
    /// Since the supervisor's start.
    pub uptime_seconds: f64,
}

/// All that is known of a slot.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SlotDescription {
    /// How many of its workers ended for which reason.
    pub ends_by_cause: BTreeMap<String, u64>,
    /// The last ones that concern it, oldest first.
    pub events: Vec<Event>,
    /// How its last worker ended.
    pub last_exit: Option<LastExit>,
    /// Until its next worker starts, if it waits for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_start_seconds: Option<f64>,
    /// Workers of it that ended unasked.
    pub restarts: u32,
    /// Its number.
    pub slot: u32,
    /// What it is doing.
    pub state: SlotState,
    /// The last lines that its workers wrote; none before its first worker.
    pub stderr: Option<Vec<String>>,
    /// Its processes: one, or two while one replaces the other.
    pub workers: Vec<Worker>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_counts_are_absolute_or_relative() {
        for (text, now, then) in [
            ("4", 2, 4),
            ("+2", 2, 4),
            ("-1", 2, 1),
            ("-9", 2, 0),
            ("0", 2, 0),
        ] {
            let count: WorkerCount = text.parse().unwrap();
            assert_eq!(count.from(now), then, "{text}");
        }
        for text in ["", "x", "+", "--1", "++1", "1.5", "5000000000"] {
            assert!(text.parse::<WorkerCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_older_ctl_names_no_slot() {
        let request: Request = serde_json::from_str(r#"{"verb":"logs"}"#).unwrap();
        assert_eq!(request, Request::Logs { slot: None });
    }
}
