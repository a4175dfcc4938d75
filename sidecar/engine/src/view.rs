//! A read-only view of the engine's state.

use core::fmt;
use core::time::Duration;

use crate::engine::{Engine, SlotRecord};
use crate::ids::{Generation, Slot, WorkerId};
use crate::replace::Running;

/// The state of a live process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Started, but not ready yet.
    Starting,
    /// It takes work.
    Ready,
    /// It gets no new work and finishes what it has.
    Draining,
    /// The supervisor has sent it the stop signal or SIGKILL.
    Stopping,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Draining => "Draining",
            Self::Stopping => "Stopping",
        })
    }
}

/// One live process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerView {
    /// Its identity.
    pub id: WorkerId,
    /// Its slot.
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
    /// Its state.
    pub state: WorkerState,
    /// When it entered the state, as time since the supervisor's start.
    pub since: Duration,
    /// When it was started, as time since the supervisor's start.
    pub started: Duration,
}

/// The state of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// Its worker is not ready yet.
    Starting,
    /// Its worker takes work.
    Ready,
    /// Its worker is being stopped: it was not ready in time, its successor needs its memory,
    /// or the supervisor is stopping.
    Stopping,
    /// Its worker ended; the next one starts after a delay.
    CrashLoop {
        /// When the next worker starts, as time since the supervisor's start.
        next_attempt: Duration,
    },
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Stopping => "Stopping",
            Self::CrashLoop { .. } => "CrashLoop",
        })
    }
}

/// One slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotView {
    /// Its number.
    pub slot: Slot,
    /// Its state.
    pub state: SlotState,
    /// How many of its workers ended without a planned replacement: they exited, were killed,
    /// or were not ready in time.
    pub restarts: u32,
    /// How many of its workers have ended in a row without having served for long.
    pub failures: u32,
}

impl Engine {
    /// Every live process, in the order of start.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.workers.iter().map(|(&id, worker)| WorkerView {
            id,
            slot: worker.slot,
            generation: worker.generation,
            state: worker.state,
            since: worker.since,
            started: worker.started,
        })
    }

    /// Every desired slot.
    pub fn slots(&self) -> impl Iterator<Item = SlotView> {
        self.records.iter().zip(0..).map(|(record, slot)| SlotView {
            slot: Slot(slot),
            state: self.slot_state(record),
            restarts: record.restarts,
            failures: record.failures,
        })
    }

    fn slot_state(&self, record: &SlotRecord) -> SlotState {
        let state = |worker: Option<WorkerId>| worker.and_then(|worker| self.state(worker));
        match (
            state(record.holder),
            state(record.candidate),
            record.retry_at,
        ) {
            (Some(WorkerState::Ready), ..) => SlotState::Ready,
            (Some(WorkerState::Starting), ..) | (None, Some(_), _) => SlotState::Starting,
            (None, None, Some(next_attempt)) if self.ending.is_none() => {
                SlotState::CrashLoop { next_attempt }
            }
            _ if self.may_fill(record) => SlotState::Starting,
            _ => SlotState::Stopping,
        }
    }

    /// The desired number of workers.
    pub fn desired(&self) -> u32 {
        self.records.len() as u32
    }

    /// The number of slots whose worker takes work.
    pub fn ready(&self) -> u32 {
        let ready = |record: &&SlotRecord| self.is_ready(record.holder);
        self.records.iter().filter(ready).count() as u32
    }

    /// The longest time that one more operation may take, including everything requested
    /// before it. It assumes the slowest case, in which there is no memory for two workers
    /// at the same time: each slot in turn starts, drains and stops.
    pub fn patience(&self) -> Duration {
        let config = &self.config;
        let each = config.boot_timeout + config.drain_timeout + config.stop_grace;
        let slots = self.records.len().max(self.workers.len()).max(1);
        let operations = 1 + usize::from(self.running.is_some()) + self.pending.len();
        each.saturating_mul((slots * operations) as u32)
    }

    /// The newest generation that has taken over.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the supervisor is ending.
    pub fn is_stopping(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether workers are being replaced, and some of them have not started yet. Old workers that
    /// only finish their work do not count.
    pub fn is_replacing(&self) -> bool {
        let running = self.running.as_ref();
        let starts = running.is_some_and(|running| running.starts_workers(self.desired()));
        starts || !self.pending.is_empty()
    }

    /// Whether a reload is running.
    pub fn reloading(&self) -> bool {
        self.running.as_ref().is_some_and(Running::is_reload)
    }
}
