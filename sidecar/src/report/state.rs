//! What a report is made of: what the loop puts there, and what happened so far.
//!
//! Only data; `report` writes it and answers from it, `metrics` reads it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use scaledapp_engine::WorkerState;
use scaledapp_proxy::Endpoint;

use crate::history::History;
use crate::scrape::Scraper;

/// One worker as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct WorkerReport {
    pub(crate) slot: u32,
    pub(crate) pid: u32,
    pub(crate) state: WorkerState,
    /// When it came into its state.
    pub(crate) since: Instant,
    /// When its process was started.
    pub(crate) started: Instant,
    pub(crate) generation: u32,
    pub(crate) restarts: u32,
    pub(crate) listens_elsewhere: Option<u16>,
    /// Where it alone is reached, by port.
    pub(crate) addresses: BTreeMap<u16, SocketAddr>,
    /// In Request dispatch, for each shared port.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// The state of all workers, as the loop puts it here after each input.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// By slot, then by generation.
    pub(crate) workers: Vec<WorkerReport>,
    pub(crate) generation: u32,
    /// Workers wanted.
    pub(crate) desired: u32,
    /// By slot, workers that ended without having been told to.
    pub(crate) restarts: Vec<u32>,
    /// Slots whose worker is ready.
    pub(crate) ready: u32,
    /// The supervisor is about to end.
    pub(crate) draining: bool,
}

impl Standing {
    /// At least one worker serves, and the supervisor is not about to end.
    pub(super) fn is_ready(&self) -> bool {
        self.ready > 0 && !self.draining
    }
}

/// What the loop has put here.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) standing: Standing,
    /// Open connections by process group (Connection dispatch).
    pub(super) held: HashMap<u32, u32>,
    pub(super) queued: u32,
    /// Token of the last reload by file that went through.
    pub(super) reloaded: Option<String>,
    /// Token of the last one that failed, if none has gone through since.
    pub(super) reload_failed: Option<String>,
}

/// How often each kind of incident happened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) restarts: AtomicU64,
    pub(super) boot_timeouts: AtomicU64,
    pub(super) kills: AtomicU64,
    pub(super) reloads: AtomicU64,
    pub(super) failed_reloads: AtomicU64,
}

/// What the admin port and its metrics read.
#[derive(Default)]
pub(super) struct State {
    pub(super) view: Mutex<View>,
    pub(super) counts: Counts,
    pub(super) history: Mutex<History>,
    /// Lines of workers that were dropped, counted where they are relayed.
    pub(super) lines_dropped: OnceLock<Arc<AtomicU64>>,
    pub(super) scraper: OnceLock<Scraper>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// Every value under these locks is replaced as a whole, so that a panic leaves none
/// half-written.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
