//! Decides which metrics the apps themselves have: their conditions, and who answers at their
//! slots. Alerts need the app's name, so these are the only metrics of the operator whose labels
//! name an object.
//!
//! Everything is derived from the watched objects when metrics are read, so a deleted app leaves
//! no series behind. Of more than [`MAX_APPS`] apps, the rest is only counted.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::words::{condition, label};

use crate::stores::Guarded;

/// The largest number of apps with series of their own. Each has six series for its conditions and
/// one for each slot.
const MAX_APPS: usize = 1000;
/// The largest number of slots of an app with series of their own.
const MAX_SLOTS: u32 = 64;

const TYPES: [&str; 6] = [
    condition::READY,
    condition::UPDATED,
    condition::PROGRESSING,
    condition::DEGRADED,
    condition::RECONCILING,
    condition::STALLED,
];
const STATUSES: [&str; 3] = ["True", "False", "Unknown"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionLabels {
    namespace: String,
    app: String,
    r#type: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SlotLabels {
    namespace: String,
    app: String,
    slot: u32,
    own: &'static str,
}

/// The metrics of the apps.
#[derive(Debug, Default)]
pub(crate) struct AppMetrics {
    conditions: Family<ConditionLabels, Gauge>,
    holders: Family<SlotLabels, Gauge>,
    unlisted: Gauge,
}

impl AppMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("scaledapp_operator");
        registry.register(
            "condition",
            "1 for the present status of each condition of each app; only the leader has these",
            self.conditions.clone(),
        );
        registry.register(
            "slot_holder",
            "1 for each slot that leads to a balancer: its own, or others (own=\"false\"); only the leader has these",
            self.holders.clone(),
        );
        registry.register(
            "apps_unlisted",
            "Apps that are too many to have series of their own",
            self.unlisted.clone(),
        );
    }

    /// Replaces all series by those of these objects. The caller must let nobody read meanwhile.
    pub(crate) fn set(
        &self,
        apps: &[Arc<Guarded>],
        slices: &[Arc<EndpointSlice>],
        pods: &[Arc<Pod>],
    ) {
        self.conditions.clear();
        self.holders.clear();
        let mut apps: Vec<&ScaledApp> = apps.iter().filter_map(|it| it.0.as_ref().ok()).collect();
        apps.sort_by_key(|app| (&app.metadata.namespace, &app.metadata.name));
        let listed = apps.len().min(MAX_APPS);
        self.unlisted.set((apps.len() - listed) as i64);
        apps.truncate(listed);
        for app in &apps {
            self.set_conditions(app);
        }
        let by_uid = pods.iter().map(|pod| (pod.metadata.uid.as_deref(), &**pod));
        let by_uid: HashMap<Option<&str>, &Pod> = by_uid.collect();
        for slice in slices {
            let name = labelled(&slice.metadata, label::INSTANCE);
            let of_listed = apps.binary_search_by_key(&(&slice.metadata.namespace, name), |app| {
                (&app.metadata.namespace, app.metadata.name.as_deref())
            });
            if of_listed.is_ok() {
                self.set_holder(slice, &by_uid);
            }
        }
    }

    fn set_conditions(&self, app: &ScaledApp) {
        for condition in app.status.iter().flat_map(|status| &status.conditions) {
            let known = |words: &[&'static str], word: &str| {
                words.iter().copied().find(|known| *known == word)
            };
            // A newer operator may have written a type that this one does not know.
            if let Some(r#type) = known(&TYPES, &condition.type_)
                && let Some(status) = known(&STATUSES, &condition.status)
            {
                let labels = ConditionLabels {
                    namespace: app.metadata.namespace.clone().unwrap_or_default(),
                    app: app.metadata.name.clone().unwrap_or_default(),
                    r#type,
                    status,
                };
                self.conditions.get_or_create(&labels).set(1);
            }
        }
    }

    fn set_holder(&self, slice: &EndpointSlice, pods: &HashMap<Option<&str>, &Pod>) {
        let slot = labelled(&slice.metadata, label::SLOT).and_then(|slot| slot.parse().ok());
        let mut targets = slice.endpoints.iter().flatten();
        let target = targets.find_map(|endpoint| endpoint.target_ref.as_ref()?.uid.as_ref());
        let (Some(slot), Some(target)) = (slot.filter(|slot| *slot < MAX_SLOTS), target) else {
            return;
        };
        let holder = pods.get(&Some(target.as_str()));
        // Other balancers are listed only while they exist, so a pod that is gone was the slot's own.
        let own = holder.is_none_or(|pod| {
            labelled(&pod.metadata, label::SLOT) == labelled(&slice.metadata, label::SLOT)
        });
        let labels = SlotLabels {
            namespace: slice.metadata.namespace.clone().unwrap_or_default(),
            app: labelled(&slice.metadata, label::INSTANCE)
                .unwrap_or_default()
                .to_owned(),
            slot,
            own: if own { "true" } else { "false" },
        };
        self.holders.get_or_create(&labels).set(1);
    }
}

fn labelled<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(name).map(String::as_str)
}

/// The metrics of one app whose first slot was taken over, for tests.
#[cfg(test)]
pub(crate) fn sample() -> AppMetrics {
    let metrics = AppMetrics::default();
    for (r#type, status) in [
        ("Ready", "True"),
        ("Degraded", "True"),
        ("Stalled", "False"),
    ] {
        let (namespace, app) = ("shop".to_owned(), "shop".to_owned());
        let labels = ConditionLabels {
            namespace,
            app,
            r#type,
            status,
        };
        metrics.conditions.get_or_create(&labels).set(1);
    }
    for (slot, own) in [(0, "false"), (1, "true")] {
        let (namespace, app) = ("shop".to_owned(), "shop".to_owned());
        let labels = SlotLabels {
            namespace,
            app,
            slot,
            own,
        };
        metrics.holders.get_or_create(&labels).set(1);
    }
    metrics
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;
    use prometheus_client::encoding::text::encode;
    use serde_json::{Value, json};

    use super::*;

    fn app(name: &str, conditions: &Value) -> Arc<Guarded> {
        let object = json!({
            "apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"image": "a", "command": ["x"]},
            "status": {"conditions": conditions},
        });
        Arc::new(DeserializeGuard(
            Ok(serde_json::from_value(object).unwrap()),
        ))
    }

    fn condition_of(kind: &str, status: &str) -> Value {
        json!({
            "type": kind, "status": status, "reason": "R", "message": "",
            "lastTransitionTime": "2026-11-24T00:00:00Z",
        })
    }

    fn pod(uid: &str, slot: &str) -> Arc<Pod> {
        let object = json!({"metadata": {"uid": uid, "labels": {"scaledapp.io/slot": slot}}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn slice(app: &str, slot: &str, uid: &str) -> Arc<EndpointSlice> {
        let labels = json!({"scaledapp.io/slot": slot, "app.kubernetes.io/instance": app});
        let object = json!({
            "metadata": {"namespace": "shop", "name": format!("{app}-lb-{slot}"), "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"uid": uid}}],
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn text(metrics: &AppMetrics) -> Vec<String> {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn conditions_and_holders_have_one_series_each_and_a_change_leaves_none_behind() {
        let metrics = AppMetrics::default();
        let before = json!([condition_of("Ready", "False"), condition_of("New", "True")]);
        let pods = [pod("a", "0"), pod("b", "1")];
        let taken = [slice("web", "0", "b"), slice("web", "1", "b")];
        metrics.set(&[app("web", &before)], &taken, &pods);
        assert_eq!(
            text(&metrics),
            [
                "scaledapp_operator_apps_unlisted 0",
                "scaledapp_operator_condition{namespace=\"shop\",app=\"web\",type=\"Ready\",status=\"False\"} 1",
                "scaledapp_operator_slot_holder{namespace=\"shop\",app=\"web\",slot=\"0\",own=\"false\"} 1",
                "scaledapp_operator_slot_holder{namespace=\"shop\",app=\"web\",slot=\"1\",own=\"true\"} 1",
            ]
        );
        let after = json!([condition_of("Ready", "True")]);
        metrics.set(&[app("web", &after)], &[slice("web", "0", "gone")], &pods);
        assert_eq!(
            text(&metrics),
            [
                "scaledapp_operator_apps_unlisted 0",
                "scaledapp_operator_condition{namespace=\"shop\",app=\"web\",type=\"Ready\",status=\"True\"} 1",
                "scaledapp_operator_slot_holder{namespace=\"shop\",app=\"web\",slot=\"0\",own=\"true\"} 1",
            ]
        );
        metrics.set(&[], &[slice("web", "0", "b")], &pods);
        assert_eq!(text(&metrics), ["scaledapp_operator_apps_unlisted 0"]);
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let metrics = AppMetrics::default();
        let conditions = json!([condition_of("Ready", "True")]);
        let apps: Vec<_> = (0..MAX_APPS + 3)
            .map(|number| app(&format!("app-{number:04}"), &conditions))
            .collect();
        let slices = [slice("app-0000", "64", "a"), slice("app-1002", "0", "a")];
        metrics.set(&apps, &slices, &[]);
        let lines = text(&metrics);
        assert_eq!(lines.len(), MAX_APPS + 1);
        assert!(lines.contains(&"scaledapp_operator_apps_unlisted 3".to_owned()));
    }
}
