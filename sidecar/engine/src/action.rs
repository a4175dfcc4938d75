//! The actions that the engine asks the shell to carry out, and the incidents that the engine
//! reports.

use core::fmt;
use core::time::Duration;

use crate::event::{Cause, Exit};
use crate::ids::{Generation, OperationId, Slot, WorkerId};

/// Something for the shell to do. Actions are carried out in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a process.
    Spawn {
        /// The identity of the new worker.
        worker: WorkerId,
        /// The slot of the new worker.
        slot: Slot,
        /// The generation of the new worker.
        generation: Generation,
    },
    /// Connection dispatch: from now on new connections go to this generation only.
    Activate {
        /// The generation.
        generation: Generation,
    },
    /// Give this worker no new work, and send [`crate::Event::Drained`] once it has nothing
    /// in flight.
    Drain {
        /// The worker.
        worker: WorkerId,
    },
    /// Send the stop signal to the worker's process group.
    Terminate {
        /// The worker.
        worker: WorkerId,
    },
    /// Send SIGKILL to the worker's process group.
    Kill {
        /// The worker.
        worker: WorkerId,
    },
    /// Answer the caller that waits for this operation. Each operation that reaches the engine
    /// before [`Action::Exit`] is settled exactly once.
    Settle {
        /// The operation.
        operation: OperationId,
        /// Its result.
        result: Result<(), Failure>,
    },
    /// Write a log line and count it in the metrics.
    Report(Incident),
    /// Every worker is reaped: exit with this code. No action follows.
    Exit {
        /// 0 after a stop. If no worker was ever ready, the exit code of the last one, or 3 if that
        /// code is 0.
        code: i32,
    },
}

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A new worker ended before it took over.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// How it ended.
        exit: Exit,
    },
    /// A new worker was not ready within the boot timeout.
    BootTimedOut {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// The boot timeout.
        after: Duration,
    },
    /// The supervisor killed a new worker.
    Killed {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// The reason.
        cause: Cause,
    },
    /// A later request of the same kind has taken the place of this one.
    Superseded,
    /// The supervisor is stopping.
    Stopping,
    /// The slot does not exist, or no longer exists.
    NoSuchSlot {
        /// The requested slot.
        slot: Slot,
        /// The number of slots.
        desired: u32,
    },
}

impl Failure {
    /// The slot of the worker that caused the failure.
    pub fn slot(&self) -> Option<Slot> {
        match *self {
            Self::Exited { slot, .. }
            | Self::BootTimedOut { slot, .. }
            | Self::Killed { slot, .. } => Some(slot),
            Self::Superseded | Self::Stopping | Self::NoSuchSlot { .. } => None,
        }
    }

    /// The worker that caused the failure.
    pub fn worker(&self) -> Option<WorkerId> {
        match *self {
            Self::Exited { worker, .. }
            | Self::BootTimedOut { worker, .. }
            | Self::Killed { worker, .. } => Some(worker),
            Self::Superseded | Self::Stopping | Self::NoSuchSlot { .. } => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { slot, exit, .. } => {
                write!(
                    f,
                    "the new worker in slot {slot} ended before it took over: {exit}"
                )
            }
            Self::BootTimedOut { slot, after, .. } => {
                write!(
                    f,
                    "the new worker in slot {slot} was not ready within {after:?}"
                )
            }
            Self::Killed { slot, cause, .. } => {
                write!(f, "the new worker in slot {slot} was killed: {cause}")
            }
            Self::Superseded => f.write_str("superseded by a later request"),
            Self::Stopping => f.write_str("the supervisor is stopping"),
            Self::NoSuchSlot { slot, desired: 0 } => {
                write!(f, "there is no slot {slot}: no workers are wanted")
            }
            Self::NoSuchSlot { slot, desired } => {
                write!(f, "there is no slot {slot}: slots are 0 to {}", desired - 1)
            }
        }
    }
}

impl core::error::Error for Failure {}

/// Something that happened to the workers or to an operation, for the log and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incident {
    /// A worker became ready.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Its generation.
        generation: Generation,
        /// Time from its start until it was ready.
        after: Duration,
    },
    /// The worker of a slot ended without a planned replacement: it exited, was killed, or was
    /// stopped because it was not ready in time.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// How it ended.
        exit: Exit,
        /// Whether the supervisor stopped it because it was not ready in time.
        late: bool,
        /// How long it had been ready; `None` if it never was.
        ready_for: Option<Duration>,
        /// Time until the next worker of the slot starts.
        restart_in: Duration,
    },
    /// The worker of a slot exited by itself with code 0, after it had served or had been ready for
    /// long. The next worker starts immediately.
    Finished {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// How long it had been ready.
        after: Duration,
    },
    /// A worker was not ready within the boot timeout and is being stopped.
    BootTimedOut {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// The boot timeout.
        after: Duration,
    },
    /// A draining worker ended before the supervisor stopped it.
    EndedDraining {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// How it ended.
        exit: Exit,
    },
    /// A worker still had work in flight at the end of the drain timeout, so it gets the
    /// stop signal.
    DrainTimedOut {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
    },
    /// A worker did not end within the grace period after its stop signal, so it is killed.
    KilledAfterGrace {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
    },
    /// The supervisor has begun to replace a worker by its own decision.
    RecycleBegan {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// The reason.
        cause: Cause,
    },
    /// The supervisor kills a worker immediately.
    Killed {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// The reason.
        cause: Cause,
    },
    /// A reload has begun.
    ReloadBegan {
        /// The new generation.
        generation: Generation,
    },
    /// All workers are of the new generation, and the old ones are reaped.
    ReloadFinished {
        /// The new generation.
        generation: Generation,
        /// Time since the reload began.
        took: Duration,
    },
    /// A reload failed; workers that it had not replaced yet keep serving.
    ReloadFailed {
        /// The generation that the reload would have begun.
        generation: Generation,
        /// The reason.
        failure: Failure,
    },
    /// The restart of one slot or the recycling of its worker failed; the old worker keeps serving.
    RestartFailed {
        /// The reason.
        failure: Failure,
    },
    /// No worker was ever ready, and every slot failed three times.
    NothingStarts {
        /// How the last worker ended.
        exit: Exit,
        /// Whether the supervisor stopped that worker because it was not ready in time.
        late: bool,
    },
}

impl Incident {
    /// Whether the incident is a failure: it is logged as a warning instead of a notice.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Ready { .. }
            | Self::Finished { .. }
            | Self::RecycleBegan { .. }
            | Self::ReloadBegan { .. }
            | Self::ReloadFinished { .. }
            | Self::EndedDraining {
                exit: Exit::Code(0),
                ..
            } => false,
            Self::ReloadFailed { failure, .. } | Self::RestartFailed { failure } => {
                *failure != Failure::Stopping
            }
            _ => true,
        }
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready {
                slot,
                generation,
                after,
                ..
            } => {
                write!(
                    f,
                    "worker {slot} (generation {generation}) ready after {after:.1?}"
                )
            }
            Self::Exited {
                slot,
                exit,
                late,
                ready_for,
                restart_in,
                ..
            } => {
                let how = if *late {
                    "has ended"
                } else {
                    "ended unexpectedly"
                };
                write!(f, "worker {slot} {how}: {exit}, ")?;
                write_next(f, *ready_for, *restart_in)
            }
            Self::Finished { slot, after, .. } => write!(
                f,
                "worker {slot} ended by itself with exit code 0 after {after:.1?} of service; the \
                 next one starts at once"
            ),
            Self::BootTimedOut { slot, after, .. } => write!(
                f,
                "worker {slot} was not ready within {after:?} and is ended (the boot timeout)"
            ),
            Self::EndedDraining { slot, exit, .. } => {
                write!(f, "worker {slot} ended while draining: {exit}")
            }
            Self::DrainTimedOut { slot, .. } => write!(
                f,
                "worker {slot} still had work at the end of the drain timeout; it gets the stop signal"
            ),
            Self::KilledAfterGrace { slot, .. } => {
                write!(
                    f,
                    "worker {slot} did not end in time after the stop signal (--stop-grace) and is killed"
                )
            }
            Self::RecycleBegan { slot, cause, .. } => {
                write!(f, "worker {slot} is replaced: {cause}")
            }
            Self::Killed { slot, cause, .. } => write!(f, "worker {slot} is killed: {cause}"),
            Self::ReloadBegan { generation } => {
                write!(f, "reload to generation {generation} began")
            }
            Self::ReloadFinished { generation, took } => {
                write!(
                    f,
                    "reload to generation {generation} finished in {took:.1?}"
                )
            }
            Self::ReloadFailed {
                generation,
                failure,
            } => {
                write!(
                    f,
                    "reload to generation {generation} failed: {failure}; the old workers stay"
                )
            }
            Self::RestartFailed { failure } => {
                write!(f, "restart failed: {failure}; the old worker stays")
            }
            Self::NothingStarts { exit, late } => write_nothing_starts(f, *exit, *late),
        }
    }
}

fn write_nothing_starts(f: &mut fmt::Formatter<'_>, exit: Exit, late: bool) -> fmt::Result {
    f.write_str("no worker ever became ready, and every slot failed three times; last: ")?;
    match exit {
        _ if late => f.write_str("it was not ready in time"),
        Exit::Code(0) => write!(f, "{exit}; run the app in the foreground, not as a daemon"),
        _ => write!(f, "{exit}"),
    }
}

fn write_next(
    f: &mut fmt::Formatter<'_>,
    ready_for: Option<Duration>,
    restart_in: Duration,
) -> fmt::Result {
    match ready_for {
        Some(ready_for) => write!(f, "after {ready_for:.1?} of service")?,
        None => f.write_str("before it was ready")?,
    }
    match restart_in {
        Duration::ZERO => f.write_str("; restarting at once"),
        delay => write!(f, "; restarting in {delay:.1?}"),
    }
}
