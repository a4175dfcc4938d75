//! The data of a report: the state that the loop writes, and what has happened so far.
//!
//! This file has data only; `report` writes it and answers from it, `metrics` reads it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use scaledapp_engine::WorkerState;
use scaledapp_proxy::Endpoint;

use crate::history::History;
use crate::scaling::{Change, Shown};
use crate::scrape::Scraper;

/// One worker, as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct WorkerReport {
    pub(crate) slot: u32,
    pub(crate) pid: u32,
    pub(crate) state: WorkerState,
    /// When it entered its state.
    pub(crate) since: Instant,
    /// When its process started.
    pub(crate) started: Instant,
    pub(crate) generation: u32,
    pub(crate) restarts: u32,
    pub(crate) listens_elsewhere: Option<u16>,
    /// Its own addresses by port.
    pub(crate) addresses: BTreeMap<u16, SocketAddr>,
    /// In Request dispatch, its endpoint for each shared port.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// The state of all workers, which the loop writes here after each input.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Sorted by slot, then by generation.
    pub(crate) workers: Vec<WorkerReport>,
    pub(crate) generation: u32,
    /// The desired number of workers.
    pub(crate) desired: u32,
    /// By slot: how many workers ended without a planned replacement.
    pub(crate) restarts: Vec<u32>,
    /// The number of slots whose worker is ready.
    pub(crate) ready: u32,
    /// The range of the number of workers, if there is one.
    pub(crate) scaling: Option<Shown>,
    /// Whether the supervisor is about to end.
    pub(crate) draining: bool,
}

impl Standing {
    /// Whether at least one worker serves and the supervisor is not about to end.
    pub(super) fn is_ready(&self) -> bool {
        self.ready > 0 && !self.draining
    }
}

/// The state that the loop has written.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) standing: Standing,
    /// Open connections by process group (Connection dispatch).
    pub(super) open_connections: HashMap<u32, u32>,
    pub(super) queued: u32,
    /// The token of the last reload by file that succeeded.
    pub(super) reloaded: Option<String>,
    /// The token of the last reload by file that failed, if none has succeeded since.
    pub(super) reload_failed: Option<String>,
}

/// The number of incidents of each kind.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) restarts: AtomicU64,
    pub(super) boot_timeouts: AtomicU64,
    pub(super) kills: AtomicU64,
    pub(super) reloads: AtomicU64,
    pub(super) failed_reloads: AtomicU64,
}

/// How often the number of workers was changed, by direction and reason.
#[derive(Debug, Default)]
pub(super) struct Scaled(pub(super) BTreeMap<(&'static str, &'static str), u64>);

impl Scaled {
    pub(super) fn add(&mut self, change: &Change) {
        let direction = if change.to > change.from {
            "up"
        } else {
            "down"
        };
        *self
            .0
            .entry((direction, change.reason.as_str()))
            .or_default() += 1;
    }
}

/// The state that the admin port and its metrics read.
#[derive(Default)]
pub(super) struct State {
    pub(super) view: Mutex<View>,
    pub(super) counts: Counts,
    pub(super) scaled: Mutex<Scaled>,
    pub(super) history: Mutex<History>,
    /// The number of dropped lines of workers, counted by the log relay.
    pub(super) lines_dropped: OnceLock<Arc<AtomicU64>>,
    pub(super) scraper: OnceLock<Scraper>,
    /// How long the first ready worker took to start.
    pub(super) first_boot: OnceLock<Duration>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// Locks a mutex, even if another thread panicked while it held the lock. The values under these
/// locks are usable after each step of an update, so a panic between two steps does no harm.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
