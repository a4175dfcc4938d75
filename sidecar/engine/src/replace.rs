//! How workers are replaced: reload of all, restart of one slot, recycling of one worker.
//!
//! A candidate starts beside the holder of its slot and takes over when it is ready; then
//! the old worker drains. The first candidate is the canary: no old worker is replaced
//! before the canary is ready. Under Request dispatch the slots start their candidates one after
//! the other, but the old workers drain side by side if there is memory for that, because a
//! drain may last as long as a WebSocket's close handshake. Under Connection dispatch a
//! single worker cannot be kept from accepting, so a generation takes over as a whole.

use alloc::vec::Vec;
use core::time::Duration;

use crate::action::{Action, Failure, Incident};
use crate::engine::{Engine, settle};
use crate::event::Cause;
use crate::ids::{Dispatch, Generation, OperationId, Slot, WorkerId};
use crate::view::WorkerState;

/// A replacement that has been requested but has not begun.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PendingReplacement {
    Reload {
        operation: Option<OperationId>,
    },
    Restart {
        slot: Slot,
        operation: Option<OperationId>,
    },
    Recycle {
        worker: WorkerId,
        cause: Cause,
        surge: bool,
    },
}

impl PendingReplacement {
    pub(crate) fn operation(&self) -> Option<OperationId> {
        match *self {
            Self::Reload { operation } | Self::Restart { operation, .. } => operation,
            Self::Recycle { .. } => None,
        }
    }

    /// Whether this is the recycling of worker `id`.
    pub(crate) fn concerns(&self, id: WorkerId) -> bool {
        matches!(*self, Self::Recycle { worker, .. } if worker == id)
    }

    /// Whether one of the two requests makes the other unnecessary.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Reload { .. }, Self::Reload { .. }) => true,
            (Self::Restart { slot, .. }, Self::Restart { slot: other, .. }) => slot == other,
            _ => false,
        }
    }
}

/// The running replacement; there is at most one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    operation: Option<OperationId>,
    target: Generation,
    began: Duration,
    course: Course,
    /// The worker that is being recycled.
    recycled: Option<WorkerId>,
}

#[derive(Debug, Clone, Copy)]
enum Course {
    /// A reload, slot by slot; after the last slot it waits until the old workers have ended.
    Rolling { slot: Slot },
    /// A reload of all slots together; at first, only slot 0 has a candidate.
    Together { phase: Phase },
    /// The restart of one slot, or the recycling of its worker.
    Single {
        slot: Slot,
        retiring: Option<WorkerId>,
    },
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Canary,
    Rest,
    Retiring,
}

/// Whether a step was taken.
#[derive(PartialEq, Eq)]
enum Step {
    Made,
    Waiting,
}

impl Running {
    pub(crate) fn is_reload(&self) -> bool {
        !matches!(self.course, Course::Single { .. })
    }

    /// Whether workers are still to start, or to be ready, among `slots` slots.
    pub(crate) fn starts_workers(&self, slots: u32) -> bool {
        match self.course {
            Course::Rolling { slot } => slot.0 < slots,
            Course::Together { phase } => !matches!(phase, Phase::Retiring),
            Course::Single { retiring, .. } => retiring.is_none(),
        }
    }

    /// Whether this is the recycling of `worker`.
    pub(crate) fn concerns(&self, worker: WorkerId) -> bool {
        self.recycled == Some(worker)
    }
}

impl Engine {
    /// Takes all steps of the replacement that are possible now, and then begins the next
    /// replacement.
    pub(crate) fn advance(&mut self, now: Duration, out: &mut Vec<Action>) {
        loop {
            let step = match self.running {
                None => self.begin_next(now, out),
                Some(running) => match running.course {
                    Course::Rolling { slot } => self.advance_rolling(now, running, slot, out),
                    Course::Together { phase } => self.advance_together(now, running, phase, out),
                    Course::Single { slot, retiring } => {
                        self.advance_single(now, running, slot, retiring, out)
                    }
                },
            };
            if step == Step::Waiting {
                return;
            }
        }
    }

    fn begin_next(&mut self, now: Duration, out: &mut Vec<Action>) -> Step {
        let Some(request) = self.pending.pop_front() else {
            return Step::Waiting;
        };
        let running = match request {
            PendingReplacement::Reload { operation } => {
                let target = self.next_generation();
                out.push(Action::Report(Incident::ReloadBegan { generation: target }));
                let course = match self.config.dispatch {
                    Dispatch::Request => Course::Rolling { slot: Slot(0) },
                    Dispatch::Connection => Course::Together {
                        phase: Phase::Canary,
                    },
                };
                Running {
                    operation,
                    target,
                    began: now,
                    course,
                    recycled: None,
                }
            }
            PendingReplacement::Restart { slot, operation } => {
                if slot.0 >= self.desired() {
                    let failure = self.no_such(slot);
                    settle(operation, Err(failure), out);
                    return Step::Made;
                }
                Running {
                    operation,
                    target: self.generation,
                    began: now,
                    course: Course::Single {
                        slot,
                        retiring: None,
                    },
                    recycled: None,
                }
            }
            PendingReplacement::Recycle {
                worker,
                cause,
                surge,
            } => match self.begin_recycling(now, worker, cause, surge, out) {
                Some(running) => running,
                None => return Step::Made,
            },
        };
        self.running = Some(running);
        Step::Made
    }

    /// Begins to recycle a worker. Returns `None` if the worker has been replaced in the meantime
    /// or is being ended.
    fn begin_recycling(
        &mut self,
        now: Duration,
        id: WorkerId,
        cause: Cause,
        surge: bool,
        out: &mut Vec<Action>,
    ) -> Option<Running> {
        let slot = self.workers.get(&id)?.slot;
        let record = self.records.get_mut(slot.0 as usize)?;
        if record.holder != Some(id) {
            return None;
        }
        let is_ready = |worker: &&crate::engine::Worker| worker.state == WorkerState::Ready;
        self.workers.get(&id).filter(is_ready)?;
        out.push(Action::Report(Incident::RecycleBegan {
            worker: id,
            slot,
            cause,
        }));
        let retiring = (!surge).then_some(id);
        if !surge {
            record.holder = None;
            record.after = Some(id);
            record.retry_at = None;
            self.retire(now, id, out);
        }
        Some(Running {
            operation: None,
            // The generation that serves now.
            target: self.generation,
            began: now,
            course: Course::Single { slot, retiring },
            recycled: Some(id),
        })
    }

    /// A number that no live worker has, so that workers left over from a failed reload
    /// never count as workers of the next one.
    fn next_generation(&self) -> Generation {
        let alive = self.workers.values().map(|worker| worker.generation);
        let newest = alive.fold(self.generation, Ord::max);
        Generation(newest.0 + 1)
    }

    fn no_such(&self, slot: Slot) -> Failure {
        Failure::NoSuchSlot {
            slot,
            desired: self.desired(),
        }
    }

    fn advance_rolling(
        &mut self,
        now: Duration,
        running: Running,
        slot: Slot,
        out: &mut Vec<Action>,
    ) -> Step {
        let Some(record) = self.records.get(slot.0 as usize).copied() else {
            return self.await_old(now, running, out);
        };
        if let Some(candidate) = record.candidate {
            if !self.is_ready(Some(candidate)) {
                return Step::Waiting;
            }
            // The first candidate has shown that the new generation works, so every worker
            // that starts from now on belongs to it.
            self.generation = running.target;
            if let Some(old) = self.promote(slot) {
                self.retire(now, old, out);
            }
            return self.roll_to(Slot(slot.0 + 1));
        }
        let holder = record.holder.and_then(|holder| self.workers.get(&holder));
        match holder {
            // This holder was started in the meantime, after a crash or to scale up.
            Some(holder) if holder.generation >= running.target => match holder.state {
                WorkerState::Ready => return self.roll_to(Slot(slot.0 + 1)),
                WorkerState::Starting => return Step::Waiting,
                WorkerState::Draining | WorkerState::Stopping => {}
            },
            _ => {}
        }
        // A draining or stopping worker will soon free memory.
        if self.is_crowded && self.is_any_leaving() {
            return Step::Waiting;
        }
        self.start_candidate(now, slot, running.target, out);
        Step::Waiting
    }

    fn roll_to(&mut self, slot: Slot) -> Step {
        self.set_course(Course::Rolling { slot });
        Step::Made
    }

    fn is_any_leaving(&self) -> bool {
        let mut workers = self.workers.values();
        workers.any(|worker| matches!(worker.state, WorkerState::Draining | WorkerState::Stopping))
    }

    /// Finishes the reload once the old generation is reaped.
    fn await_old(&mut self, now: Duration, running: Running, out: &mut Vec<Action>) -> Step {
        let mut alive = self.workers.values();
        if alive.any(|worker| worker.generation < running.target) {
            return Step::Waiting;
        }
        self.finish_reload(now, running, out);
        Step::Made
    }

    fn advance_together(
        &mut self,
        now: Duration,
        running: Running,
        phase: Phase,
        out: &mut Vec<Action>,
    ) -> Step {
        match phase {
            Phase::Canary => match self.records.first().map(|canary| canary.candidate) {
                Some(None) => {
                    self.start_candidate(now, Slot(0), running.target, out);
                    Step::Waiting
                }
                Some(canary) if !self.is_ready(canary) => Step::Waiting,
                _ => {
                    self.set_course(Course::Together { phase: Phase::Rest });
                    Step::Made
                }
            },
            Phase::Rest => {
                for slot in 0..self.desired() {
                    if self.records[slot as usize].candidate.is_none() {
                        self.start_candidate(now, Slot(slot), running.target, out);
                    }
                }
                if !self
                    .records
                    .iter()
                    .all(|record| self.is_ready(record.candidate))
                {
                    return Step::Waiting;
                }
                self.take_over(now, running.target, out);
                Step::Made
            }
            Phase::Retiring => self.await_old(now, running, out),
        }
    }

    /// All candidates are ready: new connections go to them, and the old workers drain.
    fn take_over(&mut self, now: Duration, target: Generation, out: &mut Vec<Action>) {
        self.generation = target;
        if !self.records.is_empty() {
            self.activate(out);
        }
        for slot in 0..self.desired() {
            if let Some(old) = self.promote(Slot(slot)) {
                self.retire(now, old, out);
            }
        }
        self.set_course(Course::Together {
            phase: Phase::Retiring,
        });
    }

    fn advance_single(
        &mut self,
        now: Duration,
        running: Running,
        slot: Slot,
        retiring: Option<WorkerId>,
        out: &mut Vec<Action>,
    ) -> Step {
        if let Some(old) = retiring {
            if self.workers.contains_key(&old) {
                return Step::Waiting;
            }
            self.finish_restart(running, Ok(()), out);
            return Step::Made;
        }
        let Some(record) = self.records.get(slot.0 as usize).copied() else {
            let failure = self.no_such(slot);
            self.finish_restart(running, Err(failure), out);
            return Step::Made;
        };
        let Some(candidate) = record.candidate else {
            self.start_candidate(now, slot, running.target, out);
            return Step::Waiting;
        };
        if !self.is_ready(Some(candidate)) {
            return Step::Waiting;
        }
        match self.promote(slot) {
            Some(old) => {
                self.retire(now, old, out);
                self.set_course(Course::Single {
                    slot,
                    retiring: Some(old),
                });
            }
            None => self.finish_restart(running, Ok(()), out),
        }
        Step::Made
    }

    fn start_candidate(
        &mut self,
        now: Duration,
        slot: Slot,
        generation: Generation,
        out: &mut Vec<Action>,
    ) {
        let candidate = self.spawn(now, slot, generation, out);
        if let Some(record) = self.records.get_mut(slot.0 as usize) {
            record.candidate = Some(candidate);
        }
    }

    /// Makes the candidate the slot's holder and returns the previous one.
    fn promote(&mut self, slot: Slot) -> Option<WorkerId> {
        let record = self.records.get_mut(slot.0 as usize)?;
        record.retry_at = None;
        // Failures of the old worker say nothing about the new one.
        record.failures = 0;
        core::mem::replace(&mut record.holder, record.candidate.take())
    }

    fn set_course(&mut self, course: Course) {
        if let Some(running) = &mut self.running {
            running.course = course;
        }
    }

    fn finish_reload(&mut self, now: Duration, running: Running, out: &mut Vec<Action>) {
        // If there were no workers, there was no canary that could have set the generation.
        self.generation = running.target;
        self.running = None;
        out.push(Action::Report(Incident::ReloadFinished {
            generation: running.target,
            took: now.saturating_sub(running.began),
        }));
        settle(running.operation, Ok(()), out);
    }

    fn finish_restart(
        &mut self,
        running: Running,
        result: Result<(), Failure>,
        out: &mut Vec<Action>,
    ) {
        self.running = None;
        if let Err(failure) = result {
            out.push(Action::Report(Incident::RestartFailed { failure }));
        }
        settle(running.operation, result, out);
    }

    /// A candidate failed: all candidates are stopped, and the holders keep serving.
    pub(crate) fn fail_running(&mut self, now: Duration, failure: Failure, out: &mut Vec<Action>) {
        for index in 0..self.records.len() {
            if let Some(candidate) = self.records[index].candidate.take() {
                self.end(now, candidate, out);
            }
        }
        self.drop_running(failure, out);
    }

    /// Ends the replacement without any effect on the workers.
    pub(crate) fn drop_running(&mut self, failure: Failure, out: &mut Vec<Action>) {
        let Some(running) = self.running.take() else {
            return;
        };
        let incident = if running.is_reload() {
            Incident::ReloadFailed {
                generation: running.target,
                failure,
            }
        } else {
            Incident::RestartFailed { failure }
        };
        out.push(Action::Report(incident));
        settle(running.operation, Err(failure), out);
    }
}
