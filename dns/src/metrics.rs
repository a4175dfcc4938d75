//! The metrics and their names (`scaledapp_dns_…`).
//!
//! Labels come from closed sets, so a client cannot create a label by querying a name.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use scaledapp_answers::{Reply, Transport};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    r#type: &'static str,
    rcode: &'static str,
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// The counters of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    queries: Family<QueryLabels, Counter>,
    dropped: Family<Reason, Counter>,
    truncated: Counter,
    stale: Counter,
    loads: Family<LoadResult, Counter>,
    lists: Family<LoadResult, Counter>,
    records_age: Gauge<f64, AtomicU64>,
    names: Gauge,
    addresses: Family<State, Gauge>,
    failed_probes: Counter,
    connections: Gauge,
    ended_connections: Counter,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("scaledapp_dns");
        registry.register("queries", "Answers given", self.queries.clone());
        registry.register(
            "dropped",
            "Messages that got no answer: none is due, or it could not be sent",
            self.dropped.clone(),
        );
        registry.register(
            "truncated",
            "Answers truncated to fit (TC)",
            self.truncated.clone(),
        );
        registry.register(
            "stale_answers",
            "Answers with the last known addresses because none is healthy",
            self.stale.clone(),
        );
        registry.register("records_loads", "Records files read", self.loads.clone());
        registry.register(
            "scaledapps_lists",
            "Lists and changes received from the API server, and failures to receive them",
            self.lists.clone(),
        );
        registry.register(
            "records_age_seconds",
            "Time since the records in use were last known to match their source",
            self.records_age.clone(),
        );
        registry.register("names", "Names of the records in use", self.names.clone());
        registry.register(
            "addresses",
            "Addresses of the records in use by probe state",
            self.addresses.clone(),
        );
        registry.register(
            "failed_probes",
            "Probes that got no connection",
            self.failed_probes.clone(),
        );
        registry.register(
            "tcp_connections",
            "Open TCP connections",
            self.connections.clone(),
        );
        registry.register(
            "tcp_ended_connections",
            "Idle TCP connections closed to make room for new ones",
            self.ended_connections.clone(),
        );
    }

    pub(crate) fn replied(&self, reply: Reply, transport: Transport) {
        let labels = QueryLabels {
            r#type: reply.kind.as_str(),
            rcode: reply.rcode.as_str(),
            transport: transport.as_str(),
        };
        self.queries.get_or_create(&labels).inc();
        if reply.truncated {
            self.truncated.inc();
        }
        if reply.stale {
            self.stale.inc();
        }
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn loaded(&self, result: &'static str) {
        self.loads.get_or_create(&LoadResult { result }).inc();
    }

    pub(crate) fn listed(&self, result: &'static str) {
        self.lists.get_or_create(&LoadResult { result }).inc();
    }

    pub(crate) fn set_records_age(&self, age: std::time::Duration) {
        self.records_age.set(age.as_secs_f64());
    }

    /// `addresses` contains each probe state with its number of addresses.
    pub(crate) fn set_records(&self, names: usize, addresses: &[(&'static str, usize)]) {
        self.names.set(names as i64);
        for &(state, count) in addresses {
            self.addresses
                .get_or_create(&State { state })
                .set(count as i64);
        }
    }

    pub(crate) fn probe_failed(&self) {
        self.failed_probes.inc();
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.inc();
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.dec();
    }

    pub(crate) fn connection_gave_way(&self) {
        self.ended_connections.inc();
    }
}
