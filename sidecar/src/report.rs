//! What the supervisor shows: `/livez /readyz /metrics /metrics/app /status /watch`.
//!
//! The loop puts its state here; the admin port reads it. Nothing here can
//! change anything, and neither environment nor arguments of the app are shown.

mod metrics;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use scaledapp_admin::{Page, Probe, Routes};
use scaledapp_engine::Incident;
use scaledapp_proxy::{Endpoint, Proxy};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::events::Events;
use crate::history::{Ended, History};
use crate::memory;
use crate::process::cpu_time;
use crate::scrape::{Scraper, Target};

/// Events that `describe` shows of a slot.
const EVENTS_OF_SLOT: usize = 10;

/// One worker as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct WorkerReport {
    pub(crate) slot: u32,
    pub(crate) pid: u32,
    pub(crate) state: String,
    pub(crate) generation: u32,
    pub(crate) restarts: u32,
    pub(crate) listens_elsewhere: Option<u16>,
    /// Where it alone is reached, by shared port.
    pub(crate) addresses: BTreeMap<u16, SocketAddr>,
    /// In Request dispatch, for each shared port.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// Since when a process is there, and since when in its state.
#[derive(Debug, Clone)]
struct Seen {
    begun: Instant,
    state: String,
    since: Instant,
}

#[derive(Debug, Default)]
struct View {
    workers: Vec<WorkerReport>,
    /// By pid; a pid is not used again before its worker is gone from `workers`.
    seen: HashMap<u32, Seen>,
    generation: u32,
    desired: u32,
    ready: u32,
    draining: bool,
    /// Connections by process group (Connection dispatch).
    held: HashMap<u32, u32>,
    queued: u32,
    /// The last reload that was asked for by file and went through, by its token.
    reloaded: Option<String>,
    /// The last one that did not, unless another has since.
    reload_failed: Option<String>,
}

/// Counters of what went on, by kind.
#[derive(Debug, Default)]
struct Counts {
    restarts: AtomicU64,
    boot_timeouts: AtomicU64,
    kills: AtomicU64,
    reloads: AtomicU64,
    failed_reloads: AtomicU64,
}

/// The state as the admin port sees it.
pub(crate) struct Report {
    mechanism: &'static str,
    dispatch: &'static str,
    view: Mutex<View>,
    counts: Counts,
    events: Mutex<Events>,
    history: Mutex<History>,
    /// Lines of workers that were dropped, counted by who relays them.
    lines_dropped: OnceLock<Arc<AtomicU64>>,
    scraper: OnceLock<Scraper>,
    /// In Request dispatch, of each shared port.
    proxies: Vec<Arc<Proxy>>,
    registry: Mutex<Registry>,
    snapshot: watch::Sender<Bytes>,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").finish_non_exhaustive()
    }
}

impl Report {
    /// Nothing runs yet. `registry` holds the dispatcher's metrics already.
    pub(crate) fn new(
        mechanism: &'static str,
        dispatch: &'static str,
        proxies: Vec<Arc<Proxy>>,
        registry: Registry,
    ) -> Arc<Self> {
        let report = Arc::new(Self {
            mechanism,
            dispatch,
            view: Mutex::default(),
            counts: Counts::default(),
            events: Mutex::default(),
            history: Mutex::default(),
            lines_dropped: OnceLock::new(),
            scraper: OnceLock::new(),
            proxies,
            registry: Mutex::new(registry),
            snapshot: watch::Sender::new(Bytes::new()),
        });
        let collector = Box::new(metrics::Workers(Arc::downgrade(&report)));
        lock(&report.registry).register_collector(collector);
        report.publish();
        report
    }

    /// The loop's new state; a change of readiness or drain goes out at once.
    pub(crate) fn update(
        &self,
        workers: Vec<WorkerReport>,
        generation: u32,
        desired: u32,
        ready: u32,
        draining: bool,
    ) {
        {
            let mut view = lock(&self.view);
            let now = Instant::now();
            let seen = std::mem::take(&mut view.seen);
            view.seen = still_seen(seen, &workers, now);
            view.workers = workers;
            view.generation = generation;
            view.desired = desired;
            view.ready = ready;
            view.draining = draining;
        }
        self.publish();
    }

    /// Connections by process group, from the kernel.
    pub(crate) fn set_held(&self, held: &HashMap<u32, u32>, queued: u32) {
        let mut view = lock(&self.view);
        view.held.clone_from(held);
        view.queued = queued;
    }

    /// A reload that was asked for by file went through.
    pub(crate) fn reloaded(&self, token: String) {
        let mut view = lock(&self.view);
        view.reloaded = Some(token);
        view.reload_failed = None;
    }

    /// A reload that was asked for by file did not. Why is in the log and in
    /// `ctl logs`: everyone who reaches the port reads what is here.
    pub(crate) fn reload_failed(&self, token: String, reason: &str) {
        tracing::warn!(token, reason, "the reload that was asked for has failed");
        lock(&self.view).reload_failed = Some(token);
    }

    /// Process groups of all workers.
    pub(crate) fn groups(&self) -> Vec<u32> {
        lock(&self.view)
            .workers
            .iter()
            .map(|worker| worker.pid)
            .collect()
    }

    /// Shows `counter` in the metrics: lines of workers that were dropped.
    pub(crate) fn count_dropped_by(&self, counter: Arc<AtomicU64>) {
        // Told once, at the start; a second one would change nothing.
        let _told_before = self.lines_dropped.set(counter);
    }

    /// Serves what this gathers at `/metrics/app`.
    pub(crate) fn gather_by(&self, scraper: Scraper) {
        // Told once, at the start; a second one would change nothing.
        let _told_before = self.scraper.set(scraper);
    }

    /// Where each ready worker can be asked for its metrics on this port: at
    /// its private address, or, if it has the port to itself, there.
    pub(crate) fn scrape_targets(&self, port: u16) -> Vec<Target> {
        let view = lock(&self.view);
        let ready = view.workers.iter().filter(|worker| worker.state == "Ready");
        let target = |worker: &WorkerReport| {
            let own = worker.listens_elsewhere.filter(|own| *own == port);
            let own = own.map(|own| SocketAddr::from(([127, 0, 0, 1], own)));
            Some(Target {
                slot: worker.slot,
                pid: worker.pid,
                address: worker.addresses.get(&port).copied().or(own)?,
            })
        };
        ready.filter_map(target).collect()
    }

    /// A worker was reaped.
    pub(crate) fn ended(&self, ended: &Ended) {
        lock(&self.history).ended(SystemTime::now(), ended);
    }

    /// The JSON of `ctl events`.
    pub(crate) fn events(&self) -> Value {
        lock(&self.events).json()
    }

    /// Adds what is remembered of a slot.
    pub(crate) fn describe_slot(&self, slot: u32, shown: &mut Value) {
        let history = lock(&self.history);
        shown["endsByCause"] = history.causes(slot);
        shown["lastExit"] = history.last(slot);
        shown["events"] = lock(&self.events).of_slot(slot, EVENTS_OF_SLOT);
    }

    /// Keeps an incident and counts it.
    pub(crate) fn count(&self, incident: &Incident) {
        let now = SystemTime::now();
        lock(&self.events).note(now, incident);
        lock(&self.history).note(now, incident);
        let counter = match incident {
            Incident::Exited { .. } => &self.counts.restarts,
            Incident::BootTimedOut { .. } => &self.counts.boot_timeouts,
            Incident::KilledAfterGrace { .. } => &self.counts.kills,
            Incident::ReloadFinished { .. } => &self.counts.reloads,
            Incident::ReloadFailed { .. } => &self.counts.failed_reloads,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a `/watch` line if it differs from the last one.
    pub(crate) fn publish(&self) {
        let line = {
            let view = lock(&self.view);
            let (in_flight, queued) = if self.proxies.is_empty() {
                (view.held.values().sum(), view.queued)
            } else {
                let proxies = self.proxies.iter();
                let loads = proxies.map(|proxy| (proxy.in_flight(), proxy.queued()));
                loads.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
            };
            json!({
                "ready": is_ready(&view),
                "draining": view.draining,
                "capacity": view.ready,
                "inFlight": in_flight,
                "queued": queued,
                "workers": view.ready,
            })
        };
        let line = Bytes::from(line.to_string());
        self.snapshot.send_if_modified(|last| {
            let changed = *last != line;
            *last = line;
            changed
        });
    }

    /// The JSON of `/status` and `ctl status`.
    pub(crate) fn status(&self) -> Value {
        let view = lock(&self.view);
        let history = lock(&self.history);
        let now = Instant::now();
        let workers: Vec<Value> = view
            .workers
            .iter()
            .map(|worker| {
                let in_flight = if self.proxies.is_empty() {
                    view.held.get(&worker.pid).copied().unwrap_or(0)
                } else {
                    let endpoints = worker.endpoints.iter();
                    endpoints.map(|endpoint| endpoint.in_flight()).sum()
                };
                let mut shown = json!({
                    "slot": worker.slot,
                    "pid": worker.pid,
                    "state": worker.state,
                    "generation": worker.generation,
                    "restarts": worker.restarts,
                    "inFlight": in_flight,
                    "rssBytes": memory::of_tree(worker.pid).unwrap_or(0),
                });
                if let Some(port) = worker.listens_elsewhere {
                    shown["listensElsewhere"] = port.into();
                }
                if let Some(seen) = view.seen.get(&worker.pid) {
                    shown["uptimeSeconds"] = seconds(now.duration_since(seen.begun)).into();
                    shown["stateSeconds"] = seconds(now.duration_since(seen.since)).into();
                }
                if let Some(used) = cpu_time(worker.pid) {
                    shown["cpuSeconds"] = seconds(used).into();
                }
                shown["lastExit"] = history.last(worker.slot);
                shown
            })
            .collect();
        let mut status = json!({
            "mechanism": self.mechanism,
            "dispatch": self.dispatch,
            "generation": view.generation,
            "desired": view.desired,
            "ready": view.ready,
            "draining": view.draining,
            "workers": workers,
        });
        let waiting = waiting(&view, &history);
        if !waiting.is_empty() {
            status["waiting"] = waiting.into();
        }
        for (key, token) in [
            ("reloaded", &view.reloaded),
            ("reloadFailed", &view.reload_failed),
        ] {
            if let Some(token) = token {
                status[key] = token.as_str().into();
            }
        }
        status
    }
}

/// Slots that have no process: their next one starts after a while.
fn waiting(view: &View, history: &History) -> Vec<Value> {
    if view.draining {
        return Vec::new();
    }
    let empty = |slot: &u32| !view.workers.iter().any(|worker| worker.slot == *slot);
    let slots = (0..view.desired).filter(empty);
    let shown = slots.map(|slot| {
        json!({
            "slot": slot,
            "state": "CrashLoop",
            "restarts": history.unasked(slot),
            "lastExit": history.last(slot),
        })
    });
    shown.collect()
}

/// To hundredths, which is what the kernel counts in.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}

/// What is known of the processes that are there now.
fn still_seen(
    mut seen: HashMap<u32, Seen>,
    workers: &[WorkerReport],
    now: Instant,
) -> HashMap<u32, Seen> {
    let kept = workers.iter().map(|worker| {
        let before = seen.remove(&worker.pid);
        let begun = before.as_ref().map_or(now, |seen| seen.begun);
        let same = before.filter(|seen| seen.state == worker.state);
        let seen = same.unwrap_or_else(|| Seen {
            begun,
            state: worker.state.clone(),
            since: now,
        });
        (worker.pid, seen)
    });
    kept.collect()
}

/// At least one worker serves and we are not leaving.
fn is_ready(view: &View) -> bool {
    view.ready > 0 && !view.draining
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every value here is replaced as a whole, so a panic leaves none half-written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Routes for Report {
    fn live(&self) -> Probe {
        // Answering at all shows that the loop's thread turns.
        Ok(())
    }

    fn ready(&self) -> Probe {
        let view = lock(&self.view);
        match (view.draining, view.ready) {
            (true, _) => Err("draining".to_owned()),
            (false, 0) => Err(format!("0 of {} workers ready", view.desired)),
            (false, _) => Ok(()),
        }
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing into a String fails only if a metric fails to encode itself.
        let encoded = encode(&mut text, &lock(&self.registry));
        if encoded.is_err() {
            tracing::error!("a metric could not be encoded");
        }
        text
    }

    fn status(&self) -> Value {
        Self::status(self)
    }

    fn app_metrics(&self) -> Option<Page> {
        self.scraper.get().map(Scraper::page)
    }

    fn watch(&self) -> Option<watch::Receiver<Bytes>> {
        Some(self.snapshot.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use scaledapp_engine::{Exit, WorkerId, WorkerState};

    use super::*;

    fn worker(slot: u32, pid: u32, state: &str) -> WorkerReport {
        WorkerReport {
            slot,
            pid,
            state: state.to_owned(),
            generation: 1,
            restarts: 0,
            listens_elsewhere: None,
            addresses: BTreeMap::new(),
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn a_process_keeps_its_begin_and_a_new_state_begins_anew() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let seen = still_seen(HashMap::new(), &[worker(0, 7, "Starting")], at(0));
        let seen = still_seen(seen, &[worker(0, 7, "Starting")], at(1));
        assert_eq!((seen[&7].begun, seen[&7].since), (at(0), at(0)));
        let seen = still_seen(seen, &[worker(0, 7, "Ready"), worker(1, 8, "Ready")], at(2));
        assert_eq!((seen[&7].begun, seen[&7].since), (at(0), at(2)));
        // Its pid belongs to another process the next time.
        let seen = still_seen(seen, &[worker(1, 8, "Ready")], at(3));
        let seen = still_seen(seen, &[worker(0, 7, "Ready"), worker(1, 8, "Ready")], at(4));
        assert_eq!((seen[&7].begun, seen[&8].begun), (at(4), at(2)));
    }

    #[test]
    fn a_slot_without_a_process_is_shown_with_its_last_end() {
        let report = Report::new("notify", "request", Vec::new(), Registry::default());
        report.ended(&Ended {
            worker: WorkerId(1),
            slot: 1,
            pid: 8,
            generation: 1,
            state: Some(WorkerState::Ready),
            exit: Exit::Code(3),
        });
        report.update(vec![worker(0, 7, "Ready")], 1, 2, 1, false);
        let status = report.status();
        assert_eq!(status["waiting"][0]["slot"], 1);
        assert_eq!(status["waiting"][0]["restarts"], 1);
        assert_eq!(status["waiting"][0]["lastExit"]["text"], "exit code 3");
        report.update(Vec::new(), 1, 2, 0, true);
        assert_eq!(report.status()["waiting"], Value::Null);
    }

    #[test]
    fn a_worker_is_scraped_where_it_is_known_to_be_alone() {
        let report = Report::new("notify", "request", Vec::new(), Registry::default());
        let mut elsewhere = worker(0, 7, "Ready");
        elsewhere.listens_elsewhere = Some(9464);
        let mut draining = elsewhere.clone();
        draining.state = "Draining".to_owned();
        report.update(
            vec![elsewhere, worker(1, 8, "Ready"), draining],
            1,
            2,
            2,
            false,
        );
        let address = SocketAddr::from(([127, 0, 0, 1], 9464));
        let (slot, pid) = (0, 7);
        assert_eq!(report.scrape_targets(9464), [Target { slot, pid, address }]);
        let mut private = worker(2, 9, "Ready");
        let address = SocketAddr::from(([127, 0, 0, 1], 41_000));
        private.addresses.insert(9464, address);
        report.update(vec![private], 1, 1, 1, false);
        let (slot, pid) = (2, 9);
        assert_eq!(report.scrape_targets(9464), [Target { slot, pid, address }]);
        assert!(report.scrape_targets(3000).is_empty());
    }
}
