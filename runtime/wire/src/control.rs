//! The protocol of the control socket: one request and one reply, each a line of JSON.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Dispatch, Event, LastExit, Mechanism, SlotState, Worker};

/// A request to a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Request {
    /// The state of the supervisor and its workers; answered with a [`crate::Status`].
    Status,
    /// Sets the number of workers; answered when that many are ready.
    Scale {
        /// The number.
        workers: WorkerCount,
    },
    /// Has the supervisor decide the number of workers, or has it keep to a number, as `--workers`
    /// does; answered at once.
    Workers {
        /// The number or range as `--workers` takes it; `None` brings back what the supervisor was
        /// started with, or what its desired-state file contains.
        #[serde(default)]
        spec: Option<String>,
    },
    /// Replaces all workers; answered when that is done or has failed.
    Reload,
    /// Replaces the worker of one slot; answered when that is done or has failed.
    Restart {
        /// The slot.
        slot: u32,
    },
    /// Sends a signal to the workers' process groups.
    Signal {
        /// The number of the signal.
        number: i32,
        /// The slot whose worker gets it; `None` means all.
        #[serde(default)]
        slot: Option<u32>,
    },
    /// The last stderr lines of each slot; answered with [`Tails`].
    Logs {
        /// The only slot to show; `None` means all.
        #[serde(default)]
        slot: Option<u32>,
    },
    /// Everything that is known of each slot; answered with a [`Description`].
    Describe {
        /// The only slot to show; `None` means all.
        #[serde(default)]
        slot: Option<u32>,
    },
    /// Recent events; answered with [`crate::Events`].
    Events,
}

/// The largest number of workers. A larger one exceeds the cores of any machine, so it
/// counts as a typing error.
pub const MAX_WORKERS: u32 = 1024;

/// A number of workers, absolute or relative: `N`, `+K` or `-K`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerCount {
    /// Exactly this many.
    To(u32),
    /// This many more than desired now.
    More(u32),
    /// This many fewer than desired now; the last worker is removed only by `To(0)`.
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
        // `parse` would accept a second sign.
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| plain);
        number
            .map(make)
            .ok_or_else(|| format!("{text:?} is not a number of workers: give N, +K or -K"))
    }
}

impl WorkerCount {
    /// The number that is meant if `now` workers are desired now. Whether so many are
    /// allowed is not decided here.
    ///
    /// # Errors
    /// `-K` would leave no worker: a number that is meant relative to another one should not stop
    /// the whole app. The text names the cure.
    pub fn from(self, now: u32) -> Result<u32, String> {
        match self {
            Self::To(n) => Ok(n),
            Self::More(k) => Ok(now.saturating_add(k)),
            Self::Fewer(k) if k < now => Ok(now - k),
            Self::Fewer(k) => Err(format!(
                "-{k} would leave no worker, because the number is {now}: give the number that \
                 shall remain, or 0 to run none"
            )),
        }
    }
}

/// The supervisor's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply<T> {
    /// Done, with the requested data or null.
    Ok(T),
    /// Not done, for this reason.
    Error(String),
}

/// The last stderr lines by slot. The keys are numbers as text and sorted as text.
pub type Tails = BTreeMap<String, Vec<String>>;

/// The answer to `ctl describe`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Description {
    /// The app's own command.
    pub command: Vec<String>,
    /// The desired number of workers.
    pub desired: u32,
    /// How work reaches the workers.
    pub dispatch: Dispatch,
    /// The number of the latest generation.
    pub generation: u32,
    /// How workers get their sockets.
    pub mechanism: Mechanism,
    /// How long a command that waits for boots, drains and stops may take. Older
    /// supervisors do not send it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience_seconds: Option<f64>,
    /// The app's port, if it has one.
    pub port: Option<u16>,
    /// The number of slots whose worker is ready.
    pub ready: u32,
    /// All slots, or only the requested one.
    pub slots: Vec<SlotDescription>,
    /// Seconds since the supervisor's start.
    pub uptime_seconds: f64,
}

/// Everything that is known of a slot.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SlotDescription {
    /// How many workers of the slot have ended, by cause.
    pub ends_by_cause: BTreeMap<String, u64>,
    /// The last events that concern the slot, oldest first.
    pub events: Vec<Event>,
    /// How the last worker in the slot ended.
    pub last_exit: Option<LastExit>,
    /// The time until the next worker starts, if the slot waits for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_start_seconds: Option<f64>,
    /// How many of its workers have ended before they were replaced, including those that were
    /// stopped because they were not ready in time.
    pub restarts: u32,
    /// The slot's number.
    pub slot: u32,
    /// What the slot is doing.
    pub state: SlotState,
    /// The last lines that the slot's workers wrote; `None` before its first worker.
    pub stderr: Option<Vec<String>>,
    /// The processes in the slot: one, or two while one replaces the other.
    pub workers: Vec<Worker>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_counts_are_absolute_or_relative() {
        for (text, now, then) in [("4", 2, 4), ("+2", 2, 4), ("-1", 2, 1), ("0", 2, 0)] {
            let count: WorkerCount = text.parse().unwrap();
            assert_eq!(count.from(now), Ok(then), "{text}");
        }
        for (text, now) in [("-2", 2), ("-9", 2), ("-1", 0)] {
            let error = text.parse::<WorkerCount>().unwrap().from(now).unwrap_err();
            assert!(error.contains("or 0 to run none"), "{text}: {error}");
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
