//! What the admin port shows of the operator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use scaledapp_runtime::{Probe, Routes};
use scaledapp_wire::OperatorStatus;
use serde_json::Value;

use crate::app_metrics::AppMetrics;
use crate::context::Context;
use crate::health::{Health, State};
use crate::lease::Leadership;
use crate::metrics::Metrics;

/// The state that the admin port shows.
#[allow(missing_debug_implementations, reason = "kube's client has none")]
pub struct Report {
    identity: String,
    metrics: Arc<Metrics>,
    apps: AppMetrics,
    health: Arc<Health>,
    registry: Registry,
    view: Mutex<View>,
}

struct View {
    /// Why the operator is not ready yet.
    unready: Option<String>,
    stopping: bool,
    context: Option<Arc<Context>>,
}

impl Report {
    /// A report of an operator that starts.
    pub fn new(identity: String, metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let apps = AppMetrics::default();
        apps.register(&mut registry);
        Self {
            identity,
            metrics,
            apps,
            health,
            registry,
            view: Mutex::new(View {
                unready: Some("starting".to_owned()),
                stopping: false,
                context: None,
            }),
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        // Changes only assign fields, so a panic leaves nothing half done.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what the operator waits for.
    pub fn waits(&self, reason: String) {
        self.view().unready = Some(reason);
    }

    /// Records that the watches have started: from now on, only the first lists are missing.
    pub fn watches(&self, context: Arc<Context>) {
        let mut view = self.view();
        view.context = Some(context);
        view.unready = None;
    }

    /// Each watched namespace with its state; `None` if all namespaces are watched.
    fn namespaces(&self) -> Option<BTreeMap<String, String>> {
        let namespaces = self.health.namespaces();
        let shown = namespaces.into_iter().map(|(name, state)| {
            let state = match state {
                State::Synced => "watched".to_owned(),
                State::Waiting => "waiting for the first lists".to_owned(),
                State::Failing(reason) => reason,
            };
            (name, state)
        });
        let shown: BTreeMap<_, _> = shown.collect();
        (!shown.is_empty()).then_some(shown)
    }

    /// Records that the operator is stopping.
    pub fn stops(&self) {
        self.view().stopping = true;
    }
}

impl Routes for Report {
    fn live(&self) -> Probe {
        // An answer shows that the event loop runs. An unreachable API server is no reason
        // for a restart.
        Ok(())
    }

    fn ready(&self) -> Probe {
        let view = self.view();
        if view.stopping {
            return Err("stopping".to_owned());
        }
        let reason = view.unready.clone().or_else(|| self.health.unsynced());
        reason.map_or(Ok(()), Err)
    }

    fn metrics(&self) -> String {
        for (kind, age) in self.health.ages() {
            self.metrics.set_watch_age(kind, age);
        }
        self.metrics.set_namespaces(&self.health.namespaces());
        // Held until the end, because the series of the apps are replaced.
        let view = self.view();
        if let Some(context) = &view.context {
            let stores = &context.stores;
            let leads = context.caller.leadership.leads();
            self.metrics.set_state(leads, stores.apps.len());
            if leads {
                let slices = stores.endpoint_slices.state();
                self.apps
                    .set(&stores.apps.state(), &slices, &stores.pods.state());
            } else {
                self.apps.set(&[], &[], &[]);
            }
        }
        let mut text = String::new();
        // Writing into a String fails only if a metric fails to encode itself.
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("a metric could not be encoded");
        }
        drop(view);
        text
    }

    fn status(&self) -> Value {
        let ready = self.ready();
        let view = self.view();
        let context = view.context.as_ref();
        let pods = context.map(|context| context.pods_health.counts());
        let pods = pods.into_iter().flatten();
        let leadership = context.map(|context| &context.caller.leadership);
        let status = OperatorStatus {
            apps: context.map_or(0, |context| context.stores.apps.len()),
            identity: self.identity.clone(),
            leader: leadership.and_then(Leadership::holder),
            leads: leadership.is_some_and(Leadership::leads),
            namespaces: self.namespaces(),
            pods: pods.map(|(name, count)| (name.to_owned(), count)).collect(),
            ready: ready.is_ok(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            waits_for: ready.err(),
        };
        // Fails only if a key is not text.
        serde_json::to_value(status).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_that_starts_says_what_it_waits_for() {
        let report = Report::new("a".to_owned(), Arc::default(), Arc::default());
        let golden = include_str!("../../runtime/wire/tests/golden/operator-starting.json");
        assert_eq!(report.status().to_string(), golden.trim_end());
    }
}
