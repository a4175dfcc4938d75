//! The events that the engine reacts to.

use core::fmt;
use core::time::Duration;

use crate::ids::{OperationId, Slot, WorkerId};

/// A fact or a request, sent by the shell.
///
/// Late and repeated facts change nothing, for example any event of a reaped worker, a second
/// [`Event::Drained`], or [`Event::Ready`] of a draining worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The process exists; its boot timeout starts now.
    Spawned(WorkerId),
    /// The worker can take work.
    Ready(WorkerId),
    /// The process is reaped, or it could not be started.
    Exited(WorkerId, Exit),
    /// A draining worker has nothing in flight any more.
    Drained(WorkerId),
    /// Change the number of workers.
    Scale {
        /// The new number; 0 is allowed.
        workers: u32,
        /// The operation to settle when the desired workers are ready and the surplus ones are
        /// reaped.
        operation: Option<OperationId>,
    },
    /// Replace all workers by a new generation.
    Reload {
        /// The operation to settle when the old generation is reaped.
        operation: Option<OperationId>,
    },
    /// Replace the worker of one slot within the same generation.
    Restart {
        /// The slot.
        slot: Slot,
        /// The operation to settle when the old worker is reaped.
        operation: Option<OperationId>,
    },
    /// Replace a worker that still serves, before it does harm: in the same slot and
    /// generation, one worker at a time.
    Recycle {
        /// The worker.
        worker: WorkerId,
        /// The reason.
        cause: Cause,
        /// Whether its successor starts beside it. If there is not enough memory for both,
        /// the worker drains and ends first, and requests wait for the successor.
        surge: bool,
    },
    /// Kill a worker now, because waiting for it would harm the others.
    Kill {
        /// The worker.
        worker: WorkerId,
        /// The reason.
        cause: Cause,
    },
    /// Whether there is no memory for one more worker. If so, a reload waits until
    /// the draining and stopping workers have ended before it starts the next worker.
    Crowded(bool),
    /// The worker has done work, such as answered requests. This event is sent before the worker's
    /// [`Event::Exited`], so that an orderly exit is not mistaken for a crash.
    Served(WorkerId),
    /// The supervisor got no CPU time for this long (a quota, a paused virtual machine), so
    /// a slow start is not the worker's fault.
    Starved(Duration),
    /// End everything. A quick stop skips the drain; a second quick stop kills.
    Stop {
        /// Whether to skip the drain.
        quick: bool,
    },
    /// The time of [`crate::Engine::deadline`] has come.
    Wake,
}

/// Why the supervisor replaces or kills a worker by its own decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The worker uses more memory than one worker may.
    Memory {
        /// The worker's memory.
        bytes: u64,
        /// The limit of one worker.
        limit: u64,
    },
    /// The container is nearly full, and this worker uses the most memory. At the limit the
    /// kernel would kill processes of its own choice.
    Container {
        /// The worker's memory.
        bytes: u64,
        /// Memory that the container uses and cannot give back.
        used: u64,
        /// The container's limit.
        limit: u64,
    },
    /// It has answered its maximum number of requests.
    Requests {
        /// The number of answered requests.
        served: u64,
    },
    /// It has reached its maximum age.
    Age {
        /// Time since it became ready.
        age: Duration,
    },
    /// It has closed its listening socket but still runs.
    NotListening,
    /// It has work but makes no progress.
    Hung {
        /// How long it has made no progress.
        silent: Duration,
    },
}

impl Cause {
    /// One word for Kubernetes events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "MaxMemory",
            Self::Container { .. } => "ContainerMemory",
            Self::Requests { .. } => "MaxRequests",
            Self::Age { .. } => "MaxAge",
            Self::NotListening => "NotListening",
            Self::Hung { .. } => "Hung",
        }
    }
}

/// A number of bytes, shown in rounded mebibytes.
struct Mebibytes(u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", (self.0 + (1 << 19)) >> 20)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Memory { bytes, limit } => write!(
                f,
                "it has {} of memory, more than {}",
                Mebibytes(bytes),
                Mebibytes(limit)
            ),
            Self::Container { bytes, used, limit } => write!(
                f,
                "the container uses {} of its {}, and this worker has {} of it, the most",
                Mebibytes(used),
                Mebibytes(limit),
                Mebibytes(bytes)
            ),
            Self::Requests { served } => write!(f, "it has answered {served} requests"),
            Self::Age { age } => write!(f, "it has run for {age:.0?}"),
            Self::NotListening => f.write_str("it no longer listens"),
            Self::Hung { silent } => {
                write!(
                    f,
                    "it has work and has shown no sign of life for {silent:.1?}"
                )
            }
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
    /// It could not be started.
    Spawn {
        /// 127: not found, 126: not executable (POSIX shell, 2.8.2).
        code: i32,
    },
}

impl Exit {
    /// The exit code as a shell reports it: 128+n after signal n.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) | Self::Spawn { code } => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Spawn { code: 127 } => f.write_str("command not found"),
            Self::Spawn { code: 126 } => f.write_str("command cannot be executed"),
            Self::Spawn { code } => write!(f, "command cannot be started ({code})"),
        }
    }
}
