//! What is known of one running worker process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use scaledapp_engine::{Exit, Generation, Slot};
use tokio::task::AbortHandle;

use crate::limits::ears::Ear;
use crate::limits::hearing::Hearing;
use crate::limits::silence::Silence;
use crate::logs::Tail;
use crate::readiness::Shown;
use crate::readiness::channel::Channel;

/// A running worker process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Some socket of it may reset what it has not read (`handover::Caller`).
    pub(crate) resets: Arc<AtomicBool>,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) tail: Tail,
    /// Where it alone is reached, by shared port, once it listens.
    pub(crate) addresses: BTreeMap<u16, SocketAddr>,
    pub(crate) listens_elsewhere: Option<u16>,
    /// What it has shown of what makes it ready.
    pub(crate) shown: Shown,
    /// Where messages come from and go to.
    pub(crate) channel: Option<Channel>,
    /// What is known of whether it accepts connections.
    pub(crate) hearing: Hearing,
    /// The thread that was found waiting for connections (Connection dispatch).
    pub(crate) ear: Option<Ear>,
    pub(crate) silence: Silence,
    /// It held none of the shared sockets when that was looked at last.
    pub(crate) has_closed: bool,
    /// It is replaced because of its memory.
    pub(crate) has_swollen: bool,
    /// How many processes it and its descendants were when they were counted last.
    pub(crate) family: usize,
    /// Whether Node runs there, once it is known.
    pub(crate) is_node: Option<bool>,
    /// How it ended, while others of its group still end.
    pub(crate) left: Option<Exit>,
    /// Asks whether it is ready.
    pub(crate) probe: Option<AbortHandle>,
    /// What else waits for it and is pointless without it.
    pub(crate) tasks: Vec<AbortHandle>,
}

impl Drop for Process {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.probe) {
            task.abort();
        }
    }
}
