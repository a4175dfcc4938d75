//! Rates, shares of errors and percentiles of latency, from counters that were read several times.
//!
//! Counts add up over several proxies and percentiles do not, so percentiles are computed from the
//! sums of the histograms' buckets. Times are milliseconds since 1970.

use std::collections::{BTreeMap, VecDeque};

use crate::observation::Counters;

/// The time over which shares of errors and percentiles are computed. One second has too few
/// requests for a stable 99th percentile of a small app.
pub(crate) const WINDOW_MS: u64 = 5_000;
/// Figures that are older than this count as unknown.
pub(crate) const STALE_MS: u64 = 3_000;

/// What happened between two readings.
#[derive(Debug, Clone, Default)]
struct Change {
    at: u64,
    seconds: f64,
    requests: u64,
    errors: u64,
    /// Requests in each bucket, not those up to its bound.
    buckets: Vec<(f64, u64)>,
    workers: BTreeMap<u32, u64>,
}

/// The flow of requests through one proxy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flow {
    last: Option<(u64, Counters)>,
    changes: VecDeque<Change>,
}

/// How many more there are than before. A smaller number means that the process was started anew
/// and counts from zero.
fn more(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

impl Flow {
    /// Adds a reading.
    pub(crate) fn read(&mut self, now: u64, counters: Counters) {
        if let Some((at, before)) = &self.last
            && now > *at
        {
            let mut below = (0, 0);
            let is_new = counters.requests < before.requests;
            let buckets = counters
                .buckets
                .iter()
                .enumerate()
                .map(|(place, (bound, up_to))| {
                    let old = before.buckets.get(place).map_or(0, |(_, count)| *count);
                    let old = if is_new { 0 } else { old };
                    let own = (up_to - below.0.min(*up_to), old - below.1.min(old));
                    below = (*up_to, old);
                    (*bound, own.0.saturating_sub(own.1))
                });
            let buckets = buckets.collect();
            let workers = counters.workers.iter().map(|(slot, count)| {
                let old = before.workers.get(slot).copied().unwrap_or(0);
                (*slot, more(*count, old))
            });
            self.changes.push_back(Change {
                at: now,
                seconds: (now - at) as f64 / 1e3,
                requests: more(counters.requests, before.requests),
                errors: more(counters.errors, before.errors),
                buckets,
                workers: workers.collect(),
            });
        }
        self.last = Some((now, counters));
        self.forget(now);
    }

    fn forget(&mut self, now: u64) {
        while self
            .changes
            .front()
            .is_some_and(|change| change.at + WINDOW_MS <= now)
        {
            self.changes.pop_front();
        }
    }

    fn latest(&self, now: u64) -> Option<&Change> {
        self.changes
            .back()
            .filter(|change| change.at + STALE_MS > now)
    }

    /// Answers per second; `None` without recent readings.
    pub(crate) fn rate(&self, now: u64) -> Option<f64> {
        let latest = self.latest(now)?;
        Some(latest.requests as f64 / latest.seconds)
    }

    /// Answers per second of one slot of a supervisor.
    pub(crate) fn worker_rate(&self, now: u64, slot: u32) -> Option<f64> {
        let latest = self.latest(now)?;
        Some(*latest.workers.get(&slot)? as f64 / latest.seconds)
    }
}

/// Figures of several proxies together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Figures {
    /// Answers per second.
    pub(crate) rate: Option<f64>,
    /// The median of the latency in milliseconds.
    pub(crate) p50: Option<f64>,
    /// The 99th percentile of the latency in milliseconds.
    pub(crate) p99: Option<f64>,
    /// The share of answers with a status of 500 or more, in percent.
    pub(crate) errors: Option<f64>,
}

/// Adds up the flows of several proxies that do not pass requests to each other.
pub(crate) fn sum<'a>(now: u64, flows: impl Iterator<Item = &'a Flow>) -> Figures {
    let mut figures = Figures::default();
    let (mut requests, mut errors) = (0, 0);
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    for flow in flows {
        if let Some(rate) = flow.rate(now) {
            figures.rate = Some(figures.rate.unwrap_or(0.0) + rate);
        }
        let recent = flow
            .changes
            .iter()
            .filter(|change| change.at + WINDOW_MS > now);
        for change in recent {
            requests += change.requests;
            errors += change.errors;
            for (bound, count) in &change.buckets {
                match buckets
                    .iter_mut()
                    .find(|(known, _)| known.total_cmp(bound).is_eq())
                {
                    Some((_, sum)) => *sum += count,
                    None => buckets.push((*bound, *count)),
                }
            }
        }
    }
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    figures.p50 = quantile(&buckets, 0.5).map(|seconds| seconds * 1e3);
    figures.p99 = quantile(&buckets, 0.99).map(|seconds| seconds * 1e3);
    figures.errors = (requests > 0).then(|| errors as f64 * 100.0 / requests as f64);
    figures
}

/// The value below which this share of the requests lies, with equal distances within a bucket, as
/// `histogram_quantile` of Prometheus assumes. The bucket without a bound counts as its lower bound.
fn quantile(buckets: &[(f64, u64)], share: f64) -> Option<f64> {
    let all: u64 = buckets.iter().map(|(_, count)| count).sum();
    if all == 0 {
        return None;
    }
    let wanted = share * all as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    for (bound, count) in buckets {
        let count = *count as f64;
        if below + count >= wanted && count > 0.0 {
            if bound.is_infinite() {
                return Some(lower);
            }
            return Some(lower + (bound - lower) * (wanted - below) / count);
        }
        below += count;
        lower = *bound;
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(requests: u64, fast: u64) -> Counters {
        Counters {
            requests,
            errors: requests / 10,
            buckets: vec![(0.001, fast), (0.01, requests), (f64::INFINITY, requests)],
            workers: [(0, requests)].into(),
        }
    }

    #[test]
    fn rates_and_percentiles_come_from_differences() {
        let mut flow = Flow::default();
        flow.read(1_000, reading(1_000, 1_000));
        assert_eq!(sum(1_000, [&flow].into_iter()), Figures::default());
        flow.read(2_000, reading(1_100, 1_050));
        let figures = sum(2_100, [&flow, &flow].into_iter());
        assert_eq!(figures.rate, Some(200.0));
        assert_eq!(figures.p50, Some(1.0));
        assert!((figures.p99.unwrap() - 9.82).abs() < 0.001, "{figures:?}");
        assert_eq!(figures.errors, Some(10.0));
        assert_eq!(flow.worker_rate(2_100, 0), Some(100.0));
        assert_eq!(flow.worker_rate(2_100, 1), None);
    }

    #[test]
    fn a_restarted_process_counts_from_zero() {
        let mut flow = Flow::default();
        flow.read(1_000, reading(1_000, 0));
        flow.read(2_000, reading(30, 30));
        let figures = sum(2_000, [&flow].into_iter());
        assert_eq!(figures.rate, Some(30.0));
        assert_eq!(figures.p50, Some(0.5));
    }

    #[test]
    fn old_figures_are_unknown() {
        let mut flow = Flow::default();
        flow.read(1_000, reading(0, 0));
        flow.read(2_000, reading(10, 10));
        assert!(flow.rate(4_999).is_some());
        assert_eq!(flow.rate(5_000), None);
        assert_eq!(sum(7_000, [&flow].into_iter()), Figures::default());
    }

    #[test]
    fn the_bucket_without_a_bound_counts_as_its_lower_bound() {
        assert_eq!(quantile(&[(1.0, 0), (f64::INFINITY, 5)], 0.5), Some(1.0));
        assert_eq!(quantile(&[(1.0, 0)], 0.5), None);
    }
}
