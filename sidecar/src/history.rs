//! How workers ended, by cause and by slot.
//!
//! The engine decides what follows from an end. This file only keeps what `ctl` and the
//! metrics show.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use scaledapp_engine::{Exit, Incident, WorkerId, WorkerState};
use scaledapp_wire::LastExit;

use crate::clock::rfc3339;

/// Why a worker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// It exited although the supervisor had not stopped it.
    Exited,
    /// It was ended by a signal that the supervisor did not send.
    Signalled,
    /// Its program could not be executed.
    NotStarted,
    /// It was not ready in time.
    BootTimedOut,
    /// It ended while it was draining, before its stop signal.
    EndedDraining,
    /// It still had work at the end of the drain timeout.
    DrainTimedOut,
    /// It did not end after the stop signal and was killed.
    KilledAfterGrace,
    /// The supervisor recycled it, for this reason.
    Recycled(&'static str),
    /// The supervisor killed it, for this reason.
    Killed(&'static str),
    /// The supervisor stopped it, and it ended in time.
    Ended,
}

impl Cause {
    /// One word for labels and tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "Exited",
            Self::Signalled => "Signalled",
            Self::NotStarted => "NotStarted",
            Self::BootTimedOut => "BootTimedOut",
            Self::EndedDraining => "EndedDraining",
            Self::DrainTimedOut => "DrainTimedOut",
            Self::KilledAfterGrace => "KilledAfterGrace",
            Self::Recycled(reason) | Self::Killed(reason) => reason,
            Self::Ended => "Ended",
        }
    }
}

/// The cause of an end, from the worker's state and the incident noted before.
fn cause(state: Option<WorkerState>, noted: Option<Cause>, exit: Exit) -> Cause {
    // A worker whose replacement failed keeps serving and may later end by itself.
    let serving = matches!(state, Some(WorkerState::Ready));
    let noted = noted.filter(|noted| !(serving && matches!(noted, Cause::Recycled(_))));
    match (noted, state) {
        (Some(noted), _) => noted,
        (None, Some(WorkerState::Stopping)) => Cause::Ended,
        (None, Some(WorkerState::Draining)) => Cause::EndedDraining,
        (None, Some(WorkerState::Starting | WorkerState::Ready) | None) => match exit {
            Exit::Code(_) => Cause::Exited,
            Exit::Signal(_) => Cause::Signalled,
            Exit::Spawn { .. } => Cause::NotStarted,
        },
    }
}

/// A worker that was reaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) worker: WorkerId,
    pub(crate) slot: u32,
    pub(crate) pid: u32,
    pub(crate) generation: u32,
    /// Its last state; `None` if the engine had forgotten it.
    pub(crate) state: Option<WorkerState>,
    pub(crate) exit: Exit,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    time: SystemTime,
    /// The pid and the generation of the process, if one was started.
    process: Option<(u32, u32)>,
    exit: Exit,
    cause: Cause,
}

#[derive(Debug, Default)]
struct OfSlot {
    causes: BTreeMap<Cause, u64>,
    last: Option<Last>,
}

/// All ends so far.
#[derive(Debug, Default)]
pub(crate) struct History {
    slots: BTreeMap<u32, OfSlot>,
    /// What is already known about the end of workers that are not reaped yet.
    noted: HashMap<WorkerId, Cause>,
}

impl History {
    /// Records what an incident says about the coming end of a worker.
    pub(crate) fn note(&mut self, time: SystemTime, incident: &Incident) {
        match *incident {
            Incident::BootTimedOut { worker, .. } => {
                self.noted.insert(worker, Cause::BootTimedOut);
            }
            Incident::DrainTimedOut { worker, .. } => {
                self.noted.entry(worker).or_insert(Cause::DrainTimedOut);
            }
            Incident::KilledAfterGrace { worker, .. } => {
                let cause = self.noted.entry(worker).or_insert(Cause::KilledAfterGrace);
                if *cause == Cause::DrainTimedOut {
                    *cause = Cause::KilledAfterGrace;
                }
            }
            Incident::RecycleBegan { worker, cause, .. } => {
                self.noted.insert(worker, Cause::Recycled(cause.reason()));
            }
            Incident::Killed { worker, cause, .. } => {
                self.noted.insert(worker, Cause::Killed(cause.reason()));
            }
            // No process was started, so none will be reaped.
            Incident::Exited {
                slot,
                exit: exit @ Exit::Spawn { .. },
                ..
            } => self.record(
                slot.0,
                Last {
                    time,
                    process: None,
                    exit,
                    cause: Cause::NotStarted,
                },
            ),
            _ => {}
        }
    }

    /// Records that a worker was reaped.
    pub(crate) fn ended(&mut self, time: SystemTime, ended: &Ended) {
        let cause = cause(ended.state, self.noted.remove(&ended.worker), ended.exit);
        self.record(
            ended.slot,
            Last {
                time,
                process: Some((ended.pid, ended.generation)),
                exit: ended.exit,
                cause,
            },
        );
    }

    fn record(&mut self, slot: u32, last: Last) {
        let of_slot = self.slots.entry(slot).or_default();
        *of_slot.causes.entry(last.cause).or_default() += 1;
        of_slot.last = Some(last);
    }

    /// The number of ends of all slots by cause.
    pub(crate) fn totals(&self) -> BTreeMap<&'static str, u64> {
        let mut totals = BTreeMap::new();
        for (cause, count) in self.slots.values().flat_map(|slot| &slot.causes) {
            *totals.entry(cause.as_str()).or_default() += count;
        }
        totals
    }

    /// The number of ends of one slot by cause.
    pub(crate) fn causes(&self, slot: u32) -> BTreeMap<String, u64> {
        let causes = self.slots.get(&slot).into_iter().flat_map(|s| &s.causes);
        let causes = causes.map(|(cause, count)| (cause.as_str().to_owned(), *count));
        causes.collect()
    }

    /// How the last worker of a slot ended.
    pub(crate) fn last(&self, slot: u32) -> Option<LastExit> {
        Some(self.slots.get(&slot)?.last.as_ref()?.shown())
    }
}

impl Last {
    fn shown(&self) -> LastExit {
        let (pid, generation) = self.process.unzip();
        LastExit {
            code: self.exit.code(),
            generation,
            pid,
            reason: self.cause.as_str().to_owned(),
            signal: match self.exit {
                Exit::Signal(signal) => Some(signal_name(signal)),
                _ => None,
            },
            text: in_words(self.exit),
            time: rfc3339(self.time),
        }
    }
}

/// A text such as `exit code 3` or `ended by SIGKILL`.
fn in_words(exit: Exit) -> String {
    match exit {
        Exit::Signal(signal) => format!("ended by {}", signal_name(signal)),
        other => other.to_string(),
    }
}

/// Signal names by number, from 1 (signal(7), the same on all supported architectures).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

fn signal_name(number: i32) -> String {
    let index = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
    match index.and_then(|index| SIGNALS.get(index)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use scaledapp_engine::Slot;

    use super::*;

    const BY_KILL: Exit = Exit::Signal(9);

    #[test]
    fn a_cause_is_what_was_noted_before_or_follows_from_the_state() {
        use WorkerState::{Draining, Ready, Starting, Stopping};
        for (state, noted, exit, expected) in [
            (Some(Ready), None, Exit::Code(1), Cause::Exited),
            (Some(Ready), None, BY_KILL, Cause::Signalled),
            (Some(Starting), None, Exit::Code(0), Cause::Exited),
            (Some(Draining), None, Exit::Code(0), Cause::EndedDraining),
            (Some(Stopping), None, Exit::Signal(15), Cause::Ended),
            (
                Some(Stopping),
                Some(Cause::BootTimedOut),
                BY_KILL,
                Cause::BootTimedOut,
            ),
            (
                Some(Stopping),
                Some(Cause::KilledAfterGrace),
                BY_KILL,
                Cause::KilledAfterGrace,
            ),
            (
                Some(Draining),
                Some(Cause::Recycled("MaxMemory")),
                Exit::Code(0),
                Cause::Recycled("MaxMemory"),
            ),
            (
                Some(Ready),
                Some(Cause::Recycled("MaxMemory")),
                Exit::Code(1),
                Cause::Exited,
            ),
            (
                Some(Stopping),
                Some(Cause::Killed("Hung")),
                BY_KILL,
                Cause::Killed("Hung"),
            ),
            (None, None, BY_KILL, Cause::Signalled),
        ] {
            assert_eq!(cause(state, noted, exit), expected, "{state:?} {noted:?}");
        }
    }

    fn ended(worker: u64, state: WorkerState, exit: Exit) -> Ended {
        Ended {
            worker: WorkerId(worker),
            slot: 0,
            pid: 40 + worker as u32,
            generation: 1,
            state: Some(state),
            exit,
        }
    }

    #[test]
    fn a_slot_remembers_its_causes_and_its_last_end() {
        let mut history = History::default();
        let time = UNIX_EPOCH + Duration::from_secs(1);
        history.ended(time, &ended(1, WorkerState::Ready, Exit::Code(3)));
        let (worker, slot) = (WorkerId(2), Slot(0));
        history.note(time, &Incident::DrainTimedOut { worker, slot });
        history.note(time, &Incident::KilledAfterGrace { worker, slot });
        history.ended(time, &ended(2, WorkerState::Stopping, BY_KILL));
        assert_eq!(
            history.causes(0),
            BTreeMap::from([("Exited".to_owned(), 1), ("KilledAfterGrace".to_owned(), 1)])
        );
        assert_eq!(
            history.last(0),
            Some(LastExit {
                code: 137,
                generation: Some(1),
                pid: Some(42),
                reason: "KilledAfterGrace".to_owned(),
                signal: Some("SIGKILL".to_owned()),
                text: "ended by SIGKILL".to_owned(),
                time: "1970-01-01T00:00:01.000Z".to_owned(),
            })
        );
        assert_eq!(history.last(1), None);
        assert_eq!(history.totals().get("Exited"), Some(&1));
        assert!(history.noted.is_empty());
    }

    #[test]
    fn a_command_that_does_not_start_counts_as_an_end() {
        let mut history = History::default();
        let exited = Incident::Exited {
            worker: WorkerId(1),
            slot: Slot(2),
            exit: Exit::Spawn { code: 127 },
            late: false,
            ready_for: None,
            restart_in: Duration::ZERO,
        };
        history.note(UNIX_EPOCH, &exited);
        let causes = BTreeMap::from([("NotStarted".to_owned(), 1)]);
        assert_eq!(history.causes(2), causes);
        assert_eq!(history.last(2).unwrap().text, "command not found");
    }
}
