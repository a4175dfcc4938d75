//! What the forwarding path counts.
//!
//! Each thread has its own counters, so that counting writes to no shared cache line; a
//! scrape adds them up. Labels come from closed sets, except for the few paths that end
//! workers ([`crate::suspects`]).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::clock::Cut;
use crate::suspects::Fatal;

macro_rules! kinds {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$doc])* $variant),+ }
        impl $name {
            const LABELS: &'static [&'static str] = &[$($label),+];
        }
    };
}

kinds! {
    /// Why the proxy answered instead of an endpoint, or why there was no answer.
    Failure {
        /// The client sent a request that is malformed, too large or not supported.
        Refused => "refused",
        /// The client's address has sent too many requests.
        RateLimited => "rate_limited",
        /// No endpoint served in time.
        NoEndpoint => "no_endpoint",
        /// All endpoints were busy for too long.
        QueueTimeout => "queue_timeout",
        /// Too many requests were already waiting for an endpoint.
        QueueFull => "queue_full",
        /// The endpoint broke off before it had answered.
        Upstream => "upstream",
        /// The endpoint broke off in the middle of its answer.
        CutOff => "cut_off",
        /// The endpoint is a dispatcher whose workers broke off, and no other endpoint took
        /// the request.
        HandedBack => "handed_back",
        /// The endpoint's answer did not belong to this request: the endpoint had given up
        /// the connection.
        Unasked => "unasked",
        /// The request's path keeps ending workers.
        Suspect => "suspect",
        /// The endpoint took too long.
        Timeout => "timeout",
        /// The endpoint's answer is malformed.
        Malformed => "malformed",
        /// The client took too long, to send or to receive.
        ClientTimeout => "client_timeout",
        /// Memory was short, and the connection was one of those that held the most.
        Memory => "memory",
        /// The limit of connections was reached, and this client had not sent or read for
        /// longest.
        GaveWay => "gave_way",
        /// The client closed or reset its connection.
        ClientGone => "client_gone",
    }
}

impl From<Cut> for Failure {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Memory => Self::Memory,
            Cut::Room => Self::GaveWay,
        }
    }
}

/// Upper bounds of the request time's buckets, in seconds.
const BUCKETS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// The counters of one thread, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counts {
    /// Answers by the first digit of their status.
    answers: [AtomicU64; 6],
    failures: [AtomicU64; Failure::LABELS.len()],
    times: [AtomicU64; BUCKETS.len() + 1],
    time: AtomicU64,
    /// Requests, or relayed connections, that have arrived for an endpoint.
    pub(crate) arrivals: AtomicU64,
    /// Answers of endpoints with a status below 500.
    pub(crate) served: AtomicU64,
    /// The time that endpoints took for these answers, in nanoseconds.
    pub(crate) served_time: AtomicU64,
    /// Answers of endpoints with a status of 500 or more, and attempts without an answer.
    pub(crate) not_served: AtomicU64,
    /// Times that requests were held, because there was no endpoint yet.
    pub(crate) held_total: AtomicU64,
    /// How these have ended.
    pub(crate) held_served: AtomicU64,
    pub(crate) held_timed_out: AtomicU64,
    /// Requests beyond the limits of holding, whether they were held before or not.
    pub(crate) held_refused: AtomicU64,
    pub(crate) held_left: AtomicU64,
    /// How long requests were held, in nanoseconds.
    pub(crate) held_time: AtomicU64,
    pub(crate) repeated: AtomicU64,
    pub(crate) budget_spent: AtomicU64,
    pub(crate) fatal: AtomicU64,
    pub(crate) unread: AtomicU64,
    pub(crate) ejections: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) at_limit: AtomicU64,
    pub(crate) gave_way: AtomicU64,
    pub(crate) stalled_gave_way: AtomicU64,
    pub(crate) address_full: AtomicU64,
    /// Idle connections that were ended because memory was short.
    pub(crate) shed_idle: AtomicU64,
    pub(crate) shed_largest: AtomicU64,
    pub(crate) shed_new: AtomicU64,
    pub(crate) unkept: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) reuses: AtomicU64,
    pub(crate) upgrades: AtomicU64,
    pub(crate) http2: AtomicU64,
    pub(crate) handshakes_full: AtomicU64,
    pub(crate) handshakes_retried: AtomicU64,
    pub(crate) handshakes_resumed: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) relayed: AtomicU64,
    /// Bytes from clients to endpoints.
    pub(crate) relay_received: AtomicU64,
    /// Bytes from endpoints to clients.
    pub(crate) relay_sent: AtomicU64,
    pub(crate) headers_client: AtomicU64,
    pub(crate) headers_itself: AtomicU64,
    pub(crate) headers_refused: AtomicU64,
    pub(crate) headers_late: AtomicU64,
    pub(crate) connections: AtomicI64,
    /// How many of the connections wait without a task.
    pub(crate) parked: AtomicI64,
    pub(crate) in_flight: AtomicI64,
    pub(crate) waiting: AtomicI64,
    /// How many of the waiting requests are held.
    pub(crate) held: AtomicI64,
    /// Streams of HTTP/2 connections that are being served.
    pub(crate) streams: AtomicI64,
    /// How many of the connections have switched to another protocol.
    pub(crate) tunnels: AtomicI64,
    /// How many of the connections are relayed.
    pub(crate) relays: AtomicI64,
}

/// Adds one to a counter that only its own thread writes.
pub(crate) fn count(counter: &AtomicU64) {
    // No other thread writes, so a plain load and store suffice instead of a locked
    // instruction.
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Adds to a counter that only its own thread writes.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

/// Changes a gauge that only its own thread writes.
pub(crate) fn shift(gauge: &AtomicI64, by: i64) {
    gauge.store(gauge.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// Counts one in a gauge of its own thread until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a AtomicI64);

impl<'a> Counted<'a> {
    pub(crate) fn new(gauge: &'a AtomicI64) -> Self {
        shift(gauge, 1);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        shift(self.0, -1);
    }
}

impl Counts {
    /// Counts an answer by its status; `time` is the time since the request's head.
    pub(crate) fn answered(&self, status: u16, time: Duration) {
        count(&self.answers[usize::from(status / 100).min(5)]);
        let seconds = time.as_secs_f64();
        count(&self.times[BUCKETS.partition_point(|&bound| bound < seconds)]);
        let nanoseconds = self.time.load(Ordering::Relaxed) + time.as_nanos() as u64;
        self.time.store(nanoseconds, Ordering::Relaxed);
    }

    /// Counts an answer of an endpoint, which took `time` for it.
    pub(crate) fn served(&self, status: u16, time: Duration) {
        if status < 500 {
            count(&self.served);
            add(&self.served_time, time.as_nanos() as u64);
        } else {
            count(&self.not_served);
        }
    }

    /// Counts a failure by its cause.
    pub(crate) fn failed(&self, failure: Failure) {
        count(&self.failures[failure as usize]);
    }
}

/// The counters of one [`crate::Proxy`].
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    threads: Arc<Mutex<Vec<Arc<Counts>>>>,
    /// Paths that end workers.
    pub(crate) fatal: Fatal,
}

impl Metrics {
    /// Registers the counters in `registry` as `PREFIX_requests_total` and so on.
    pub fn register(registry: &mut Registry, prefix: &str) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix(prefix);
        registry.register_collector(Box::new(metrics.clone()));
        metrics
    }

    /// Adds the counters of one more thread.
    pub(crate) fn thread(&self) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&counts));
        counts
    }

    pub(crate) fn sum(&self, of: impl Fn(&Counts) -> u64) -> u64 {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().map(|counts| of(counts)).sum()
    }

    fn level(&self, of: impl Fn(&Counts) -> &AtomicI64) -> i64 {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads
            .iter()
            .map(|counts| of(counts).load(Ordering::Relaxed))
            .sum()
    }

    /// Requests at endpoints.
    pub(crate) fn in_flight(&self) -> u32 {
        u32::try_from(self.level(|counts| &counts.in_flight)).unwrap_or(0)
    }

    /// Requests that wait for an endpoint.
    pub(crate) fn waiting(&self) -> u32 {
        u32::try_from(self.level(|counts| &counts.waiting)).unwrap_or(0)
    }

    /// Relayed connections.
    pub(crate) fn relays(&self) -> u32 {
        u32::try_from(self.level(|counts| &counts.relays)).unwrap_or(0)
    }

    /// Upgraded connections.
    pub(crate) fn tunnels(&self) -> u32 {
        u32::try_from(self.level(|counts| &counts.tunnels)).unwrap_or(0)
    }

    /// Client connections.
    pub(crate) fn connections(&self) -> u32 {
        u32::try_from(self.level(|counts| &counts.connections)).unwrap_or(0)
    }
}

/// A metric's name, its help text, and its counter.
type Named<T> = (&'static str, &'static str, fn(&Counts) -> &T);

const COUNTERS: [Named<AtomicU64>; 22] = [
    (
        "held_requests",
        "Times that a request was held because there was no endpoint yet",
        |c| &c.held_total,
    ),
    ("repeated", "Requests sent again after a failure", |c| {
        &c.repeated
    }),
    (
        "retry_budget_spent",
        "Requests not sent again because the budget was used up",
        |c| &c.budget_spent,
    ),
    (
        "fatal_requests",
        "Requests during which their worker ended by itself",
        |c| &c.fatal,
    ),
    (
        "unread_requests",
        "Requests that no process had read when their connection ended",
        |c| &c.unread,
    ),
    ("ejections", "Ejections of endpoints that had failed", |c| {
        &c.ejections
    }),
    ("accepted_connections", "Client connections accepted", |c| {
        &c.accepted
    }),
    (
        "connection_limit_reached",
        "Times that accepting paused because every connection had a request in flight that did not wait for its client",
        |c| &c.at_limit,
    ),
    (
        "idle_connections_ended",
        "Connections ended while they waited for a request, to make room",
        |c| &c.gave_way,
    ),
    (
        "stalled_connections_ended",
        "Connections ended while their client did not send or read, to make room",
        |c| &c.stalled_gave_way,
    ),
    (
        "memory_unkept_requests",
        "Requests not kept to be sent again because memory was short",
        |c| &c.unkept,
    ),
    (
        "memory_idle_ended",
        "Idle connections ended because memory was short",
        |c| &c.shed_idle,
    ),
    (
        "memory_largest_ended",
        "Connections that held the most and were ended because memory was short",
        |c| &c.shed_largest,
    ),
    (
        "memory_refused",
        "New connections refused because memory was short",
        |c| &c.shed_new,
    ),
    (
        "address_limit_reached",
        "Connections refused because their address had as many as it may have",
        |c| &c.address_full,
    ),
    (
        "upstream_connects",
        "Connections opened to endpoints",
        |c| &c.connects,
    ),
    ("upstream_reuses", "Requests over a kept connection", |c| {
        &c.reuses
    }),
    (
        "upgrades",
        "Connections upgraded to another protocol",
        |c| &c.upgrades,
    ),
    ("http2_connections", "Connections that spoke HTTP/2", |c| {
        &c.http2
    }),
    (
        "tcp_relayed_connections",
        "Connections relayed to an endpoint",
        |c| &c.relayed,
    ),
    (
        "tcp_received_bytes",
        "Bytes relayed from clients to endpoints",
        |c| &c.relay_received,
    ),
    (
        "tcp_sent_bytes",
        "Bytes relayed from endpoints to clients",
        |c| &c.relay_sent,
    ),
];

/// One value of a label, and its counter.
type Labelled = (&'static str, fn(&Counts) -> &AtomicU64);

/// Kinds of handshakes.
const HANDSHAKES: [Labelled; 4] = [
    ("full", |c| &c.handshakes_full),
    ("retried", |c| &c.handshakes_retried),
    ("resumed", |c| &c.handshakes_resumed),
    ("failed", |c| &c.handshakes_failed),
];

/// How holding requests has ended.
const HELD: [Labelled; 4] = [
    ("served", |c| &c.held_served),
    ("timed_out", |c| &c.held_timed_out),
    ("refused", |c| &c.held_refused),
    ("client_left", |c| &c.held_left),
];

/// What the headers of proxies in front have said.
const HEADERS: [Labelled; 4] = [
    ("client", |c| &c.headers_client),
    ("itself", |c| &c.headers_itself),
    ("refused", |c| &c.headers_refused),
    ("late", |c| &c.headers_late),
];

const GAUGES: [Named<AtomicI64>; 8] = [
    (
        "http2_streams",
        "Streams of HTTP/2 connections that are being served",
        |c| &c.streams,
    ),
    ("connections", "Client connections open", |c| &c.connections),
    (
        "parked_connections",
        "Client connections that have been idle for a second or more",
        |c| &c.parked,
    ),
    (
        "upgraded_connections",
        "Client connections that have switched to another protocol",
        |c| &c.tunnels,
    ),
    (
        "tcp_connections",
        "Client connections that are relayed to an endpoint",
        |c| &c.relays,
    ),
    ("requests_in_flight", "Requests at endpoints", |c| {
        &c.in_flight
    }),
    (
        "requests_waiting",
        "Requests that wait for an endpoint",
        |c| &c.waiting,
    ),
    (
        "requests_held",
        "Requests that wait because there is no endpoint yet",
        |c| &c.held,
    ),
];

impl Metrics {
    /// Encodes counters that differ in one label.
    fn encode_labelled(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, label): (&str, &str, &str),
        all: &[Labelled],
    ) -> std::fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, of) in all {
            let total = self.sum(|counts| of(counts).load(Ordering::Relaxed));
            family
                .encode_family(&[(label, *kind)])?
                .encode_counter::<NoLabelSet, _, u64>(&total, None)?;
        }
        Ok(())
    }

    /// The metrics of requests that are held while there is no endpoint.
    fn encode_held(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let about = (
            "held_requests_ended",
            "Requests that are held no longer, or were not, by outcome",
            "outcome",
        );
        self.encode_labelled(encoder, about, &HELD)?;
        let held = self.sum(|counts| counts.held_time.load(Ordering::Relaxed)) as f64 / 1e9;
        encoder
            .encode_descriptor(
                "held_seconds",
                "Time for which requests were held, added up",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&held, None)
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut family = encoder.encode_descriptor(
            "requests",
            "Requests answered, by the first digit of the status",
            None,
            MetricType::Counter,
        )?;
        for (at, code) in ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"]
            .iter()
            .enumerate()
            .skip(1)
        {
            let total = self.sum(|counts| get(&counts.answers[at]));
            family
                .encode_family(&[("code", *code)])?
                .encode_counter::<NoLabelSet, _, u64>(&total, None)?;
        }
        let mut family = encoder.encode_descriptor(
            "failures",
            "Requests not answered by an endpoint, by cause",
            None,
            MetricType::Counter,
        )?;
        for (at, cause) in Failure::LABELS.iter().enumerate() {
            let total = self.sum(|counts| get(&counts.failures[at]));
            family
                .encode_family(&[("cause", *cause)])?
                .encode_counter::<NoLabelSet, _, u64>(&total, None)?;
        }
        let fatal = self.fatal.counts();
        if !fatal.is_empty() {
            let mut family = encoder.encode_descriptor(
                "path_ended_workers",
                "Workers that requests for a path have certainly ended, by method and path",
                None,
                MetricType::Counter,
            )?;
            for (path, count) in fatal {
                family
                    .encode_family(&[("path", path)])?
                    .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let about = ("tls_handshakes", "TLS handshakes, by how they went", "kind");
        self.encode_labelled(&mut encoder, about, &HANDSHAKES)?;
        let about = (
            "proxy_headers",
            "Connections that must begin with a PROXY header, by what it says or lacks",
            "says",
        );
        self.encode_labelled(&mut encoder, about, &HEADERS)?;
        self.encode_held(&mut encoder)?;
        for (name, help, of) in COUNTERS {
            let total = self.sum(|counts| get(of(counts)));
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&total, None)?;
        }
        for (name, help, of) in GAUGES {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&self.level(of))?;
        }
        let mut buckets = Vec::with_capacity(BUCKETS.len() + 1);
        for at in 0..=BUCKETS.len() {
            let bound = BUCKETS.get(at).copied().unwrap_or(f64::INFINITY);
            buckets.push((bound, self.sum(|counts| get(&counts.times[at]))));
        }
        let requests = buckets.iter().map(|(_, count)| count).sum();
        let seconds = self.sum(|counts| get(&counts.time)) as f64 / 1e9;
        encoder
            .encode_descriptor(
                "request_duration_seconds",
                "Time from a request's head to the last byte of its answer",
                None,
                MetricType::Histogram,
            )?
            .encode_histogram::<NoLabelSet>(seconds, requests, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_up_under_the_prefix() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, "scaledapp_test");
        let (first, second) = (metrics.thread(), metrics.thread());
        first.answered(200, Duration::from_micros(700));
        second.answered(204, Duration::from_millis(3));
        second.answered(503, Duration::from_secs(100));
        second.failed(Failure::NoEndpoint);
        shift(&first.in_flight, 2);
        shift(&second.in_flight, -1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "scaledapp_test_requests_total{code=\"2xx\"} 2",
            "scaledapp_test_requests_total{code=\"5xx\"} 1",
            "scaledapp_test_failures_total{cause=\"no_endpoint\"} 1",
            "scaledapp_test_requests_in_flight 1",
            "scaledapp_test_request_duration_seconds_bucket{le=\"0.001\"} 1",
            "scaledapp_test_request_duration_seconds_bucket{le=\"0.005\"} 2",
            "scaledapp_test_request_duration_seconds_bucket{le=\"+Inf\"} 3",
            "scaledapp_test_request_duration_seconds_count 3",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
        assert_eq!(metrics.in_flight(), 1);
    }
}
