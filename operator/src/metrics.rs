//! The operator's metrics (`scaledapp_operator_…`).
//!
//! The values of labels come from fixed sets. The name of an object is never the value of a label,
//! except in the metrics of `app_metrics.rs`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use scaledapp_crds::words::component;
use scaledapp_scale::Reason;

use crate::call::Call;
use crate::health::State;

/// Upper bounds of the histogram of passes, in seconds. A pass without writes takes well under a
/// millisecond. A pass during which the API server hangs takes several seconds.
const SECONDS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0];

/// Upper bounds of the histogram of concurrencies.
const CONCURRENCIES: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    verb: &'static str,
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeResult {
    component: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Component {
    component: &'static str,
}

/// The metrics of one operator.
#[derive(Debug)]
pub struct Metrics {
    passes: Family<PassResult, Counter>,
    seconds: Histogram,
    calls: Family<CallLabels, Counter>,
    leader: Gauge,
    apps: Gauge,
    watch_errors: Family<Kind, Counter>,
    watch_age: Family<Kind, Gauge<f64, AtomicU64>>,
    namespaces: Family<NamespaceState, Gauge>,
    probes: Family<ProbeResult, Counter>,
    autoscaled_apps: Gauge,
    wanted_pods: Gauge,
    concurrency: Histogram,
    decisions: Family<DecisionReason, Counter>,
    silent: Family<Component, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            passes: Family::default(),
            seconds: Histogram::new(SECONDS),
            calls: Family::default(),
            leader: Gauge::default(),
            apps: Gauge::default(),
            watch_errors: Family::default(),
            watch_age: Family::default(),
            namespaces: Family::default(),
            probes: Family::default(),
            autoscaled_apps: Gauge::default(),
            wanted_pods: Gauge::default(),
            concurrency: Histogram::new(CONCURRENCIES),
            decisions: Family::default(),
            silent: Family::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("scaledapp_operator");
        registry.register(
            "reconciles",
            "Passes over an app by outcome",
            self.passes.clone(),
        );
        registry.register(
            "reconcile_seconds",
            "How long passes took",
            self.seconds.clone(),
        );
        registry.register(
            "api_calls",
            "Calls to the API server other than watches",
            self.calls.clone(),
        );
        registry.register("leader", "1 while this replica writes", self.leader.clone());
        registry.register("apps", "ScaledApps that are known", self.apps.clone());
        registry.register(
            "watch_errors",
            "Watches that failed and were restarted",
            self.watch_errors.clone(),
        );
        registry.register(
            "watch_age_seconds",
            "Time since a watch last delivered something",
            self.watch_age.clone(),
        );
        registry.register(
            "namespaces",
            "Namespaces that are watched by name, by their state",
            self.namespaces.clone(),
        );
        registry.register(
            "probes",
            "Probes of the admin ports of pods",
            self.probes.clone(),
        );
        registry.register(
            "autoscaled_apps",
            "Apps that this replica scales",
            self.autoscaled_apps.clone(),
        );
        registry.register(
            "autoscaling_wanted_pods",
            "Pods that the autoscaler wants for all apps together",
            self.wanted_pods.clone(),
        );
        registry.register(
            "autoscaling_concurrency",
            "Requests that one worker serves well at once, as decisions had it",
            self.concurrency.clone(),
        );
        registry.register(
            "autoscaling_decisions",
            "Changed decisions of the autoscaler by reason",
            self.decisions.clone(),
        );
        registry.register(
            "autoscaling_silent_pods",
            "Pods of autoscaled apps that do not report their load",
            self.silent.clone(),
        );
    }

    pub(crate) fn passed(&self, result: &'static str, took: Duration) {
        self.passes.get_or_create(&PassResult { result }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn called(&self, call: Call, result: &'static str) {
        let labels = CallLabels {
            verb: call.verb,
            kind: call.kind,
            result,
        };
        self.calls.get_or_create(&labels).inc();
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn set_watch_age(&self, kind: &'static str, age: Duration) {
        self.watch_age
            .get_or_create(&Kind { kind })
            .set(age.as_secs_f64());
    }

    pub(crate) fn set_namespaces(&self, namespaces: &[(String, State)]) {
        let mut counts = [("watched", 0), ("waiting", 0), ("failing", 0)];
        for (_, state) in namespaces {
            let place = match state {
                State::Synced => 0,
                State::Waiting => 1,
                State::Failing(_) => 2,
            };
            counts[place].1 += 1;
        }
        for (state, count) in counts {
            let labels = NamespaceState { state };
            self.namespaces.get_or_create(&labels).set(count);
        }
    }

    pub(crate) fn set_state(&self, leads: bool, apps: usize) {
        self.leader.set(i64::from(leads));
        self.apps.set(apps as i64);
    }

    pub(crate) fn probed(&self, component: &'static str, result: &'static str) {
        self.probes
            .get_or_create(&ProbeResult { component, result })
            .inc();
    }

    /// Records a changed decision of an autoscaler.
    pub(crate) fn scaled(&self, reason: &Reason, concurrency: f64) {
        let reason = word(reason);
        self.decisions
            .get_or_create(&DecisionReason { reason })
            .inc();
        self.concurrency.observe(concurrency);
    }

    /// Shows how many apps are scaled, how many pods they shall have, and how many balancers and
    /// pods of apps are silent.
    pub(crate) fn set_autoscaled(&self, apps: usize, pods: u32, silent: (usize, usize)) {
        self.autoscaled_apps.set(apps as i64);
        self.wanted_pods.set(i64::from(pods));
        for (component, count) in [(component::BALANCER, silent.0), (component::APP, silent.1)] {
            let labels = Component { component };
            self.silent.get_or_create(&labels).set(count as i64);
        }
    }
}

/// A reason as the value of a label.
const fn word(reason: &Reason) -> &'static str {
    match reason {
        Reason::Started => "started",
        Reason::Requests { .. } => "requests",
        Reason::Peak { .. } => "peak",
        Reason::Growth { .. } => "growth",
        Reason::Backlog { .. } => "backlog",
        Reason::Cpu { .. } => "cpu",
        Reason::Less { .. } => "less",
        Reason::Schedule { .. } => "schedule",
        Reason::Min { .. } => "min",
        Reason::Max { .. } => "max",
        Reason::Zero { .. } => "zero",
        Reason::Unschedulable { .. } => "unschedulable",
        Reason::CrashLooping { .. } => "crash_looping",
        Reason::Refused { .. } => "refused",
        Reason::Unknown => "unknown",
        Reason::Incomplete => "incomplete",
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    /// One of each metric, as the operator of an app whose first slot was taken over exposes them.
    /// The tests of alerts and dashboards read this file, because they have no API server.
    #[test]
    fn the_exposition_is_as_recorded() {
        let metrics = Metrics::default();
        for (result, took) in [("ok", 2), ("ok", 30), ("conflict", 700)] {
            metrics.passed(result, Duration::from_millis(took));
        }
        metrics.called(Call::new("apply", "Deployment"), "ok");
        metrics.called(Call::new("apply", "Deployment"), "conflict");
        metrics.set_state(true, 1);
        metrics.watch_failed("Pod");
        metrics.set_watch_age("Pod", Duration::from_millis(1500));
        metrics.set_namespaces(&[("shop".to_owned(), State::Synced)]);
        metrics.probed("balancer", "ok");
        metrics.probed("app", "miss");
        metrics.set_autoscaled(1, 2, (0, 1));
        metrics.scaled(
            &Reason::Zero {
                after: Duration::from_mins(10),
            },
            20.0,
        );
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        crate::app_metrics::sample().register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let recorded = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fixtures/metrics/operator.txt"
        );
        // The order of series is that of a hash map.
        let mut parts: Vec<String> = Vec::new();
        for line in text.lines() {
            match parts.last_mut() {
                Some(part) if !line.starts_with("# HELP") => {
                    part.push('\n');
                    part.push_str(line);
                }
                _ => parts.push(line.to_owned()),
            }
        }
        let sorted = |part: &String| {
            let mut lines: Vec<&str> = part.lines().collect();
            // Buckets of a histogram have an order of their own.
            if !part.contains("_bucket{") {
                lines.sort_by_key(|line| {
                    (
                        !line.starts_with("# HELP"),
                        !line.starts_with("# TYPE"),
                        line.starts_with('#'),
                        *line,
                    )
                });
            }
            lines.join("\n")
        };
        let text = parts.iter().map(sorted).collect::<Vec<_>>().join("\n") + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(recorded, &text).unwrap();
        }
        let before = std::fs::read_to_string(recorded).unwrap_or_default();
        assert_eq!(text, before, "run this test with UPDATE_GOLDEN=1");
    }
}
