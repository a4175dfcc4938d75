//! What can happen to the engine.

use core::fmt;

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
    /// End everything. Quick skips the drain; a second quick one kills.
    Stop {
        /// No drain.
        quick: bool,
    },
    /// Time has passed: [`crate::Engine::deadline`] is reached.
    Wake,
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
