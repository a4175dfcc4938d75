//! What can happen to the engine.

use core::fmt;
use core::time::Duration;

use crate::ids::{OperationId, Slot, WorkerId};

/// A fact or a wish, told by the shell.
///
/// Late and doubled facts (a worker that is gone, [`Event::Drained`] twice,
/// [`Event::Ready`] of a draining worker) change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The process exists; its boot time-out counts from here.
    Spawned(WorkerId),
    /// The worker can take work.
    Ready(WorkerId),
    /// The process is reaped, or could not be started.
    Exited(WorkerId, Exit),
    /// Nothing is in flight at a draining worker any more.
    Drained(WorkerId),
    /// So many workers are wanted from now on.
    Scale {
        /// How many; 0 is allowed.
        workers: u32,
        /// Settled when the wanted are ready and the surplus is reaped.
        operation: Option<OperationId>,
    },
    /// Replace all workers by a new generation.
    Reload {
        /// Settled when the old generation is reaped.
        operation: Option<OperationId>,
    },
    /// Replace the worker of one slot, in the same generation.
    Restart {
        /// Which slot.
        slot: Slot,
        /// Settled when the old worker is reaped.
        operation: Option<OperationId>,
    },
    /// Replace a worker that serves well enough, before it does not: in the same
    /// slot and generation, one at a time.
    Recycle {
        /// Which one.
        worker: WorkerId,
        /// Why.
        cause: Cause,
        /// Whether its successor starts beside it. Where there is no memory for
        /// both it drains and ends first, and requests wait for the successor.
        surge: bool,
    },
    /// End a worker by SIGKILL now: waiting for it would harm the others.
    Kill {
        /// Which one.
        worker: WorkerId,
        /// Why.
        cause: Cause,
    },
    /// Whether there is no memory for a worker beside all that run. A reload then
    /// waits for those that leave before it starts the next one.
    Crowded(bool),
    /// The worker has done work, such as answered requests: told before its
    /// [`Event::Exited`], so that an orderly end is not taken for a crash.
    Served(WorkerId),
    /// The machine gave us no time for so long (a quota, a paused virtual
    /// machine): what starts is not slow by itself.
    Starved(Duration),
    /// End everything. Quick skips the drain; a second quick one kills.
    Stop {
        /// No drain.
        quick: bool,
    },
    /// Time has passed: [`crate::Engine::deadline`] is reached.
    Wake,
}

/// Why the supervisor replaces a worker by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It has more memory than one worker may have.
    Memory {
        /// What it has.
        bytes: u64,
        /// What it may have.
        limit: u64,
    },
    /// The container is nearly full and this worker has the most; the kernel
    /// would end all of them.
    Container {
        /// What the worker has.
        bytes: u64,
        /// What the container has and cannot give back.
        used: u64,
        /// What the container may have.
        limit: u64,
    },
    /// It has answered so many requests.
    Requests {
        /// How many.
        served: u64,
    },
    /// It has run for so long.
    Age {
        /// Since it was ready.
        age: Duration,
    },
    /// It has closed the socket that it was reached at, and lives on.
    NotListening,
    /// It has work and shows no sign of life.
    Hung {
        /// For how long.
        silent: Duration,
    },
}

impl Cause {
    /// One word for events and metric labels.
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

/// Mebibytes, rounded.
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
            Self::NotListening => f.write_str("it listens no more"),
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
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It never ran.
    Spawn {
        /// 127 not found, 126 not executable (POSIX shell, 2.8.2).
        code: i32,
    },
}

impl Exit {
    /// As a shell reports it: 128+n for signals.
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
