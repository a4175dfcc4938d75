//! The inputs of the supervisor's loop: every outside event reaches it as one [`Input`].
//!
//! The loop decides what an input means.

use std::collections::HashMap;
use std::net::SocketAddr;

use rustix::process::Signal;
use scaledapp_engine::{Exit, WorkerId};
use tokio::sync::mpsc;

use crate::ctl::server::ControlRequest;
use crate::handover::calls::Finding;
use crate::process::Reaped;
use crate::range::WorkerRange;
use crate::readiness::Check;

/// An outside event.
#[derive(Debug)]
pub(crate) enum Input {
    /// A child ended.
    Reaped(Reaped),
    /// All processes that a stopped worker had started have ended too, or were killed.
    GroupEnded(WorkerId, Exit),
    /// A call of a worker has revealed something.
    Found(WorkerId, Finding),
    /// A worker has passed one of its readiness checks.
    Passed(WorkerId, Check),
    /// A connection to a worker's address was refused.
    Refuses {
        /// The worker.
        worker: WorkerId,
        /// The shared port.
        port: u16,
        /// The address.
        address: SocketAddr,
    },
    /// A worker closed its listener some time ago.
    StillNotListening(WorkerId),
    /// A worker began to listen on another port some time ago.
    StillElsewhere(WorkerId),
    /// Nothing is in flight at a draining worker any more.
    Drained(WorkerId),
    /// A request came through the control socket.
    Control(ControlRequest),
    /// A new number or range of workers (desired-state file).
    Workers(WorkerRange),
    /// Reload (HUP).
    Reload,
    /// Reload and report the result under this token (desired-state file).
    ReloadTo(String),
    /// One worker more or less (TTIN, TTOU).
    Step(i32),
    /// A signal whose meaning only the app knows.
    PassOn(Signal),
    /// Stop, with or without a drain.
    Stop {
        /// Whether to skip the drain.
        quick: bool,
    },
    /// The public listener has drained, so the workers may end.
    FrontDrained {
        /// Whether the deadline was reached, so that the supervisor waits no longer.
        is_late: bool,
    },
    /// It is time to measure the workers.
    Look,
    /// Whether a silent worker has accepted a connection.
    Accepts(WorkerId, bool),
    /// The number of open connections of each worker (Connection dispatch).
    OpenConnections {
        /// By process group.
        by_group: HashMap<u32, u32>,
        /// Connections that are not accepted yet.
        queued: u32,
    },
}

/// How workers get the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// By seccomp notification.
    Notify,
    /// By a private port in `PORT`.
    Port,
    /// Not at all: the app never listens.
    Nothing,
}

impl Mechanism {
    /// The value for status and logs.
    pub(crate) fn shown(self) -> scaledapp_wire::Mechanism {
        match self {
            Self::Notify => scaledapp_wire::Mechanism::Notify,
            Self::Port => scaledapp_wire::Mechanism::Port,
            Self::Nothing => scaledapp_wire::Mechanism::None,
        }
    }
}

/// Forwards the inputs of one source until the source or the loop has ended.
pub(crate) fn forward(
    inputs: mpsc::UnboundedSender<Input>,
    mut next: impl AsyncFnMut() -> Option<Input> + 'static,
) {
    tokio::task::spawn_local(async move {
        while let Some(input) = next().await {
            if inputs.send(input).is_err() {
                return;
            }
        }
    });
}
