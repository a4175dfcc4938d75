//! What the supervisor shows: `/livez /readyz /metrics /metrics/app /status /watch`.
//!
//! The loop puts its state here; the admin port reads it. Nothing here can
//! change anything, and neither environment nor arguments of the app are shown.

mod metrics;
mod overflows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use scaledapp_engine::{Incident, WorkerState};
use scaledapp_proxy::{Endpoint, Proxy};
use scaledapp_runtime::{Page, Probe, Routes};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::desired;
use crate::events::Events;
use crate::history::{Ended, History};
use crate::limits::memory;
use crate::process::cpu_time;
use crate::scrape::{Scraper, Target};

/// Events that `describe` shows of a slot.
const EVENTS_OF_SLOT: usize = 10;

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

/// How things stand, as the loop puts it here after each input.
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
    /// The supervisor is leaving.
    pub(crate) draining: bool,
}

impl Standing {
    /// At least one worker serves and we are not leaving.
    fn is_ready(&self) -> bool {
        self.ready > 0 && !self.draining
    }
}

#[derive(Debug, Default)]
struct View {
    standing: Standing,
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
    /// What the last line said.
    published: Mutex<Option<Load>>,
}

/// What a `/watch` line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    ready: bool,
    draining: bool,
    workers: u32,
    in_flight: u32,
    queued: u32,
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
            published: Mutex::default(),
        });
        let collector = Box::new(metrics::Workers(Arc::downgrade(&report)));
        lock(&report.registry).register_collector(collector);
        report.publish();
        report
    }

    /// The loop's new state; a change of readiness or drain goes out at once.
    pub(crate) fn update(&self, standing: Standing) {
        lock(&self.view).standing = standing;
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
        let shown = desired::brief(&token);
        tracing::warn!(
            token = shown,
            reason,
            "the reload that was asked for has failed"
        );
        lock(&self.view).reload_failed = Some(token);
    }

    /// Process groups of all workers.
    pub(crate) fn groups(&self) -> Vec<u32> {
        let view = lock(&self.view);
        let workers = view.standing.workers.iter();
        workers.map(|worker| worker.pid).collect()
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

    /// Where the metrics of each ready worker are: at its private address for
    /// the port, or at the port if it alone listens there.
    pub(crate) fn scrape_targets(&self, port: u16) -> Vec<Target> {
        let view = lock(&self.view);
        let workers = view.standing.workers.iter();
        let ready = workers.filter(|worker| worker.state == WorkerState::Ready);
        let target = |worker: &WorkerReport| {
            let elsewhere = worker.listens_elsewhere.filter(|other| *other == port);
            let elsewhere = elsewhere.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            Some(Target {
                slot: worker.slot,
                pid: worker.pid,
                address: worker.addresses.get(&port).copied().or(elsewhere)?,
            })
        };
        ready.filter_map(target).collect()
    }

    /// A worker was reaped.
    pub(crate) fn ended(&self, ended: &Ended) {
        lock(&self.history).ended(SystemTime::now(), ended);
    }

    /// Shows what the dispatchers find out of paths that go on ending workers.
    pub(crate) fn note_fatal_paths(self: &Arc<Self>) {
        for proxy in &self.proxies {
            let report = Arc::downgrade(self);
            proxy.on_fatal_path(move |text| {
                if let Some(report) = report.upgrade() {
                    lock(&report.events).note_fatal_path(SystemTime::now(), text);
                }
            });
        }
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
            Incident::Exited { .. } | Incident::Finished { .. } => &self.counts.restarts,
            Incident::BootTimedOut { .. } => &self.counts.boot_timeouts,
            Incident::KilledAfterGrace { .. } => &self.counts.kills,
            Incident::ReloadFinished { .. } => &self.counts.reloads,
            Incident::ReloadFailed { .. } => &self.counts.failed_reloads,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a `/watch` line if it differs from the last one; whether it did.
    pub(crate) fn publish(&self) -> bool {
        let load = {
            let view = lock(&self.view);
            let (in_flight, queued) = if self.proxies.is_empty() {
                (view.held.values().sum(), view.queued)
            } else {
                let proxies = self.proxies.iter();
                let loads = proxies.map(|proxy| (proxy.in_flight(), proxy.queued()));
                loads.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
            };
            Load {
                ready: view.standing.is_ready(),
                draining: view.standing.draining,
                workers: view.standing.ready,
                in_flight,
                queued,
            }
        };
        if lock(&self.published).replace(load) == Some(load) {
            return false;
        }
        let line = json!({
            "ready": load.ready,
            "draining": load.draining,
            "capacity": load.workers,
            "inFlight": load.in_flight,
            "queued": load.queued,
            "workers": load.workers,
            // Whether requests come from our dispatcher or straight to the app, which has no
            // say in what a balancer repeats.
            "dispatch": self.dispatch,
        });
        self.snapshot.send_replace(Bytes::from(line.to_string()));
        true
    }

    /// The JSON of `/status` and `ctl status`.
    pub(crate) fn status(&self) -> Value {
        let view = lock(&self.view);
        let history = lock(&self.history);
        let standing = &view.standing;
        let workers = standing.workers.iter();
        let workers: Vec<Value> = workers
            .map(|worker| {
                let mut shown = worker.json(Instant::now());
                if self.proxies.is_empty() {
                    shown["inFlight"] = view.held.get(&worker.pid).copied().unwrap_or(0).into();
                }
                shown["lastExit"] = history.last(worker.slot);
                shown
            })
            .collect();
        let mut status = json!({
            "mechanism": self.mechanism,
            "dispatch": self.dispatch,
            "generation": standing.generation,
            "desired": standing.desired,
            "ready": standing.ready,
            "draining": standing.draining,
            "workers": workers,
        });
        let waiting = waiting(standing, &history);
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

impl WorkerReport {
    /// What it says of itself, what the dispatcher counts at it, and what the kernel
    /// says of its process at this moment.
    fn json(&self, now: Instant) -> Value {
        let endpoints = self.endpoints.iter();
        let in_flight: u32 = endpoints.map(|endpoint| endpoint.in_flight()).sum();
        let mut shown = json!({
            "slot": self.slot,
            "pid": self.pid,
            "state": self.state.to_string(),
            "stateSeconds": seconds(now.duration_since(self.since)),
            "uptimeSeconds": seconds(now.duration_since(self.started)),
            "generation": self.generation,
            "restarts": self.restarts,
            "inFlight": in_flight,
            "rssBytes": memory::of_tree(self.pid).unwrap_or(0),
        });
        if let Some(port) = self.listens_elsewhere {
            shown["listensElsewhere"] = port.into();
        }
        if let Some(used) = cpu_time(self.pid) {
            shown["cpuSeconds"] = seconds(used).into();
        }
        shown
    }
}

/// Slots that have no process: their next one starts after a while.
fn waiting(standing: &Standing, history: &History) -> Vec<Value> {
    if standing.draining {
        return Vec::new();
    }
    let mut slots: BTreeSet<u32> = (0..standing.desired).collect();
    for worker in &standing.workers {
        slots.remove(&worker.slot);
    }
    let slots = slots.into_iter();
    let shown = slots.map(|slot| {
        json!({
            "slot": slot,
            "state": "CrashLoop",
            "restarts": standing.restarts.get(slot as usize).copied().unwrap_or(0),
            "lastExit": history.last(slot),
        })
    });
    shown.collect()
}

/// To hundredths, which is what the kernel counts in.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
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
        let standing = &lock(&self.view).standing;
        match (standing.draining, standing.ready) {
            (true, _) => Err("draining".to_owned()),
            (false, 0) => Err(format!("0 of {} workers ready", standing.desired)),
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
    use scaledapp_engine::{Exit, WorkerId};

    use super::*;

    fn worker(slot: u32, pid: u32) -> WorkerReport {
        WorkerReport {
            slot,
            pid,
            state: WorkerState::Ready,
            since: Instant::now(),
            started: Instant::now(),
            generation: 1,
            restarts: 0,
            listens_elsewhere: None,
            addresses: BTreeMap::new(),
            endpoints: Vec::new(),
        }
    }

    fn standing(workers: Vec<WorkerReport>, desired: u32) -> Standing {
        Standing {
            ready: workers.len() as u32,
            workers,
            generation: 1,
            desired,
            restarts: (0..desired).collect(),
            draining: false,
        }
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
        report.update(standing(vec![worker(0, 7)], 2));
        let status = report.status();
        assert_eq!(status["waiting"][0]["slot"], 1);
        assert_eq!(status["waiting"][0]["restarts"], 1);
        assert_eq!(status["waiting"][0]["lastExit"]["text"], "exit code 3");
        report.update(Standing {
            draining: true,
            ..standing(Vec::new(), 2)
        });
        assert_eq!(report.status()["waiting"], Value::Null);
    }

    #[test]
    fn a_worker_is_scraped_where_it_is_known_to_be_alone() {
        let report = Report::new("notify", "request", Vec::new(), Registry::default());
        let mut elsewhere = worker(0, 7);
        elsewhere.listens_elsewhere = Some(9464);
        let mut draining = elsewhere.clone();
        draining.state = WorkerState::Draining;
        report.update(standing(vec![elsewhere, worker(1, 8), draining], 2));
        let address = SocketAddr::from(([127, 0, 0, 1], 9464));
        let (slot, pid) = (0, 7);
        assert_eq!(report.scrape_targets(9464), [Target { slot, pid, address }]);
        assert!(report.scrape_targets(3000).is_empty());
        let mut private = worker(0, 7);
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        private.addresses.insert(3000, address);
        report.update(standing(vec![private], 1));
        assert_eq!(report.scrape_targets(3000), [Target { slot, pid, address }]);
    }
}
