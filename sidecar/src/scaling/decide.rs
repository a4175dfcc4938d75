//! Decides how many workers there should be, from looks at what they do. It reads neither files nor
//! a clock.
//!
//! More workers start when requests have waited for [`PATIENCE`], or when the workers are busier
//! than they should be, if some of the CPU and memory are free and nothing forbids a start. One worker
//! stops when fewer have been enough for some time. This time grows whenever a worker is needed
//! again soon after it was stopped, so a load whose pauses are a little longer than this time does
//! not make workers start and stop again and again.

use std::time::Duration;

use super::look::{Hold, Look, Reason};
use super::peak::{Average, Peaks};
use crate::range::{Bounds, Rules};

/// How long requests wait before they cause a start. Shorter queues are the normal consequence of
/// requests that arrive at the same time.
const PATIENCE: Duration = Duration::from_millis(50);

/// A ready worker may cause the start of at most this many others at a time, so that a load that
/// grows fivefold is met in one step.
const STEP: u32 = 4;

/// Another worker starts only if this part of a core is free. A worker rarely needs a whole core, and
/// one that starts takes work from the others.
const FREE_CORES: f64 = 0.25;

/// This part of a core may be missing for the last of several new workers, because three quarters of
/// a core count as one.
const MISSING_CORES: f64 = 0.25;

/// A worker stops only if the others would then be less busy than this share of the target. Between
/// this share and the target, nothing changes.
const MARGIN: f64 = 0.85;

/// The shortest time between two stops: workers stop one by one, and after each stop the others are
/// watched before the next one.
const STOP_INTERVAL: Duration = Duration::from_secs(1);

/// How often `idle` may double.
const MAX_CAUTION: u32 = 4;

/// Caution falls by one step once nothing has been missed for this many times of `idle`.
const FORGIVEN_AFTER: u32 = 20;

/// In how many steps `idle` is divided when peaks of the load are remembered.
const STEPS: u32 = 30;

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The number stays, because it is right.
    Stay,
    /// More workers are needed, but none may start.
    Held(Hold),
    /// There should be this many workers.
    Change {
        /// The new number.
        to: u32,
        /// Why.
        reason: Reason,
    },
}

/// Decides the number of workers of one app.
#[derive(Debug, Clone)]
pub(crate) struct Scaler {
    rules: Rules,
    /// Since when every look has found a waiting request.
    waiting_since: Option<Duration>,
    busy: Average,
    occupied: Average,
    peaks: Peaks,
    /// When the scaler began to watch, or when workers were last started.
    grown: Option<Duration>,
    stopped: Option<Duration>,
    /// How many times `idle` is doubled now, because it was too short.
    caution: u32,
    /// When caution last changed.
    cautious_since: Duration,
}

impl Scaler {
    /// A scaler that has seen nothing yet.
    pub(crate) fn new(rules: Rules) -> Self {
        let longest = rules.idle * (1 << MAX_CAUTION);
        Self {
            rules,
            waiting_since: None,
            busy: Average::default(),
            occupied: Average::default(),
            peaks: Peaks::new(rules.idle / STEPS, longest),
            grown: None,
            stopped: None,
            caution: 0,
            cautious_since: Duration::ZERO,
        }
    }

    /// What follows from `look`. `now` is the time since any fixed moment.
    pub(crate) fn look(&mut self, now: Duration, bounds: Bounds, look: &Look) -> Decision {
        self.grown.get_or_insert(now);
        self.forgive(now);
        self.waiting_since = (look.waiting > 0).then(|| {
            let at_least = now.saturating_sub(look.waited);
            self.waiting_since.map_or(at_least, |at| at.min(at_least))
        });
        let busy = self.busy.add(now, look.busy);
        let occupied = self.occupied.add(now, look.occupied);
        let most = f64::from(self.rules.utilization) / 100.0;
        let kept = occupied.max(busy) / (most * MARGIN);
        // While requests wait, every worker is needed.
        let needed = if self.waiting_since.is_some() {
            kept.max(f64::from(look.desired))
        } else {
            kept
        };
        self.peaks.add(now, needed);
        let nearest = bounds.nearest(look.desired);
        if nearest != look.desired {
            let reason = Reason::Range;
            return Decision::Change {
                to: nearest,
                reason,
            };
        }
        // One worker that tries again and again is enough to see when the app works again.
        let spare = look.crashing.saturating_sub(1);
        let tried = look.desired.saturating_sub(spare).max(bounds.min);
        if tried < look.desired && look.hold != Some(Hold::Replacing) {
            return Decision::Change {
                to: tried,
                reason: Reason::Crashing,
            };
        }
        match self.wanted(now, busy, most, look) {
            Some((to, reason)) => self.start(now, bounds, look, to, reason),
            None => self.stop(now, bounds, look),
        }
    }

    /// Begins to watch anew: what happened before says nothing about how many workers are enough.
    pub(crate) fn begin_anew(&mut self) {
        self.grown = None;
    }

    /// When the next look is due after one at `now`: as soon as the present queue may cause a
    /// start.
    pub(crate) fn next_look(&self, now: Duration, usual: Duration) -> Duration {
        match self.waiting_since.map(|at| at.saturating_add(PATIENCE)) {
            Some(at) if at > now => at.min(now.saturating_add(usual)),
            _ => now.saturating_add(usual),
        }
    }

    /// A number of workers above the present one, and why it is needed.
    fn wanted(&self, now: Duration, busy: f64, most: f64, look: &Look) -> Option<(u32, Reason)> {
        let since = self.waiting_since.map(|at| now.saturating_sub(at));
        let since = since.filter(|since| *since >= PATIENCE);
        let by_queue = since.map(|since| {
            let each = look.concurrency.max(1);
            let more = look.waiting.div_ceil(each).min(STEP * look.ready.max(1));
            let requests = look.waiting;
            (look.ready + more, Reason::Waiting { requests, since })
        });
        let share = busy / f64::from(look.ready.max(1));
        let by_work = (share > most).then(|| {
            let reason = Reason::Busy {
                percent: (share * 100.0).round() as u32,
                target: self.rules.utilization,
            };
            ((busy / most).ceil() as u32, reason)
        });
        let wanted = by_queue.into_iter().chain(by_work);
        let wanted = wanted.filter(|(to, _)| *to > look.desired);
        // The queue comes first, so it is named if both ask for the same number.
        wanted.reduce(|first, second| if second.0 > first.0 { second } else { first })
    }

    fn start(
        &mut self,
        now: Duration,
        bounds: Bounds,
        look: &Look,
        to: u32,
        reason: Reason,
    ) -> Decision {
        let hold = if look.desired >= bounds.max {
            Some(Hold::Most)
        } else if look.ready == 0 {
            Some(Hold::NoneReady)
        } else if look.hold.is_some() {
            look.hold
        } else if look.free_cores < FREE_CORES {
            Some(Hold::Cores)
        } else if look.room == 0 {
            Some(Hold::Memory)
        } else {
            None
        };
        if let Some(hold) = hold {
            return Decision::Held(hold);
        }
        let more = (to - look.desired).min(look.boots).min(look.room);
        let more = more.min(fed(look));
        let to = look.desired.saturating_add(more).min(bounds.max);
        if to == look.desired {
            return Decision::Stay;
        }
        self.grown = Some(now);
        let missed = self.stopped.take();
        if missed.is_some_and(|at| now.saturating_sub(at) <= self.idle()) {
            self.caution = (self.caution + 1).min(MAX_CAUTION);
            self.cautious_since = now;
        }
        Decision::Change { to, reason }
    }

    fn stop(&mut self, now: Duration, bounds: Bounds, look: &Look) -> Decision {
        let idle = self.idle();
        let since = |at: Option<Duration>| at.map_or(Duration::MAX, |at| now.saturating_sub(at));
        let is_settled = since(self.grown) >= idle && since(self.stopped) >= STOP_INTERVAL;
        let needed = self.peaks.highest(now, idle);
        let is_spare = needed <= f64::from(look.desired) - 1.0;
        let replacing = look.hold == Some(Hold::Replacing);
        if look.desired <= bounds.min.max(1)
            || !is_settled
            || !is_spare
            || !look.may_stop
            || replacing
        {
            return Decision::Stay;
        }
        self.stopped = Some(now);
        Decision::Change {
            to: look.desired - 1,
            reason: Reason::Idle { since: idle },
        }
    }

    /// How long fewer workers must have been enough now.
    fn idle(&self) -> Duration {
        self.rules.idle * (1 << self.caution)
    }

    fn forgive(&mut self, now: Duration) {
        let after = self.rules.idle * FORGIVEN_AFTER;
        if self.caution > 0 && now.saturating_sub(self.cautious_since) >= after {
            self.caution -= 1;
            self.cautious_since = now;
        }
    }
}

/// How many more workers the free cores can carry, if each uses as much as the present ones; at
/// least one.
fn fed(look: &Look) -> u32 {
    let fed = (look.free_cores + MISSING_CORES) / look.cores_each.max(0.01);
    (fed as u32).max(1)
}

#[cfg(test)]
mod tests;
