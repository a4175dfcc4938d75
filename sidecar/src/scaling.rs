//! The number of workers within a range, which follows the load.
//!
//! `measure` looks at the workers, `decide` decides, the engine starts and stops workers. This file
//! says when the next look is due, and remembers the last change for status.

mod decide;
mod look;
mod measure;
mod peak;

use std::time::{Duration, SystemTime};

use scaledapp_engine::{Engine, Event, Incident};
use scaledapp_proc::Container;

use crate::cores::Cores;
use crate::range::{Bounds, Rules};
use crate::workers::Workers;
use decide::{Decision, Scaler};
use look::Hold;
use measure::{Load, Surroundings};

/// The usual time between two looks.
const INTERVAL: Duration = Duration::from_millis(100);
/// The shortest time between two messages that a start is held back.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// The shortest time between two messages with the same reason.
const REPEAT_INTERVAL: Duration = Duration::from_mins(5);

/// A change of the number of workers.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) reason: scaledapp_wire::ScalingReason,
    pub(crate) text: String,
    pub(crate) time: SystemTime,
}

/// What status shows of a range.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) bounds: Bounds,
    pub(crate) held: Option<(scaledapp_wire::Held, String)>,
    pub(crate) last: Option<Change>,
}

/// What the supervisor's loop does after a look.
pub(crate) enum Step {
    /// Nothing.
    Stay,
    /// Log this, and keep it as an event: a start is held back.
    Complain(String),
    /// Change the number of workers.
    Change(Change),
}

/// Follows the load.
#[derive(Debug)]
pub(crate) struct Scaling {
    scaler: Scaler,
    load: Load,
    max_in_flight: u32,
    /// When the next look is due, as time since the supervisor's start.
    due: Duration,
    held: Option<Hold>,
    /// What was said last about a start that is held back, and when.
    complained: Option<(Hold, Duration)>,
    last: Option<Change>,
}

impl Scaling {
    /// `max_in_flight` is the most requests of a worker; 0 if that is not limited.
    pub(crate) fn new(rules: Rules, max_in_flight: u32) -> Self {
        Self {
            scaler: Scaler::new(rules),
            load: Load::default(),
            max_in_flight,
            due: Duration::ZERO,
            held: None,
            complained: None,
            last: None,
        }
    }

    /// When the next look is due, as time since the supervisor's start.
    pub(crate) fn due(&self) -> Duration {
        self.due
    }

    /// The range has changed, so the load is watched anew.
    pub(crate) fn begin_anew(&mut self) {
        self.scaler.begin_anew();
    }

    /// Takes what an incident says about the workers.
    pub(crate) fn note(&mut self, now: Duration, incident: &Incident) {
        match *incident {
            Incident::Ready { after, .. } => self.load.booted(after),
            Incident::Exited { slot, .. } => self.load.crashed(now, slot.0),
            _ => {}
        }
    }

    /// Looks at the workers. `now` is the time since the supervisor's start.
    pub(crate) fn look(
        &mut self,
        now: Duration,
        engine: &Engine,
        workers: &Workers,
        (bounds, cores): (Bounds, Cores),
        memory: Option<Container>,
    ) -> Step {
        let proxies = workers.front.proxies();
        let around = Surroundings {
            cores,
            queued: proxies.iter().map(|proxy| proxy.queued()).sum(),
            concurrency: self.max_in_flight,
            memory,
        };
        let look = self.load.look(now, engine, workers, around);
        let decision = self.scaler.look(now, bounds, &look);
        self.due = self.scaler.next_look(now, INTERVAL);
        tracing::trace!(?look, ?decision, "load");
        self.held = match decision {
            Decision::Held(hold) => Some(hold),
            _ => None,
        };
        match decision {
            Decision::Stay | Decision::Held(Hold::Most) => Step::Stay,
            Decision::Held(hold) => self.complain(now, hold),
            Decision::Change { to, reason } => {
                let change = Change {
                    from: look.desired,
                    to,
                    reason: reason.word(),
                    text: reason.to_string(),
                    time: SystemTime::now(),
                };
                self.last = Some(change.clone());
                Step::Change(change)
            }
        }
    }

    fn complain(&mut self, now: Duration, hold: Hold) -> Step {
        let is_known = self.complained.is_some_and(|(said, at)| {
            let ago = now.saturating_sub(at);
            let is_same = said.word() == hold.word();
            ago < COMPLAINT_INTERVAL || (is_same && ago < REPEAT_INTERVAL)
        });
        if is_known {
            return Step::Stay;
        }
        self.complained = Some((hold, now));
        Step::Complain(format!("one more worker is needed, but {hold}"))
    }

    /// What status shows; `None` without a range.
    pub(crate) fn shown(&self, bounds: Option<Bounds>) -> Option<Shown> {
        let held = self.held.map(|hold| (hold.word(), hold.to_string()));
        let last = self.last.clone();
        bounds.map(|bounds| Shown { bounds, held, last })
    }
}

impl Change {
    /// The engine's event.
    pub(crate) fn event(&self) -> Event {
        Event::Scale {
            workers: self.to,
            operation: None,
        }
    }
}
