//! How much is asked of a proxy and what its endpoints achieve, for the autoscaler.
//!
//! Nothing is decided here: the numbers are sums over all threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::{Counts, Metrics};

/// What a proxy has counted since it began, and what it has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests that have arrived for an endpoint, each counted once; of other protocols,
    /// connections. Requests that the proxy refuses before it looks for an endpoint do not count.
    pub arrivals: u64,
    /// Answers of endpoints with a status below 500.
    pub answers: u64,
    /// The sum of the times that endpoints took for these answers: from the end of the request's
    /// wait in the proxy to the end of the answer.
    pub answer_time: Duration,
    /// Answers of endpoints with a status of 500 or more, and requests whose connection broke off
    /// at an endpoint.
    pub failures: u64,
    /// Requests at endpoints, without [`Self::connected`].
    pub in_flight: u32,
    /// Connections that were upgraded or are relayed.
    pub connected: u32,
    /// Requests that wait for an endpoint.
    pub queued: u32,
}

impl Load {
    pub(crate) fn of(metrics: &Metrics) -> Self {
        let sum = |of: fn(&Counts) -> &AtomicU64| {
            metrics.sum(|counts| of(counts).load(Ordering::Relaxed))
        };
        let connected = metrics.tunnels() + metrics.relays();
        Self {
            arrivals: sum(|counts| &counts.arrivals),
            answers: sum(|counts| &counts.served),
            answer_time: Duration::from_nanos(sum(|counts| &counts.served_time)),
            failures: sum(|counts| &counts.not_served),
            in_flight: metrics.in_flight().saturating_sub(connected),
            connected,
            queued: metrics.waiting(),
        }
    }
}
