//! Rates from two readings of a `/metrics` page: requests, failures, and the 99th percentile of
//! their durations. Only the few families that are needed are read; everything else on the page,
//! which may be the app's own, is skipped.

use std::collections::BTreeMap;

use serde::Serialize;

/// The prefix of the balancer's metrics.
pub(crate) const BALANCER: &str = "scaledapp_balancer";
/// The prefix of the metrics of the dispatcher in a pod.
pub(crate) const DISPATCHER: &str = "scaledapp_dispatch";

/// What one page counts so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Counters {
    /// Seconds at which the page was read, by a clock that never jumps.
    pub(crate) at: f64,
    requests: f64,
    errors: f64,
    /// Requests up to each bound, cumulated; bounds are in microseconds, so that they are ordered.
    buckets: BTreeMap<u64, f64>,
}

/// Rates between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rates {
    /// Requests answered in each second.
    pub(crate) requests_per_second: f64,
    /// The share of answers with a status of 5xx, 0 to 1.
    pub(crate) server_errors: f64,
    /// The 99th percentile of the time from a request's head to the end of its answer, in
    /// milliseconds: the upper bound of the histogram's bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_milliseconds: Option<f64>,
}

impl Counters {
    /// Reads the counters with this prefix; `None` if the page has none.
    pub(crate) fn read(page: &str, prefix: &str, at: f64) -> Option<Self> {
        let mut read = Self {
            at,
            ..Self::default()
        };
        let mut is_there = false;
        for line in page.lines() {
            let Some(rest) = line.strip_prefix(prefix) else {
                continue;
            };
            let Some((name, value)) = rest.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse::<f64>() else {
                continue;
            };
            if let Some(labels) = name.strip_prefix("_requests_total{") {
                is_there = true;
                read.requests += value;
                if labels.contains("code=\"5xx\"") {
                    read.errors += value;
                }
            } else if let Some(labels) = name.strip_prefix("_request_duration_seconds_bucket{") {
                let bound = labels
                    .split_once("le=\"")
                    .and_then(|(_, rest)| rest.split_once('"'));
                let bound = match bound.map(|(bound, _)| bound) {
                    Some("+Inf") => u64::MAX,
                    Some(bound) => bound
                        .parse::<f64>()
                        .map_or(u64::MAX, |it| (it * 1e6) as u64),
                    None => continue,
                };
                *read.buckets.entry(bound).or_default() += value;
            }
        }
        is_there.then_some(read)
    }

    /// The rates since `earlier`; `None` if no time has passed, or if the process has restarted
    /// meanwhile and counts from 0 again.
    pub(crate) fn since(&self, earlier: &Self) -> Option<Sum> {
        let seconds = self.at - earlier.at;
        if seconds <= 0.0 || self.requests < earlier.requests {
            return None;
        }
        let before = |bound: &u64| earlier.buckets.get(bound).copied().unwrap_or_default();
        let buckets = self.buckets.iter();
        Some(Sum {
            per_second: (self.requests - earlier.requests) / seconds,
            errors_per_second: (self.errors - earlier.errors).max(0.0) / seconds,
            buckets: buckets
                .map(|(bound, count)| (*bound, (count - before(bound)).max(0.0)))
                .collect(),
        })
    }
}

/// What happened between two readings, so that it can be added up over several pods. Percentiles
/// cannot be added, so the buckets are kept.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Sum {
    per_second: f64,
    errors_per_second: f64,
    buckets: BTreeMap<u64, f64>,
}

impl Sum {
    /// Adds what happened in another pod.
    pub(crate) fn add(&mut self, other: &Self) {
        self.per_second += other.per_second;
        self.errors_per_second += other.errors_per_second;
        for (bound, count) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += count;
        }
    }

    /// The rates.
    pub(crate) fn rates(&self) -> Rates {
        let all = self.buckets.values().copied().fold(0.0, f64::max);
        let slowest = self.buckets.iter().find(|(_, count)| **count >= 0.99 * all);
        let bound = slowest.map(|(bound, _)| *bound);
        Rates {
            requests_per_second: self.per_second,
            server_errors: if self.per_second > 0.0 {
                self.errors_per_second / self.per_second
            } else {
                0.0
            },
            p99_milliseconds: bound
                .filter(|bound| all > 0.0 && *bound < u64::MAX)
                .map(|bound| bound as f64 / 1e3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(good: u32, bad: u32, fast: u32) -> String {
        let all = good + bad;
        format!(
            "# TYPE x counter\napp_requests_total{{code=\"2xx\"}} 999\n\
             scaledapp_balancer_requests_total{{code=\"2xx\"}} {good}\n\
             scaledapp_balancer_requests_total{{code=\"5xx\"}} {bad}\n\
             scaledapp_balancer_request_duration_seconds_bucket{{le=\"0.005\"}} {fast}\n\
             scaledapp_balancer_request_duration_seconds_bucket{{le=\"0.05\"}} {all}\n\
             scaledapp_balancer_request_duration_seconds_bucket{{le=\"+Inf\"}} {all}\n"
        )
    }

    #[test]
    fn rates_are_the_differences_of_two_readings_and_add_up_over_pods() {
        let read = |text: &str, at| Counters::read(text, BALANCER, at).unwrap();
        let (before, after) = (read(&page(10, 0, 10), 1.0), read(&page(208, 2, 20), 3.0));
        let mut sum = after.since(&before).unwrap();
        let rates = sum.rates();
        assert!(
            (rates.requests_per_second - 100.0).abs() < 1e-9,
            "{rates:?}"
        );
        assert!((rates.server_errors - 0.01).abs() < 1e-9);
        assert_eq!(rates.p99_milliseconds, Some(50.0));
        sum.add(&after.since(&before).unwrap());
        assert!((sum.rates().requests_per_second - 200.0).abs() < 1e-9);
        assert_eq!(before.since(&after), None, "the process has restarted");
        assert_eq!(
            Counters::read("app_requests_total{} 1\n", BALANCER, 0.0),
            None
        );
        let idle = read(&page(10, 0, 10), 2.0).since(&before).unwrap().rates();
        assert_eq!(idle.p99_milliseconds, None);
    }
}
