//! What happened lately, with its time and cause: the engine's incidents in a
//! bounded ring, as `ctl events` and `ctl describe` show them.
//!
//! The engine decides what is an incident; here each gets one word.

use std::collections::VecDeque;
use std::time::SystemTime;

use scaledapp_engine::Incident;
use serde_json::{Value, json};

use crate::clock::rfc3339;

/// How many are kept.
const KEPT: usize = 256;

#[derive(Debug)]
struct Record {
    time: SystemTime,
    slot: Option<u32>,
    reason: &'static str,
    failure: bool,
    text: String,
}

/// The last incidents, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Events {
    kept: VecDeque<Record>,
    forgotten: u64,
}

impl Events {
    /// Keeps an incident of this time; the oldest goes if there is no room.
    pub(crate) fn note(&mut self, time: SystemTime, incident: &Incident) {
        self.keep(Record {
            time,
            slot: slot(incident),
            reason: reason(incident),
            failure: incident.is_failure(),
            text: incident.to_string(),
        });
    }

    /// Keeps what the dispatcher says of a path that goes on ending workers.
    pub(crate) fn note_fatal_path(&mut self, time: SystemTime, text: &str) {
        self.keep(Record {
            time,
            slot: None,
            reason: "FatalPath",
            failure: true,
            text: text.to_owned(),
        });
    }

    fn keep(&mut self, record: Record) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
            self.forgotten += 1;
        }
        self.kept.push_back(record);
    }

    /// All that are kept, with the number of those before them.
    pub(crate) fn json(&self) -> Value {
        let events: Vec<Value> = self.kept.iter().map(Record::json).collect();
        json!({ "forgotten": self.forgotten, "events": events })
    }

    /// The last ones that concern a slot: its own and those of all slots.
    pub(crate) fn of_slot(&self, slot: u32, most: usize) -> Value {
        let concern = |record: &&Record| record.slot.is_none_or(|other| other == slot);
        let mut events: Vec<Value> = self
            .kept
            .iter()
            .rev()
            .filter(concern)
            .take(most)
            .map(Record::json)
            .collect();
        events.reverse();
        events.into()
    }
}

impl Record {
    fn json(&self) -> Value {
        json!({
            "time": rfc3339(self.time),
            "slot": self.slot,
            "type": if self.failure { "Warning" } else { "Normal" },
            "reason": self.reason,
            "text": self.text,
        })
    }
}

/// An incident in one word.
pub(crate) fn reason(incident: &Incident) -> &'static str {
    match incident {
        Incident::Ready { .. } => "Ready",
        Incident::Exited { .. } => "Exited",
        Incident::Finished { .. } => "Finished",
        Incident::BootTimedOut { .. } => "BootTimedOut",
        Incident::EndedDraining { .. } => "EndedDraining",
        Incident::DrainTimedOut { .. } => "DrainTimedOut",
        Incident::KilledAfterGrace { .. } => "KilledAfterGrace",
        Incident::RecycleBegan { cause, .. } | Incident::Killed { cause, .. } => cause.reason(),
        Incident::ReloadBegan { .. } => "ReloadBegan",
        Incident::ReloadFinished { .. } => "ReloadFinished",
        Incident::ReloadFailed { .. } => "ReloadFailed",
        Incident::RestartFailed { .. } => "RestartFailed",
        Incident::NothingStarts { .. } => "NothingStarts",
    }
}

fn slot(incident: &Incident) -> Option<u32> {
    match incident {
        Incident::Ready { slot, .. }
        | Incident::Exited { slot, .. }
        | Incident::Finished { slot, .. }
        | Incident::BootTimedOut { slot, .. }
        | Incident::EndedDraining { slot, .. }
        | Incident::DrainTimedOut { slot, .. }
        | Incident::KilledAfterGrace { slot, .. }
        | Incident::RecycleBegan { slot, .. }
        | Incident::Killed { slot, .. } => Some(slot.0),
        Incident::ReloadFailed { failure, .. } | Incident::RestartFailed { failure } => {
            failure.slot().map(|slot| slot.0)
        }
        Incident::ReloadBegan { .. }
        | Incident::ReloadFinished { .. }
        | Incident::NothingStarts { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use scaledapp_engine::{Generation, Slot, WorkerId};

    use super::*;

    fn cut(slot: u32) -> Incident {
        Incident::DrainTimedOut {
            worker: WorkerId(u64::from(slot)),
            slot: Slot(slot),
        }
    }

    #[test]
    fn an_event_has_time_cause_and_text() {
        let mut events = Events::default();
        events.note(UNIX_EPOCH + Duration::from_mins(1), &cut(1));
        assert_eq!(
            events.json()["events"][0],
            json!({
                "time": "1970-01-01T00:01:00.000Z", "slot": 1, "type": "Warning",
                "reason": "DrainTimedOut",
                "text": "worker 1 still had work at the end of the drain time-out; it gets the stop signal",
            })
        );
    }

    #[test]
    fn the_oldest_go_and_are_counted() {
        let mut events = Events::default();
        for number in 0..300 {
            events.note(UNIX_EPOCH + Duration::from_secs(number), &cut(0));
        }
        let shown = events.json();
        assert_eq!(shown["forgotten"], 44);
        assert_eq!(shown["events"].as_array().unwrap().len(), KEPT);
        assert_eq!(shown["events"][0]["time"], "1970-01-01T00:00:44.000Z");
    }

    #[test]
    fn a_slot_sees_its_own_and_what_concerns_all() {
        let mut events = Events::default();
        events.note(UNIX_EPOCH, &cut(0));
        events.note(UNIX_EPOCH, &cut(1));
        let generation = Generation(2);
        events.note(UNIX_EPOCH, &Incident::ReloadBegan { generation });
        events.note_fatal_path(UNIX_EPOCH, "GET /throw ended 3 workers in 10 s");
        let reasons = |shown: Value| -> Vec<String> {
            let shown = shown.as_array().unwrap().clone();
            let reason = |event: &Value| event["reason"].as_str().unwrap().to_owned();
            shown.iter().map(reason).collect()
        };
        assert_eq!(
            reasons(events.of_slot(1, 10)),
            ["DrainTimedOut", "ReloadBegan", "FatalPath"]
        );
        assert_eq!(reasons(events.of_slot(0, 1)), ["FatalPath"]);
    }
}
