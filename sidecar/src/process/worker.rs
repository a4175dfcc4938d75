//! The state that the supervisor keeps for one running worker process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use scaledapp_engine::{Exit, Generation, Slot};
use tokio::task::AbortHandle;

use crate::limits::accept_probe::AcceptProbe;
use crate::limits::silence::Silence;
use crate::limits::waiting::WaitingThread;
use crate::logs::Tail;
use crate::readiness::PassedChecks;
use crate::readiness::channel::Channel;

/// A running worker process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Whether it may reset connections whose bytes it has read (`handover::calls::Caller`).
    pub(crate) resets: Arc<AtomicBool>,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) tail: Tail,
    /// Its own addresses by shared port, once it listens.
    pub(crate) addresses: BTreeMap<u16, SocketAddr>,
    pub(crate) listens_elsewhere: Option<u16>,
    /// The readiness checks that it has passed.
    pub(crate) passed: PassedChecks,
    /// Its message channel.
    pub(crate) channel: Option<Channel>,
    /// The state of its accept probe (Request dispatch).
    pub(crate) accept_probe: AcceptProbe,
    /// The thread that waited for connections at the last check (Connection dispatch).
    pub(crate) waiting_thread: Option<WaitingThread>,
    pub(crate) silence: Silence,
    /// Whether it had none of the shared sockets open at the last check.
    pub(crate) has_closed: bool,
    /// Whether it is being replaced because of its memory.
    pub(crate) has_swollen: bool,
    /// The number of its processes, descendants included, at the last count.
    pub(crate) family: usize,
    /// Whether it runs Node, once that is known.
    pub(crate) is_node: Option<bool>,
    /// How it ended, while other processes of its group are still ending.
    pub(crate) left: Option<Exit>,
    /// The task that checks its readiness.
    pub(crate) probe: Option<AbortHandle>,
    /// Other tasks that end together with it.
    pub(crate) tasks: Vec<AbortHandle>,
}

impl Drop for Process {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.probe) {
            task.abort();
        }
    }
}
