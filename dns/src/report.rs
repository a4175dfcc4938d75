//! What the admin port shows about the server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use scaledapp_runtime::{Probe, Routes};
use scaledapp_wire::{AddressStatus, DnsStatus, NameStatus, ProbeState};
use serde_json::Value;

use crate::catalog::Catalog;
use crate::health::Health;
use crate::metrics::Metrics;

/// Probe states, as metrics count them.
const STATES: [ProbeState; 4] = [
    ProbeState::Healthy,
    ProbeState::Unhealthy,
    ProbeState::Unknown,
    ProbeState::Unprobed,
];

/// The state that the admin port shows; the server's loop updates it.
#[derive(Debug)]
pub(crate) struct Report {
    zone: String,
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    registry: Registry,
    view: Mutex<View>,
}

#[derive(Debug)]
struct View {
    /// Why the server is not ready.
    unready: Option<String>,
    draining: bool,
    names: BTreeMap<String, NameStatus>,
    /// The zone's servers: each name with its addresses.
    name_servers: BTreeMap<String, Vec<IpAddr>>,
    /// Why some or all records, or the servers' addresses, are not up to date.
    problem: Option<String>,
    /// When the records in use were last known to match their source.
    confirmed: Instant,
}

impl Report {
    pub(crate) fn new(
        zone: String,
        listen: SocketAddr,
        metrics: Arc<Metrics>,
        now: Instant,
    ) -> Self {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let view = View {
            unready: Some("no records are loaded yet".to_owned()),
            draining: false,
            names: BTreeMap::new(),
            name_servers: BTreeMap::new(),
            problem: None,
            confirmed: now,
        };
        Self {
            zone,
            listen,
            metrics,
            registry,
            view: Mutex::new(view),
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        // Each change is a single assignment, so a panic leaves nothing half done.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the records in use match their source.
    pub(crate) fn confirm(&self, now: Instant) {
        self.view().confirmed = now;
    }

    /// Notes what prevents the first load. Has no effect afterwards.
    pub(crate) fn not_loaded(&self, reason: &str) {
        let mut view = self.view();
        if view.unready.is_some() {
            view.unready = Some(format!("no records are loaded yet: {reason}"));
        }
    }

    /// Sets why some or all records, or the servers' addresses, are not up to date.
    pub(crate) fn set_problem(&self, problem: Option<String>) {
        self.view().problem = problem;
    }

    pub(crate) fn drain(&self) {
        self.view().draining = true;
    }

    /// Shows a new state of the records from now on.
    pub(crate) fn show(&self, catalog: &Catalog) {
        let mut counts = STATES.map(|state| (state.as_str(), 0));
        let mut names = BTreeMap::new();
        for (entry, records, addresses) in catalog.names() {
            let addresses = addresses.into_iter().map(|(address, health)| {
                let state = health.map_or(ProbeState::Unprobed, Health::shown);
                if let Some((_, count)) =
                    counts.iter_mut().find(|(name, _)| *name == state.as_str())
                {
                    *count += 1;
                }
                let address = Some(address);
                AddressStatus { address, state }
            });
            let shown = NameStatus {
                addresses: addresses.collect(),
                out_of_reach: catalog.unreached().contains(&entry.name),
                published: records.addresses(),
                stale: records.is_stale(),
                ttl: records.ttl().as_secs(),
            };
            names.insert(entry.name.to_string(), shown);
        }
        self.metrics.set_records(names.len(), &counts);
        let mut view = self.view();
        view.names = names;
        let servers = catalog.name_servers().iter();
        view.name_servers = servers
            .map(|server| (server.name.to_string(), server.addresses.clone()))
            .collect();
        if catalog.is_ready() {
            view.unready = None;
        } else if catalog.is_loaded() {
            view.unready = Some("the addresses are being probed for the first time".to_owned());
        }
    }
}

impl Routes for Report {
    fn live(&self) -> Probe {
        // The answer itself shows that the loop's thread is alive.
        Ok(())
    }

    fn ready(&self) -> Probe {
        let view = self.view();
        match &view.unready {
            _ if view.draining => Err("draining".to_owned()),
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    fn metrics(&self) -> String {
        self.metrics
            .set_records_age(self.view().confirmed.elapsed());
        let mut text = String::new();
        // Writing to a String fails only if a metric cannot encode itself.
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("a metric could not be encoded");
        }
        text
    }

    fn status(&self) -> Value {
        let ready = self.ready().is_ok();
        let view = self.view();
        let status = DnsStatus {
            draining: view.draining,
            listen: Some(self.listen),
            name_servers: view.name_servers.clone(),
            names: view.names.clone(),
            problem: view.problem.clone(),
            ready,
            records_age_seconds: view.confirmed.elapsed().as_secs(),
            zone: self.zone.clone(),
        };
        // Its fields are numbers and strings, which can always be serialized.
        serde_json::to_value(status).unwrap_or_default()
    }
}
