//! What the balancer counts outside the forwarding path: endpoints by standing, loads of
//! the endpoints file, lists of the Service's endpoints, lost `/watch` streams. All label
//! values come from closed sets.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use scaledapp_proxy::{Standing, Table};
use tokio::sync::watch;

use crate::access::Stdout;
use crate::peers::health::word;

/// The prefix of all metric names.
pub(crate) const PREFIX: &str = "scaledapp_balancer";

/// How a `/watch` stream ended, or why there was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Loss {
    /// No connection could be made.
    Unreachable,
    /// The supervisor refused.
    Refused,
    /// The connection ended.
    Closed,
    /// No line has come for too long.
    Silent,
    /// The answer is not a stream of snapshots.
    Malformed,
}

impl EncodeLabelValue for Loss {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Malformed => "malformed",
        };
        word.encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: Loss,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadResult {
    result: &'static str,
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    loads: Family<LoadResult, Counter>,
    lists: Family<LoadResult, Counter>,
    reconnects: Family<Cause, Counter>,
}

impl Metrics {
    /// Registers the counters, together with the endpoints of `table`.
    pub(crate) fn register(&self, registry: &mut Registry, table: watch::Receiver<Arc<Table>>) {
        let registry = registry.sub_registry_with_prefix(PREFIX);
        registry.register(
            "endpoints_file_loads",
            "Contents of the endpoints file that were read, by result",
            self.loads.clone(),
        );
        registry.register(
            "endpoints_service_lists",
            "Lists and changes received from the API server, and failures",
            self.lists.clone(),
        );
        registry.register(
            "watch_reconnects",
            "Streams of /watch that were opened again, by how the last one ended",
            self.reconnects.clone(),
        );
        registry.register_collector(Box::new(Endpoints(table)));
    }

    /// Counts whether the API server gave a list.
    pub(crate) fn listed(&self, good: bool) {
        let result = if good { "ok" } else { "error" };
        self.lists.get_or_create(&LoadResult { result }).inc();
    }

    /// Counts whether the endpoints file could be used.
    pub(crate) fn loaded(&self, good: bool) {
        let result = if good { "ok" } else { "error" };
        self.loads.get_or_create(&LoadResult { result }).inc();
    }

    pub(crate) fn lost(&self, cause: Loss) {
        self.reconnects.get_or_create(&Cause { cause }).inc();
    }
}

/// Registers the counter of lines that the access log has lost.
pub(crate) fn register_access_log(registry: &mut Registry, stdout: Option<&Arc<Stdout>>) {
    let Some(stdout) = stdout else {
        return;
    };
    let registry = registry.sub_registry_with_prefix(PREFIX);
    registry.register_collector(Box::new(DroppedLines(Arc::clone(stdout))));
}

/// Lines of the access log that were dropped, read when metrics are read.
#[derive(Debug)]
struct DroppedLines(Arc<Stdout>);

impl Collector for DroppedLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counter = ConstCounter::new(self.0.dropped());
        let metric = encoder.encode_descriptor(
            "access_log_dropped_lines",
            "Lines of the access log that were dropped because stdout accepted no more",
            None,
            counter.metric_type(),
        )?;
        counter.encode(metric)
    }
}

/// The endpoints, counted when metrics are read.
#[derive(Debug)]
struct Endpoints(watch::Receiver<Arc<Table>>);

impl Collector for Endpoints {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let table = Arc::clone(&self.0.borrow());
        let mut family = encoder.encode_descriptor(
            "endpoints",
            "Endpoints by standing",
            None,
            MetricType::Gauge,
        )?;
        for standing in [
            Standing::Serving,
            Standing::Suspect,
            Standing::Draining,
            Standing::Unready,
            Standing::Unknown,
        ] {
            let endpoints = table.endpoints.iter();
            let count = endpoints
                .filter(|endpoint| endpoint.standing() == standing)
                .count();
            let gauge = ConstGauge::new(count as i64);
            gauge.encode(family.encode_family(&[("standing", word(standing))])?)?;
        }
        let endpoints = table.endpoints.iter();
        let ejected = endpoints.filter(|endpoint| endpoint.is_ejected()).count();
        let gauge = ConstGauge::new(ejected as i64);
        let metric = encoder.encode_descriptor(
            "endpoints_ejected",
            "Endpoints ejected because requests failed there",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use scaledapp_proxy::Endpoint;

    use super::*;

    #[test]
    fn all_are_shown_under_the_prefix() {
        let endpoint = |name: &str, standing| {
            let endpoint = Endpoint::new(name, "10.0.0.1:1".parse().unwrap());
            endpoint.set_standing(standing);
            endpoint
        };
        let endpoints = vec![
            endpoint("a", Standing::Serving),
            endpoint("b", Standing::Serving),
            endpoint("c", Standing::Unready),
        ];
        let (_table, receiver) = watch::channel(Arc::new(Table { endpoints }));
        let mut registry = Registry::default();
        let metrics = Metrics::default();
        metrics.register(&mut registry, receiver);
        metrics.loaded(true);
        metrics.loaded(false);
        metrics.listed(true);
        metrics.lost(Loss::Silent);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "scaledapp_balancer_endpoints{standing=\"serving\"} 2",
            "scaledapp_balancer_endpoints{standing=\"suspect\"} 0",
            "scaledapp_balancer_endpoints{standing=\"unready\"} 1",
            "scaledapp_balancer_endpoints{standing=\"unknown\"} 0",
            "scaledapp_balancer_endpoints_ejected 0",
            "scaledapp_balancer_endpoints_file_loads_total{result=\"ok\"} 1",
            "scaledapp_balancer_endpoints_file_loads_total{result=\"error\"} 1",
            "scaledapp_balancer_endpoints_service_lists_total{result=\"ok\"} 1",
            "scaledapp_balancer_watch_reconnects_total{cause=\"silent\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
    }
}
