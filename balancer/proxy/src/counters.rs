//! Counters of answers by name, such as the name of a worker's slot. The counters outlive
//! the endpoints that share the name.
//!
//! The owner of the endpoints decides which of them share counters. It must choose names
//! from a bounded set, because each name becomes a label.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The labels of answers, by the first digit of the status.
const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Something that has requests in flight: an endpoint.
pub(crate) trait Busy: fmt::Debug + Send + Sync {
    /// Requests in flight, upgraded connections included.
    fn in_flight(&self) -> u32;
}

/// The counters of one name. They have cache lines of their own, because all threads write
/// to them.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    answers: [AtomicU64; CODES.len()],
    broken: AtomicU64,
    name: String,
    endpoints: Mutex<Vec<Weak<dyn Busy>>>,
}

impl Counters {
    /// New counters, all zero.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            answers: Default::default(),
            broken: AtomicU64::new(0),
            name: name.into(),
            endpoints: Mutex::default(),
        })
    }

    /// The name as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Answers whose status has the first digit `hundreds` (1 to 5); 101 counts under 1.
    pub fn answers(&self, hundreds: u16) -> u64 {
        let at = usize::from(hundreds).wrapping_sub(1);
        self.answers
            .get(at)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Requests that were sent and got no complete answer for a reason other than their
    /// client. A kept connection that turns out to be closed after a request was written
    /// counts; a refused connection does not.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// Requests in flight, including upgraded connections.
    pub fn in_flight(&self) -> u32 {
        let endpoints = lock(&self.endpoints);
        let alive = endpoints.iter().filter_map(Weak::upgrade);
        alive.map(|endpoint| endpoint.in_flight()).sum()
    }

    /// Adds an endpoint with this name.
    pub(crate) fn add(&self, endpoint: Weak<dyn Busy>) {
        let mut endpoints = lock(&self.endpoints);
        endpoints.retain(|endpoint| endpoint.strong_count() > 0);
        endpoints.push(endpoint);
    }

    pub(crate) fn answered(&self, status: u16) {
        let at = usize::from(status / 100).saturating_sub(1);
        self.answers[at.min(CODES.len() - 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn broke(&self) {
        self.broken.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counters by name, in the order in which they were first requested.
#[derive(Debug, Clone, Default)]
pub struct NamedCounters(Arc<Mutex<Vec<Arc<Counters>>>>);

impl NamedCounters {
    /// Registers the counters in `registry` as `PREFIX_worker_responses_total` and so on,
    /// with the name as the label `worker`.
    pub fn register(registry: &mut Registry, prefix: &str) -> Self {
        let named = Self::default();
        let registry = registry.sub_registry_with_prefix(prefix);
        registry.register_collector(Box::new(named.clone()));
        named
    }

    /// The counters of a name, the same ones at each call.
    pub fn of(&self, name: &str) -> Arc<Counters> {
        let mut named = lock(&self.0);
        if let Some(known) = named.iter().find(|counters| counters.name == name) {
            return Arc::clone(known);
        }
        let counters = Counters::new(name);
        named.push(Arc::clone(&counters));
        counters
    }
}

impl Collector for NamedCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let named = lock(&self.0);
        let mut family = encoder.encode_descriptor(
            "worker_responses",
            "Answers of each worker, by the first digit of the status",
            None,
            MetricType::Counter,
        )?;
        for counters in named.iter() {
            for (code, count) in CODES.iter().zip(&counters.answers) {
                let labels = [("worker", counters.name.as_str()), ("code", *code)];
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&count.load(Ordering::Relaxed), None)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "worker_broken",
            "Requests that were sent to each worker and got no complete answer",
            None,
            MetricType::Counter,
        )?;
        for counters in named.iter() {
            family
                .encode_family(&[("worker", counters.name.as_str())])?
                .encode_counter::<NoLabelSet, _, u64>(&counters.broken(), None)?;
        }
        let mut family = encoder.encode_descriptor(
            "worker_requests_in_flight",
            "Requests at each worker",
            None,
            MetricType::Gauge,
        )?;
        for counters in named.iter() {
            family
                .encode_family(&[("worker", counters.name.as_str())])?
                .encode_gauge(&i64::from(counters.in_flight()))?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No step can panic half-way, so a poisoned lock still guards consistent data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;

    #[test]
    fn a_name_keeps_its_counters_and_is_shown_once() {
        let mut registry = Registry::default();
        let named = NamedCounters::register(&mut registry, "scaledapp_test");
        for status in [101, 204, 200, 599] {
            named.of("0").answered(status);
        }
        named.of("0").broke();
        named.of("1").answered(302);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "scaledapp_test_worker_responses_total{worker=\"0\",code=\"1xx\"} 1",
            "scaledapp_test_worker_responses_total{worker=\"0\",code=\"2xx\"} 2",
            "scaledapp_test_worker_responses_total{worker=\"0\",code=\"5xx\"} 1",
            "scaledapp_test_worker_responses_total{worker=\"1\",code=\"3xx\"} 1",
            "scaledapp_test_worker_responses_total{worker=\"1\",code=\"2xx\"} 0",
            "scaledapp_test_worker_broken_total{worker=\"0\"} 1",
            "scaledapp_test_worker_requests_in_flight{worker=\"0\"} 0",
        ] {
            let shown = text.lines().filter(|shown| *shown == line).count();
            assert_eq!(shown, 1, "{line} in\n{text}");
        }
        assert_eq!(named.of("0").answers(2), 2);
        assert_eq!(named.of("0").answers(0), 0);
    }

    #[test]
    fn requests_in_flight_are_those_of_all_endpoints_of_the_name() {
        let counters = Counters::new("0");
        let queue = scaledapp_select::Queue::new(None, 1000);
        let at = |port: u16| Endpoint::with_counters("0", ([127, 0, 0, 1], port).into(), &counters);
        let (old, new) = (at(1), at(2));
        let now = std::time::Duration::ZERO;
        let entered = [old.enter(&queue, now), new.enter(&queue, now)];
        assert_eq!(counters.in_flight(), 2);
        old.close();
        assert_eq!(
            counters.in_flight(),
            2,
            "a draining endpoint still has its requests"
        );
        drop(entered);
        drop(old);
        assert_eq!(counters.in_flight(), 0);
    }
}
