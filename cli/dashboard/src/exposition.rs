//! Reads the few counters that the dashboard shows from the text of `/metrics` (`OpenMetrics` 1.0).
//!
//! Lines that it does not know are skipped, so that newer and older versions are read too.

use crate::observation::Counters;

/// The most buckets and workers that are kept of one text.
const MAX_SERIES: usize = 1100;

/// Reads the counters of a proxy whose metrics begin with `prefix`, such as `scaledapp_balancer`.
pub fn counters(text: &str, prefix: &str) -> Counters {
    let mut found = Counters::default();
    for line in text.lines() {
        let Some(rest) = line
            .strip_prefix(prefix)
            .and_then(|it| it.strip_prefix('_'))
        else {
            continue;
        };
        let Some((series, value)) = rest.rsplit_once(' ') else {
            continue;
        };
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.trim_end_matches('}')),
            None => (series, ""),
        };
        let Ok(value) = value.parse::<u64>() else {
            continue;
        };
        match name {
            "requests_total" => {
                found.requests += value;
                if label(labels, "code") == Some("5xx") {
                    found.errors += value;
                }
            }
            "request_duration_seconds_bucket" if found.buckets.len() < MAX_SERIES => {
                let bound = match label(labels, "le") {
                    Some("+Inf") => Some(f64::INFINITY),
                    Some(bound) => bound.parse().ok(),
                    None => None,
                };
                found.buckets.extend(bound.map(|bound| (bound, value)));
            }
            "worker_responses_total" if found.workers.len() < MAX_SERIES => {
                let slot = label(labels, "worker").and_then(|slot| slot.parse().ok());
                if let Some(slot) = slot {
                    *found.workers.entry(slot).or_default() += value;
                }
            }
            _ => {}
        }
    }
    found
}

/// The value of a label. Labels of our metrics contain neither commas nor quotes.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|label| {
        let (key, value) = label.split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# TYPE scaledapp_dispatch_requests counter
scaledapp_dispatch_requests_total{code=\"2xx\"} 7
scaledapp_dispatch_requests_total{code=\"5xx\"} 2
scaledapp_dispatch_3001_requests_total{code=\"2xx\"} 100
scaledapp_dispatch_request_duration_seconds_bucket{le=\"0.001\"} 4
scaledapp_dispatch_request_duration_seconds_bucket{le=\"+Inf\"} 9
scaledapp_dispatch_worker_responses_total{worker=\"0\",code=\"2xx\"} 5
scaledapp_dispatch_worker_responses_total{worker=\"0\",code=\"5xx\"} 1
scaledapp_dispatch_worker_responses_total{worker=\"1\",code=\"2xx\"} 3
scaledapp_dispatch_requests_in_flight -1
nonsense
# EOF
";

    #[test]
    fn counters_are_found_and_the_rest_is_skipped() {
        let found = counters(TEXT, "scaledapp_dispatch");
        assert_eq!((found.requests, found.errors), (9, 2));
        assert_eq!(found.buckets, [(0.001, 4), (f64::INFINITY, 9)]);
        assert_eq!(found.workers, [(0, 6), (1, 3)].into());
        assert_eq!(counters(TEXT, "scaledapp_balancer"), Counters::default());
    }
}
