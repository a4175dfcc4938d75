//! The state machine: workers, slots, crashes, scaling.
//!
//! After each event the engine converges: the next steps follow from its state alone, so
//! that no order of events can leave a slot without a worker. `replace` decides how workers are
//! replaced (reload, restart), `ending` how everything ends.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use crate::action::{Action, Failure, Incident};
use crate::backoff::{Backoff, Random};
use crate::ending::{Ending, TRIES};
use crate::event::{Cause, Event, Exit};
use crate::ids::{Dispatch, Generation, OperationId, Slot, WorkerId};
use crate::replace::{PendingReplacement, Running};
use crate::view::WorkerState;

/// The settings, which do not change while the supervisor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How work reaches the workers.
    pub dispatch: Dispatch,
    /// A worker that is not ready within this time is stopped and never counts as ready.
    pub boot_timeout: Duration,
    /// How long a draining worker may take to finish its work.
    pub drain_timeout: Duration,
    /// Time between the stop signal and SIGKILL.
    pub stop_grace: Duration,
    /// Delays between restarts.
    pub backoff: Backoff,
    /// Seed of the jitter: it differs between supervisors, and is fixed in tests.
    pub jitter_seed: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Worker {
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) state: WorkerState,
    /// When it entered its state.
    pub(crate) since: Duration,
    pub(crate) started: Duration,
    ready_since: Option<Duration>,
    /// Whether it is known to have done work.
    has_served: bool,
    /// When its state has lasted too long.
    pub(crate) deadline: Option<Duration>,
}

/// The state of one slot. The holder is the worker that serves; a candidate is a new worker
/// that will replace the holder. A worker that no slot refers to is draining or stopping.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SlotRecord {
    pub(crate) holder: Option<WorkerId>,
    pub(crate) candidate: Option<WorkerId>,
    /// When the next holder starts after one that ended; `None` means immediately.
    pub(crate) retry_at: Option<Duration>,
    /// Failures in a row, which determine the delay.
    pub(crate) failures: u32,
    /// How many workers ended without ever being ready.
    pub(crate) never_ready: u32,
    pub(crate) restarts: u32,
    /// The next holder must wait for the end of this worker, because there is no memory
    /// for both.
    pub(crate) after: Option<WorkerId>,
}

/// The lifecycle of all workers of one app.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) config: Config,
    random: Random,
    last_worker: u64,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    /// Indexed by slot. There are as many records as desired workers.
    pub(crate) records: Vec<SlotRecord>,
    pub(crate) generation: Generation,
    /// The generation that gets new connections (Connection dispatch).
    pub(crate) activated: Option<Generation>,
    pub(crate) running: Option<Running>,
    pub(crate) pending: VecDeque<PendingReplacement>,
    /// The scale operation that a caller waits for.
    scaling: Option<OperationId>,
    /// Whether there is no memory for one more worker.
    pub(crate) is_crowded: bool,
    pub(crate) ever_ready: bool,
    pub(crate) ending: Option<Ending>,
}

impl Engine {
    /// An engine without workers; [`Engine::start`] starts them.
    pub fn new(config: Config, workers: u32) -> Self {
        Self {
            config,
            random: Random(config.jitter_seed),
            last_worker: 0,
            workers: BTreeMap::new(),
            records: alloc::vec![SlotRecord::default(); workers as usize],
            generation: Generation(1),
            activated: None,
            running: None,
            pending: VecDeque::new(),
            scaling: None,
            is_crowded: false,
            ever_ready: false,
            ending: None,
        }
    }

    /// Starts the first generation. Times count from the supervisor's start.
    pub fn start(&mut self, now: Duration) -> Vec<Action> {
        self.on(now, Event::Wake)
    }

    /// The actions that follow from `event` at the time `now`.
    pub fn on(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        if self.ending.is_some_and(|ending| ending.exited) {
            return out;
        }
        match event {
            Event::Spawned(worker) => self.spawned(now, worker),
            Event::Ready(worker) => self.worker_ready(now, worker, &mut out),
            Event::Exited(worker, exit) => self.worker_exited(now, worker, exit, &mut out),
            Event::Drained(worker) => {
                if self.state(worker) == Some(WorkerState::Draining) {
                    self.end(now, worker, &mut out);
                }
            }
            Event::Scale { workers, operation } => self.scale(now, workers, operation, &mut out),
            Event::Reload { operation } => {
                self.request(PendingReplacement::Reload { operation }, &mut out);
            }
            Event::Restart { slot, operation } => {
                self.request(PendingReplacement::Restart { slot, operation }, &mut out);
            }
            Event::Recycle {
                worker,
                cause,
                surge,
            } => self.recycle(worker, cause, surge, &mut out),
            Event::Kill { worker, cause } => self.kill(now, worker, cause, &mut out),
            Event::Starved(time) => self.starved(time),
            Event::Crowded(is_crowded) => self.is_crowded = is_crowded,
            Event::Served(worker) => self.served(worker),
            Event::Stop { quick } => self.stop(now, quick, &mut out),
            Event::Wake => {}
        }
        self.expire(now, &mut out);
        self.converge(now, &mut out);
        out
    }

    /// When [`Event::Wake`] must come if no other event comes before.
    pub fn deadline(&self) -> Option<Duration> {
        let workers = self.workers.values().filter_map(|worker| worker.deadline);
        let waiting = self.records.iter().filter(|record| self.may_fill(record));
        let retries = waiting.filter_map(|record| record.retry_at);
        workers.chain(retries).min()
    }

    pub(crate) fn state(&self, worker: WorkerId) -> Option<WorkerState> {
        self.workers.get(&worker).map(|worker| worker.state)
    }

    pub(crate) fn is_ready(&self, worker: Option<WorkerId>) -> bool {
        worker.and_then(|worker| self.state(worker)) == Some(WorkerState::Ready)
    }

    // Workers.

    pub(crate) fn spawn(
        &mut self,
        now: Duration,
        slot: Slot,
        generation: Generation,
        out: &mut Vec<Action>,
    ) -> WorkerId {
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        let worker = Worker {
            slot,
            generation,
            state: WorkerState::Starting,
            since: now,
            started: now,
            ready_since: None,
            has_served: false,
            deadline: Some(now.saturating_add(self.config.boot_timeout)),
        };
        self.workers.insert(id, worker);
        out.push(Action::Spawn {
            worker: id,
            slot,
            generation,
        });
        id
    }

    fn spawned(&mut self, now: Duration, id: WorkerId) {
        let boot_timeout = self.config.boot_timeout;
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.state == WorkerState::Starting
        {
            worker.since = now;
            worker.started = now;
            worker.deadline = Some(now.saturating_add(boot_timeout));
        }
    }

    fn worker_ready(&mut self, now: Duration, id: WorkerId, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.state != WorkerState::Starting {
            return;
        }
        worker.state = WorkerState::Ready;
        worker.since = now;
        worker.ready_since = Some(now);
        worker.deadline = None;
        self.ever_ready = true;
        let incident = Incident::Ready {
            worker: id,
            slot: worker.slot,
            generation: worker.generation,
            after: now.saturating_sub(worker.started),
        };
        out.push(Action::Report(incident));
        if worker.generation == self.generation {
            self.activate(out);
        }
    }

    fn served(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.has_served = true;
        }
    }

    /// Sends new connections to the current generation, once.
    pub(crate) fn activate(&mut self, out: &mut Vec<Action>) {
        let generation = self.generation;
        if self.config.dispatch == Dispatch::Connection && self.activated != Some(generation) {
            self.activated = Some(generation);
            out.push(Action::Activate { generation });
        }
    }

    fn worker_exited(&mut self, now: Duration, id: WorkerId, exit: Exit, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        let slot = worker.slot;
        let record = self.records.get_mut(slot.0 as usize);
        match record {
            Some(record) if record.holder == Some(id) => {
                record.holder = None;
                self.holder_ended(now, id, &worker, exit, out);
            }
            Some(record) if record.candidate == Some(id) => {
                record.candidate = None;
                let failure = Failure::Exited {
                    worker: id,
                    slot,
                    exit,
                };
                self.fail_running(now, failure, out);
            }
            _ if worker.state == WorkerState::Draining => {
                let incident = Incident::EndedDraining {
                    worker: id,
                    slot,
                    exit,
                };
                out.push(Action::Report(incident));
            }
            _ => {}
        }
    }

    fn holder_ended(
        &mut self,
        now: Duration,
        id: WorkerId,
        worker: &Worker,
        exit: Exit,
        out: &mut Vec<Action>,
    ) {
        let slot = worker.slot;
        let Some(record) = self.records.get_mut(slot.0 as usize) else {
            return;
        };
        let backoff = &self.config.backoff;
        let ready_for = worker.ready_since.map(|since| now.saturating_sub(since));
        if ready_for.is_some_and(|served| served >= backoff.reset_after) {
            record.failures = 0;
        }
        record.restarts = record.restarts.saturating_add(1);
        // The supervisor stopped this worker because its boot took too long.
        let late = ready_for.is_none() && worker.state == WorkerState::Stopping;
        if ready_for.is_none() {
            record.never_ready = record.never_ready.saturating_add(1);
        }
        // A command that cannot be executed is retried without delays, so that the supervisor
        // gives up early.
        let hopeless =
            matches!(exit, Exit::Spawn { .. }) && !self.ever_ready && record.never_ready < TRIES;
        let proved = ready_for.is_some_and(|served| served >= backoff.at_once_after);
        // The worker exited with code 0 after it had served, or after it had been ready for so long
        // that it counts as proved: it recycled itself, as `uvicorn --limit-max-requests` does.
        let orderly = exit == Exit::Code(0)
            && worker.state == WorkerState::Ready
            && (proved || worker.has_served);
        let restart_in = if hopeless || proved || orderly {
            Duration::ZERO
        } else {
            let delay = backoff.delay(record.failures, self.random.next());
            if ready_for.is_some() && worker.has_served {
                delay.min(backoff.served_cap)
            } else {
                delay
            }
        };
        if orderly {
            record.failures = 0;
        } else if !proved {
            record.failures = record.failures.saturating_add(1);
        }
        record.retry_at = Some(now.saturating_add(restart_in));
        out.push(Action::Report(match ready_for {
            Some(after) if orderly => Incident::Finished {
                worker: id,
                slot,
                after,
            },
            _ => Incident::Exited {
                worker: id,
                slot,
                exit,
                late,
                ready_for,
                restart_in,
            },
        }));
        if ready_for.is_none() {
            let failure = Failure::Exited {
                worker: id,
                slot,
                exit,
            };
            self.settle_scale(Err(failure), out);
            self.give_up_if_nothing_starts(now, exit, late, out);
        }
    }

    /// Gives a worker no new work, and stops it once it has no work left.
    pub(crate) fn retire(&mut self, now: Duration, id: WorkerId, out: &mut Vec<Action>) {
        let drain_timeout = self.config.drain_timeout;
        match self.workers.get_mut(&id) {
            Some(worker) if worker.state == WorkerState::Ready => {
                worker.state = WorkerState::Draining;
                worker.since = now;
                worker.deadline = Some(now.saturating_add(drain_timeout));
                out.push(Action::Drain { worker: id });
            }
            // This worker never had any work to finish.
            Some(worker) if worker.state == WorkerState::Starting => self.end(now, id, out),
            _ => {}
        }
    }

    /// Sends the stop signal, unless it was sent before.
    pub(crate) fn end(&mut self, now: Duration, id: WorkerId, out: &mut Vec<Action>) {
        let stop_grace = self.config.stop_grace;
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.state != WorkerState::Stopping
        {
            worker.state = WorkerState::Stopping;
            worker.since = now;
            worker.deadline = Some(now.saturating_add(stop_grace));
            out.push(Action::Terminate { worker: id });
        }
    }

    /// Sends SIGKILL, unless it was sent before.
    fn kill(&mut self, now: Duration, id: WorkerId, cause: Cause, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.state == WorkerState::Stopping && worker.deadline.is_none() {
            return;
        }
        if worker.state != WorkerState::Stopping {
            worker.state = WorkerState::Stopping;
            worker.since = now;
        }
        worker.deadline = None;
        out.push(Action::Report(Incident::Killed {
            worker: id,
            slot: worker.slot,
            cause,
        }));
        let slot = worker.slot;
        out.push(Action::Kill { worker: id });
        let record = self.records.get(slot.0 as usize);
        if record.is_some_and(|record| record.candidate == Some(id)) {
            let failure = Failure::Killed {
                worker: id,
                slot,
                cause,
            };
            self.fail_running(now, failure, out);
        }
    }

    /// Extends the boot deadlines by `time`.
    fn starved(&mut self, time: Duration) {
        for worker in self.workers.values_mut() {
            if worker.state == WorkerState::Starting {
                worker.deadline = worker.deadline.map(|at| at.saturating_add(time));
            }
        }
    }

    pub(crate) fn ids(&self) -> Vec<WorkerId> {
        self.workers.keys().copied().collect()
    }

    /// Acts on every worker whose deadline has passed.
    fn expire(&mut self, now: Duration, out: &mut Vec<Action>) {
        for id in self.ids() {
            let Some(worker) = self.workers.get_mut(&id) else {
                continue;
            };
            if worker.deadline.is_none_or(|deadline| deadline > now) {
                continue;
            }
            worker.deadline = None;
            let slot = worker.slot;
            match worker.state {
                WorkerState::Starting => self.boot_timed_out(now, id, slot, out),
                WorkerState::Ready => {}
                WorkerState::Draining => {
                    // A drain timeout of zero always expires, so its expiry is not reported.
                    if !self.config.drain_timeout.is_zero() {
                        let incident = Incident::DrainTimedOut { worker: id, slot };
                        out.push(Action::Report(incident));
                    }
                    self.end(now, id, out);
                }
                WorkerState::Stopping => {
                    let incident = Incident::KilledAfterGrace { worker: id, slot };
                    out.push(Action::Report(incident));
                    out.push(Action::Kill { worker: id });
                }
            }
        }
    }

    fn boot_timed_out(&mut self, now: Duration, id: WorkerId, slot: Slot, out: &mut Vec<Action>) {
        let after = self.config.boot_timeout;
        out.push(Action::Report(Incident::BootTimedOut {
            worker: id,
            slot,
            after,
        }));
        let failure = Failure::BootTimedOut {
            worker: id,
            slot,
            after,
        };
        let record = self.records.get(slot.0 as usize).copied();
        self.end(now, id, out);
        if record.is_some_and(|record| record.candidate == Some(id)) {
            self.fail_running(now, failure, out);
        } else if record.is_some_and(|record| record.holder == Some(id)) {
            self.settle_scale(Err(failure), out);
        }
    }

    // Requests.

    fn scale(
        &mut self,
        now: Duration,
        workers: u32,
        operation: Option<OperationId>,
        out: &mut Vec<Action>,
    ) {
        if self.ending.is_some() {
            settle(operation, Err(Failure::Stopping), out);
            return;
        }
        if operation.is_none() && workers == self.desired() {
            return;
        }
        self.settle_scale(Err(Failure::Superseded), out);
        self.scaling = operation;
        // Scaling down removes the highest slots.
        while self.desired() > workers {
            let Some(record) = self.records.pop() else {
                break;
            };
            if let Some(holder) = record.holder {
                self.retire(now, holder, out);
            }
            if let Some(candidate) = record.candidate {
                self.end(now, candidate, out);
            }
        }
        self.records.resize(workers as usize, SlotRecord::default());
    }

    pub(crate) fn settle_scale(&mut self, result: Result<(), Failure>, out: &mut Vec<Action>) {
        settle(self.scaling.take(), result, out);
    }

    fn recycle(&mut self, worker: WorkerId, cause: Cause, surge: bool, out: &mut Vec<Action>) {
        // The event may be ignored: no operation waits for a recycling, and the shell repeats
        // the event as long as the cause lasts.
        let known = self.running.is_some_and(|running| running.concerns(worker))
            || self.pending.iter().any(|request| request.concerns(worker));
        if known || self.state(worker) != Some(WorkerState::Ready) {
            return;
        }
        self.request(
            PendingReplacement::Recycle {
                worker,
                cause,
                surge,
            },
            out,
        );
    }

    fn request(&mut self, request: PendingReplacement, out: &mut Vec<Action>) {
        if self.ending.is_some() {
            settle(request.operation(), Err(Failure::Stopping), out);
            return;
        }
        // A request replaces a waiting one that it makes unnecessary.
        if let Some(earlier) = self
            .pending
            .iter_mut()
            .find(|earlier| earlier.is_like(&request))
        {
            settle(earlier.operation(), Err(Failure::Superseded), out);
            *earlier = request;
        } else {
            self.pending.push_back(request);
        }
    }

    // Convergence.

    fn converge(&mut self, now: Duration, out: &mut Vec<Action>) {
        if let Some(ending) = &mut self.ending {
            if self.workers.is_empty() {
                ending.exited = true;
                out.push(Action::Exit { code: ending.code });
            }
            return;
        }
        self.advance(now, out);
        for index in 0..self.records.len() {
            let record = self.records[index];
            let due = record.retry_at.is_none_or(|retry_at| retry_at <= now);
            if due && self.may_fill(&record) {
                let worker = self.spawn(now, Slot(index as u32), self.generation, out);
                self.records[index].holder = Some(worker);
                self.records[index].retry_at = None;
            }
        }
        let wanted = self
            .records
            .iter()
            .all(|record| self.is_ready(record.holder));
        let surplus = self
            .workers
            .values()
            .any(|worker| worker.slot.0 >= self.desired());
        if wanted && !surplus {
            self.settle_scale(Ok(()), out);
        }
    }

    /// Whether a slot without a holder may get a holder of the current generation, once its delay
    /// is over.
    pub(crate) fn may_fill(&self, record: &SlotRecord) -> bool {
        let crowded = record
            .after
            .is_some_and(|old| self.workers.contains_key(&old));
        if record.holder.is_some() || self.ending.is_some() || crowded {
            return false;
        }
        match (record.candidate, self.config.dispatch) {
            (None, _) => true,
            // The candidate takes the slot as soon as it is ready.
            (Some(_), Dispatch::Request) => false,
            // This candidate takes over only together with all others, so a slot whose holder has
            // ended gets another holder in the meantime.
            (Some(_), Dispatch::Connection) => record.retry_at.is_some(),
        }
    }
}

/// Settles `operation`; `None` means that no caller waits.
pub(crate) fn settle(
    operation: Option<OperationId>,
    result: Result<(), Failure>,
    out: &mut Vec<Action>,
) {
    if let Some(operation) = operation {
        out.push(Action::Settle { operation, result });
    }
}
