//! What the supervisor shows: `/livez /readyz /metrics /status /watch`.
//!
//! The loop puts its state here; the admin port reads it. Nothing here can
//! change anything, and neither environment nor arguments of the app are shown.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use scaledapp_admin::{Probe, Routes};
use scaledapp_engine::Incident;
use scaledapp_proxy::{Endpoint, Proxy};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::memory;

/// One worker as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct WorkerReport {
    pub(crate) slot: u32,
    pub(crate) pid: u32,
    pub(crate) state: String,
    pub(crate) generation: u32,
    pub(crate) restarts: u32,
    pub(crate) listens_elsewhere: Option<u16>,
    /// In Request dispatch, for each shared port.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

#[derive(Debug, Default)]
struct View {
    workers: Vec<WorkerReport>,
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
            proxies,
            registry: Mutex::new(registry),
            snapshot: watch::Sender::new(Bytes::new()),
        });
        let collector = Box::new(Workers(Arc::downgrade(&report)));
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

    /// Counts an incident.
    pub(crate) fn count(&self, incident: &Incident) {
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

    fn watch(&self) -> Option<watch::Receiver<Bytes>> {
        Some(self.snapshot.subscribe())
    }
}

/// Metrics that are read from the state when they are asked for.
#[derive(Debug)]
struct Workers(std::sync::Weak<Report>);

impl Collector for Workers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(report) = self.0.upgrade() else {
            return Ok(());
        };
        let (desired, ready, generation) = {
            let view = lock(&report.view);
            (view.desired, view.ready, view.generation)
        };
        for (name, help, value) in [
            ("scaledapp_workers_desired", "Workers wanted", desired),
            ("scaledapp_workers_ready", "Workers ready", ready),
            (
                "scaledapp_generation",
                "Generation of the workers",
                generation,
            ),
        ] {
            let gauge = ConstGauge::new(i64::from(value));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let counts = &report.counts;
        for (name, help, count) in [
            (
                "scaledapp_worker_restarts",
                "Workers that ended unexpectedly",
                &counts.restarts,
            ),
            (
                "scaledapp_worker_boot_timeouts",
                "Workers that were not ready in time",
                &counts.boot_timeouts,
            ),
            (
                "scaledapp_worker_kills",
                "Workers that ignored the stop signal",
                &counts.kills,
            ),
            (
                "scaledapp_reloads",
                "Reloads that went through",
                &counts.reloads,
            ),
            (
                "scaledapp_reloads_failed",
                "Reloads that kept the old workers",
                &counts.failed_reloads,
            ),
        ] {
            let counter = ConstCounter::new(count.load(Ordering::Relaxed));
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}
