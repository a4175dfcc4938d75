//! What the supervisor's loop is told: everything that happens outside of it comes
//! as one [`Input`].
//!
//! What an input means is decided by the loop.

use std::collections::HashMap;
use std::net::SocketAddr;

use rustix::process::Signal;
use scaledapp_engine::{Exit, WorkerId};
use tokio::sync::mpsc;

use crate::cores::WorkerSpec;
use crate::ctl::server::Asked;
use crate::handover::Told;
use crate::process::Reaped;
use crate::readiness::Sign;

/// Something that happened outside.
#[derive(Debug)]
pub(crate) enum Input {
    /// A child ended.
    Reaped(Reaped),
    /// What a stopped worker had started is gone as well, or was killed.
    GroupEnded(WorkerId, Exit),
    /// A worker made a call that told something.
    Told(WorkerId, Told),
    /// A worker has shown something of what makes it ready.
    Shows(WorkerId, Sign),
    /// A connection to where it listened was refused.
    Refuses {
        /// Which one.
        worker: WorkerId,
        /// The shared port.
        port: u16,
        /// Where it was reached.
        address: SocketAddr,
    },
    /// It closed its listener some time ago.
    StillDeaf(WorkerId),
    /// It began to listen on another port some time ago.
    StillElsewhere(WorkerId),
    /// Nothing is in flight at a draining worker any more.
    Drained(WorkerId),
    /// Somebody asked through the control socket.
    Asked(Asked),
    /// A new wish for the number of workers.
    Workers(WorkerSpec),
    /// Reload (HUP).
    Reload,
    /// Reload, and show under this token how it went (desired-state file).
    ReloadTo(String),
    /// One worker more or less (TTIN, TTOU).
    Step(i32),
    /// A signal that only the app can understand.
    PassOn(Signal),
    /// End: drain first, or quickly.
    Stop {
        /// No drain.
        quick: bool,
    },
    /// The public listener has drained: the workers may go.
    FrontDrained {
        /// Whether that took as long as it may: nothing is waited for any more.
        is_late: bool,
    },
    /// Time to look at what workers have and do.
    Look,
    /// Whether a silent worker has accepted a connection.
    Accepts(WorkerId, bool),
    /// Connections that each worker holds (Connection dispatch).
    Held {
        /// By process group.
        by_group: HashMap<u32, u32>,
        /// Not accepted yet.
        queued: u32,
    },
}

/// How workers get the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// seccomp notification.
    Notify,
    /// A private port in `PORT`.
    Port,
    /// Not at all: the app never listens.
    Nothing,
}

impl Mechanism {
    /// As status and logs show it.
    pub(crate) fn shown(self) -> scaledapp_wire::Mechanism {
        match self {
            Self::Notify => scaledapp_wire::Mechanism::Notify,
            Self::Port => scaledapp_wire::Mechanism::Port,
            Self::Nothing => scaledapp_wire::Mechanism::None,
        }
    }
}

/// Passes on the inputs of one source until the source or the loop has ended.
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
