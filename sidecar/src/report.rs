//! What the supervisor shows at `/livez /readyz /metrics /metrics/app /status /watch /load`.
//!
//! The loop writes its state here, and the admin port reads it. Requests to these
//! paths change nothing, and neither environment nor arguments of the app are shown.

mod load;
mod metrics;
mod overflows;
mod state;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use scaledapp_engine::{Incident, WorkerState};
use scaledapp_proxy::Proxy;
use scaledapp_runtime::{Load, Page, Probe, Routes, run_name};
use scaledapp_wire::{
    self as wire, Dispatch, Mechanism, ScalingChange, SlotDescription, SlotState, Snapshot, Status,
    WaitingSlot, WatchedScaling, Worker,
};
use serde_json::Value;
use tokio::sync::watch;

use crate::clock::rfc3339;
use crate::desired;
use crate::events::Events;
use crate::history::{Ended, History};
use crate::limits::memory;
use crate::process::cpu_time;
use crate::scaling::{Change, Shown};
use crate::scrape::{Scraper, Target};
use load::Measured;
use state::{State, lock};

pub(crate) use state::{Standing, WorkerReport};

/// How many events of a slot `describe` shows.
const EVENTS_OF_SLOT: usize = 10;

/// The state as the admin port sees it.
pub(crate) struct Report {
    mechanism: Mechanism,
    dispatch: Dispatch,
    state: Arc<State>,
    events: Mutex<Events>,
    /// In Request dispatch, the proxy of each shared port.
    proxies: Vec<Arc<Proxy>>,
    registry: Mutex<Registry>,
    snapshot: watch::Sender<Bytes>,
    /// The last published line of `/watch`.
    published: Mutex<Option<Snapshot>>,
    measured: Arc<Measured>,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").finish_non_exhaustive()
    }
}

impl Report {
    /// A report before anything runs. `registry` already contains the dispatcher's metrics.
    pub(crate) fn new(
        mechanism: Mechanism,
        dispatch: Dispatch,
        proxies: Vec<Arc<Proxy>>,
        registry: Registry,
    ) -> Arc<Self> {
        let state = Arc::<State>::default();
        let report = Arc::new(Self {
            mechanism,
            dispatch,
            measured: Arc::new(Measured {
                state: Arc::clone(&state),
                proxies: proxies.clone(),
                run: run_name(),
                cpu: Mutex::default(),
            }),
            state,
            events: Mutex::default(),
            proxies,
            registry: Mutex::new(registry),
            snapshot: watch::Sender::new(Bytes::new()),
            published: Mutex::default(),
        });
        let collector = Box::new(metrics::Workers(Arc::downgrade(&report.state)));
        lock(&report.registry).register_collector(collector);
        report.publish();
        report
    }

    /// Takes the loop's new state; a change of readiness or drain is published immediately.
    pub(crate) fn update(&self, standing: Standing) {
        lock(&self.state.view).standing = standing;
        self.publish();
    }

    /// Takes the number of open connections of each process group, and `queued`, the number of
    /// connections that are not accepted yet.
    pub(crate) fn set_open_connections(&self, open_connections: &HashMap<u32, u32>, queued: u32) {
        let mut view = lock(&self.state.view);
        view.open_connections.clone_from(open_connections);
        view.queued = queued;
    }

    /// A reload that the desired-state file requested has succeeded.
    pub(crate) fn reloaded(&self, token: String) {
        let mut view = lock(&self.state.view);
        view.reloaded = Some(token);
        view.reload_failed = None;
    }

    /// A reload that the desired-state file requested has failed. The details are only in the log
    /// and in `ctl logs`, because anyone who reaches the admin port can read the status.
    pub(crate) fn reload_failed(&self, token: String, reason: &str) {
        let shown = desired::brief(&token);
        tracing::warn!(token = shown, reason, "the requested reload has failed");
        lock(&self.state.view).reload_failed = Some(token);
    }

    /// The process groups of all workers.
    pub(crate) fn groups(&self) -> Vec<u32> {
        let view = lock(&self.state.view);
        let workers = view.standing.workers.iter();
        workers.map(|worker| worker.pid).collect()
    }

    /// Adds `counter` to the metrics: the number of dropped lines of workers.
    pub(crate) fn count_dropped_by(&self, counter: Arc<AtomicU64>) {
        // Called once, at the start; a second call would change nothing.
        let _told_before = self.state.lines_dropped.set(counter);
    }

    /// Serves the scraper's pages at `/metrics/app`.
    pub(crate) fn gather_by(&self, scraper: Scraper) {
        // Called once, at the start; a second call would change nothing.
        let _told_before = self.state.scraper.set(scraper);
    }

    /// The metrics address of each ready worker: its private address for the port, or the port on
    /// the loopback address if the worker itself listens there. Workers without such an address are
    /// left out.
    pub(crate) fn scrape_targets(&self, port: u16) -> Vec<Target> {
        let view = lock(&self.state.view);
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

    /// Records that a worker was reaped.
    pub(crate) fn ended(&self, ended: &Ended) {
        lock(&self.state.history).ended(SystemTime::now(), ended);
    }

    /// Records what the dispatchers report about paths whose requests keep ending workers.
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

    /// The events for `ctl events`.
    pub(crate) fn events(&self) -> wire::Events {
        lock(&self.events).shown()
    }

    /// What is remembered of a slot; the other fields of the description are empty.
    pub(crate) fn describe_slot(&self, slot: u32) -> SlotDescription {
        let history = lock(&self.state.history);
        SlotDescription {
            ends_by_cause: history.causes(slot),
            events: lock(&self.events).of_slot(slot, EVENTS_OF_SLOT),
            last_exit: history.last(slot),
            slot,
            ..SlotDescription::default()
        }
    }

    /// Keeps an incident, and counts it if its kind has a counter.
    pub(crate) fn count(&self, incident: &Incident) {
        let now = SystemTime::now();
        lock(&self.events).note(now, incident);
        lock(&self.state.history).note(now, incident);
        if let Incident::Ready { after, .. } = incident {
            // Only the first worker's time is kept.
            let _known = self.state.first_boot.set(*after);
        }
        let counter = match incident {
            Incident::Exited { .. } | Incident::Finished { .. } => &self.state.counts.restarts,
            Incident::BootTimedOut { .. } => &self.state.counts.boot_timeouts,
            Incident::KilledAfterGrace { .. } => &self.state.counts.kills,
            Incident::ReloadFinished { .. } => &self.state.counts.reloads,
            Incident::ReloadFailed { .. } => &self.state.counts.failed_reloads,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps and counts a change of the number of workers that the supervisor decided.
    pub(crate) fn scaled(&self, change: &Change) {
        lock(&self.events).note_scaled(change);
        lock(&self.state.scaled).add(change);
    }

    /// Keeps the message that a start is held back.
    pub(crate) fn scaling_held(&self, text: String) {
        lock(&self.events).note_held(SystemTime::now(), text);
    }

    /// Publishes a line of `/watch` if it differs from the last one; returns whether it
    /// did.
    pub(crate) fn publish(&self) -> bool {
        let snapshot = {
            let view = lock(&self.state.view);
            let (in_flight, queued) = if self.proxies.is_empty() {
                (view.open_connections.values().sum(), view.queued)
            } else {
                let proxies = self.proxies.iter();
                let loads = proxies.map(|proxy| (proxy.in_flight(), proxy.queued()));
                loads.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
            };
            Snapshot {
                capacity: view.standing.ready,
                // Balancers repeat requests that a dispatcher hands back. Under Connection
                // dispatch the app answers, and an app must not decide what is repeated.
                dispatch: Some(self.dispatch),
                draining: view.standing.draining,
                in_flight,
                queued,
                ready: view.standing.is_ready(),
                scaling: view.standing.scaling.as_ref().map(|shown| WatchedScaling {
                    held: shown.held.as_ref().map(|(held, _)| *held),
                    max: shown.bounds.max,
                    min: shown.bounds.min,
                    reason: shown.last.as_ref().map(|change| change.reason),
                    wanted: view.standing.desired,
                }),
                workers: view.standing.ready,
            }
        };
        if lock(&self.published).replace(snapshot) == Some(snapshot) {
            return false;
        }
        // All fields are numbers and texts, so this cannot fail.
        let line = serde_json::to_vec(&snapshot).unwrap_or_default();
        self.snapshot.send_replace(Bytes::from(line));
        true
    }

    /// The content of `/status` and `ctl status`.
    pub(crate) fn status(&self) -> Status {
        let view = lock(&self.state.view);
        let history = lock(&self.state.history);
        let standing = &view.standing;
        let now = Instant::now();
        let workers = standing.workers.iter().map(|worker| {
            let mut shown = worker.shown(now);
            if self.proxies.is_empty() {
                shown.in_flight = view.open_connections.get(&worker.pid).copied().unwrap_or(0);
            }
            shown.last_exit = history.last(worker.slot);
            shown
        });
        Status {
            desired: standing.desired,
            dispatch: self.dispatch,
            draining: standing.draining,
            generation: standing.generation,
            mechanism: self.mechanism,
            ready: standing.ready,
            reload_failed: view.reload_failed.clone(),
            reloaded: view.reloaded.clone(),
            scaling: standing.scaling.as_ref().map(scaling),
            waiting: waiting(standing, &history),
            workers: workers.collect(),
        }
    }
}

impl WorkerReport {
    /// Combines what the loop knows about the worker, what the dispatcher counts for it,
    /// and what the kernel reports about its process now.
    fn shown(&self, now: Instant) -> Worker {
        let endpoints = self.endpoints.iter();
        Worker {
            cpu_seconds: cpu_time(self.pid).map(seconds),
            generation: self.generation,
            in_flight: endpoints.map(|endpoint| endpoint.in_flight()).sum(),
            listens_elsewhere: self.listens_elsewhere,
            pid: self.pid,
            restarts: self.restarts,
            rss_bytes: memory::of_tree(self.pid).unwrap_or(0),
            slot: self.slot,
            state: worker_state(self.state),
            state_seconds: Some(seconds(now.duration_since(self.since))),
            uptime_seconds: Some(seconds(now.duration_since(self.started))),
            ..Worker::default()
        }
    }
}

/// A range and its last change, for status.
fn scaling(shown: &Shown) -> wire::Scaling {
    let (held, held_text) = shown.held.clone().unzip();
    wire::Scaling {
        held,
        held_text,
        last: shown.last.as_ref().map(|change| ScalingChange {
            from: change.from,
            reason: change.reason,
            text: change.text.clone(),
            time: rfc3339(change.time),
            to: change.to,
        }),
        max: shown.bounds.max,
        min: shown.bounds.min,
    }
}

fn worker_state(state: WorkerState) -> wire::WorkerState {
    match state {
        WorkerState::Starting => wire::WorkerState::Starting,
        WorkerState::Ready => wire::WorkerState::Ready,
        WorkerState::Draining => wire::WorkerState::Draining,
        WorkerState::Stopping => wire::WorkerState::Stopping,
    }
}

/// Slots without a process, whose next worker starts after a delay.
fn waiting(standing: &Standing, history: &History) -> Vec<WaitingSlot> {
    if standing.draining {
        return Vec::new();
    }
    let mut slots: BTreeSet<u32> = (0..standing.desired).collect();
    for worker in &standing.workers {
        slots.remove(&worker.slot);
    }
    let slots = slots.into_iter();
    let shown = slots.map(|slot| WaitingSlot {
        last_exit: history.last(slot),
        restarts: standing.restarts.get(slot as usize).copied().unwrap_or(0),
        slot,
        state: SlotState::CrashLoop,
    });
    shown.collect()
}

/// A time in seconds, rounded to hundredths, the unit in which the kernel counts.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}

impl Routes for Report {
    fn live(&self) -> Probe {
        // Any answer shows that the loop's thread runs.
        Ok(())
    }

    fn ready(&self) -> Probe {
        let standing = &lock(&self.state.view).standing;
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
        // All fields are numbers and texts, so this cannot fail.
        serde_json::to_value(Self::status(self)).unwrap_or_default()
    }

    fn app_metrics(&self) -> Option<Page> {
        self.state.scraper.get().map(Scraper::page)
    }

    fn watch(&self) -> Option<watch::Receiver<Bytes>> {
        Some(self.snapshot.subscribe())
    }

    fn load(&self) -> Option<Load> {
        let measured = Arc::clone(&self.measured);
        Some(Load {
            line: Arc::new(move || measured.line()),
            news: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
            scaling: None,
            draining: false,
        }
    }

    #[test]
    fn a_slot_without_a_process_is_shown_with_its_last_end() {
        let report = Report::new(
            Mechanism::Notify,
            Dispatch::Request,
            Vec::new(),
            Registry::default(),
        );
        report.ended(&Ended {
            worker: WorkerId(1),
            slot: 1,
            pid: 8,
            generation: 1,
            state: Some(WorkerState::Ready),
            exit: Exit::Code(3),
        });
        report.update(standing(vec![worker(0, 7)], 2));
        let slot = report.status().waiting.remove(0);
        assert_eq!((slot.slot, slot.restarts), (1, 1));
        assert_eq!(slot.last_exit.unwrap().text, "exit code 3");
        report.update(Standing {
            draining: true,
            ..standing(Vec::new(), 2)
        });
        assert_eq!(report.status().waiting, []);
    }

    #[test]
    fn a_worker_is_scraped_where_it_alone_listens() {
        let report = Report::new(
            Mechanism::Notify,
            Dispatch::Request,
            Vec::new(),
            Registry::default(),
        );
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
