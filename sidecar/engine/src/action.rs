//! What the engine wants done, and what it has to say about it.

use core::fmt;
use core::time::Duration;

use crate::event::{Cause, Exit};
use crate::ids::{Generation, OperationId, Slot, WorkerId};

/// Something for the shell to do; in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a process.
    Spawn {
        /// Its name from now on.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Its generation.
        generation: Generation,
    },
    /// Connection dispatch: new connections go to this generation from now on,
    /// and to no other.
    Activate {
        /// Which one.
        generation: Generation,
    },
    /// Give this worker no new work; answer [`crate::Event::Drained`] when
    /// nothing is in flight.
    Drain {
        /// Which one.
        worker: WorkerId,
    },
    /// Send the stop signal to its process group.
    Terminate {
        /// Which one.
        worker: WorkerId,
    },
    /// Send SIGKILL to its process group.
    Kill {
        /// Which one.
        worker: WorkerId,
    },
    /// Tell whoever waits for it; exactly once for each operation.
    Settle {
        /// Which one.
        operation: OperationId,
        /// How it went.
        result: Result<(), Failure>,
    },
    /// For log and metrics.
    Report(Incident),
    /// Everything is reaped: end with this code. Nothing comes after it.
    Exit {
        /// 0 after a stop, else the app's own.
        code: i32,
    },
}

/// Why an operation did not do what was asked.
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
    /// A new worker was not ready in time.
    BootTimedOut {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// The boot time-out.
        after: Duration,
    },
    /// The supervisor had to end a new worker.
    Killed {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Why.
        cause: Cause,
    },
    /// A later wish of the same kind took its place.
    Superseded,
    /// The supervisor is stopping.
    Stopping,
    /// There is no such slot (any more).
    NoSuchSlot {
        /// The slot named.
        slot: Slot,
        /// How many there are.
        desired: u32,
    },
}

impl Failure {
    /// The slot whose worker caused it.
    pub fn slot(&self) -> Option<Slot> {
        match *self {
            Self::Exited { slot, .. }
            | Self::BootTimedOut { slot, .. }
            | Self::Killed { slot, .. } => Some(slot),
            Self::Superseded | Self::Stopping | Self::NoSuchSlot { .. } => None,
        }
    }

    /// The worker that caused it.
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

/// Something worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incident {
    /// A worker takes work.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Its generation.
        generation: Generation,
        /// From its start.
        after: Duration,
    },
    /// The worker of a slot ended without having been told to, or after it was
    /// not ready in time.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// How.
        exit: Exit,
        /// It had been told to, since it was not ready in time.
        late: bool,
        /// How long it had been ready; `None`: never.
        ready_for: Option<Duration>,
        /// When the next one starts, from now.
        restart_in: Duration,
    },
    /// The worker of a slot ended by itself as one that has done its work does; the
    /// next one starts at once.
    Finished {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// How long it had been ready.
        after: Duration,
    },
    /// A worker was not ready in time and is ended.
    BootTimedOut {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// The boot time-out.
        after: Duration,
    },
    /// A draining worker ended before it was told to.
    EndedDraining {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// How.
        exit: Exit,
    },
    /// Work was still in flight at the end of the drain time-out; the worker gets the
    /// stop signal.
    DrainTimedOut {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
    },
    /// The stop signal did not end the worker within the grace.
    KilledAfterGrace {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
    },
    /// The supervisor replaces a worker by itself.
    RecycleBegan {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Why.
        cause: Cause,
    },
    /// The supervisor ends a worker at once.
    Killed {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Why.
        cause: Cause,
    },
    /// A reload has begun.
    ReloadBegan {
        /// The new generation.
        generation: Generation,
    },
    /// All workers are of the new generation, the old ones are reaped.
    ReloadFinished {
        /// The new generation.
        generation: Generation,
        /// From its begin.
        took: Duration,
    },
    /// A reload stopped; workers not replaced by then keep serving.
    ReloadFailed {
        /// The generation that was to come.
        generation: Generation,
        /// Why.
        failure: Failure,
    },
    /// The restart of one slot stopped; its old worker keeps serving.
    RestartFailed {
        /// Why.
        failure: Failure,
    },
    /// No worker was ever ready and every slot failed three times.
    NothingStarts {
        /// The last failure.
        exit: Exit,
        /// It was that a worker was not ready in time.
        late: bool,
    },
}

impl Incident {
    /// Whether something went wrong (a warning rather than a notice).
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
                "worker {slot} ended by itself, exit code 0, after {after:.1?} of service; the \
                 next one starts at once"
            ),
            Self::BootTimedOut { slot, after, .. } => write!(
                f,
                "worker {slot} was not ready within {after:?} and is ended (the boot time-out)"
            ),
            Self::EndedDraining { slot, exit, .. } => {
                write!(f, "worker {slot} ended while draining: {exit}")
            }
            Self::DrainTimedOut { slot, .. } => write!(
                f,
                "worker {slot} still had work at the end of the drain time-out; it gets the stop signal"
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
    f.write_str("no worker ever became ready, every slot failed three times; last: ")?;
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
