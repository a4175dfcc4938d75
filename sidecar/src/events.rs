//! Recent events with their time and cause, in a bounded ring, for `ctl events` and `ctl describe`:
//! the engine's incidents, changes of the number of workers, and the dispatcher's messages about
//! fatal paths.
//!
//! The engine decides what counts as an incident; this file gives each a one-word reason.

use std::collections::VecDeque;
use std::time::SystemTime;

use scaledapp_engine::Incident;
use scaledapp_wire::{self as wire, EventKind};

use crate::clock::rfc3339;
use crate::scaling::Change;

/// How many events are kept.
const MAX_EVENTS: usize = 256;

#[derive(Debug)]
struct Record {
    time: SystemTime,
    slot: Option<u32>,
    reason: &'static str,
    failure: bool,
    text: String,
}

/// The last events, oldest first: incidents, and messages about fatal paths.
#[derive(Debug, Default)]
pub(crate) struct Events {
    kept: VecDeque<Record>,
    forgotten: u64,
}

impl Events {
    /// Keeps an incident that happened at `time`; if the ring is full, the oldest is dropped.
    pub(crate) fn note(&mut self, time: SystemTime, incident: &Incident) {
        self.keep(Record {
            time,
            slot: slot(incident),
            reason: reason(incident),
            failure: incident.is_failure(),
            text: incident.to_string(),
        });
    }

    /// Keeps the dispatcher's message about a path whose requests keep ending workers.
    pub(crate) fn note_fatal_path(&mut self, time: SystemTime, text: &str) {
        self.keep(Record {
            time,
            slot: None,
            reason: "FatalPath",
            failure: true,
            text: text.to_owned(),
        });
    }

    /// Keeps a change of the number of workers that the supervisor decided.
    pub(crate) fn note_scaled(&mut self, change: &Change) {
        let (from, to, text) = (change.from, change.to, &change.text);
        self.keep(Record {
            time: change.time,
            slot: None,
            reason: if to > from { "ScaledUp" } else { "ScaledDown" },
            failure: false,
            text: format!("{from} → {to} workers: {text}"),
        });
    }

    /// Keeps the message that no further worker starts although one is needed.
    pub(crate) fn note_held(&mut self, time: SystemTime, text: String) {
        self.keep(Record {
            time,
            slot: None,
            reason: "ScalingHeld",
            failure: true,
            text,
        });
    }

    fn keep(&mut self, record: Record) {
        if self.kept.len() == MAX_EVENTS {
            self.kept.pop_front();
            self.forgotten += 1;
        }
        self.kept.push_back(record);
    }

    /// All kept events, and how many older ones were dropped.
    pub(crate) fn shown(&self) -> wire::Events {
        wire::Events {
            events: self.kept.iter().map(Record::shown).collect(),
            forgotten: self.forgotten,
        }
    }

    /// The latest events of a slot: its own, and those that concern all slots.
    pub(crate) fn of_slot(&self, slot: u32, most: usize) -> Vec<wire::Event> {
        let concern = |record: &&Record| record.slot.is_none_or(|other| other == slot);
        let mut events: Vec<wire::Event> = self
            .kept
            .iter()
            .rev()
            .filter(concern)
            .take(most)
            .map(Record::shown)
            .collect();
        events.reverse();
        events
    }
}

impl Record {
    fn shown(&self) -> wire::Event {
        wire::Event {
            reason: self.reason.to_owned(),
            slot: self.slot,
            text: self.text.clone(),
            time: rfc3339(self.time),
            kind: if self.failure {
                EventKind::Warning
            } else {
                EventKind::Normal
            },
        }
    }
}

/// The one-word reason of an incident.
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
            events.shown().events,
            [wire::Event {
                time: "1970-01-01T00:01:00.000Z".to_owned(),
                slot: Some(1),
                kind: EventKind::Warning,
                reason: "DrainTimedOut".to_owned(),
                text: "worker 1 still had work at the end of the drain timeout; it gets the stop signal"
                    .to_owned(),
            }]
        );
    }

    #[test]
    fn the_oldest_events_are_dropped_and_counted() {
        let mut events = Events::default();
        for number in 0..300 {
            events.note(UNIX_EPOCH + Duration::from_secs(number), &cut(0));
        }
        let shown = events.shown();
        assert_eq!(shown.forgotten, 44);
        assert_eq!(shown.events.len(), MAX_EVENTS);
        assert_eq!(shown.events[0].time, "1970-01-01T00:00:44.000Z");
    }

    #[test]
    fn a_slot_shows_its_own_events_and_those_of_all_slots() {
        let mut events = Events::default();
        events.note(UNIX_EPOCH, &cut(0));
        events.note(UNIX_EPOCH, &cut(1));
        let generation = Generation(2);
        events.note(UNIX_EPOCH, &Incident::ReloadBegan { generation });
        events.note_fatal_path(UNIX_EPOCH, "GET /throw ended 3 workers in 10 s");
        let reasons = |shown: Vec<wire::Event>| -> Vec<String> {
            shown.into_iter().map(|event| event.reason).collect()
        };
        assert_eq!(
            reasons(events.of_slot(1, 10)),
            ["DrainTimedOut", "ReloadBegan", "FatalPath"]
        );
        assert_eq!(reasons(events.of_slot(0, 1)), ["FatalPath"]);
    }
}
