//! Which pods belong to an app: those that have a label that no other software sets, and the right
//! creator.
//!
//! `instance` and `component` are common labels: another Deployment with the same two labels would
//! get a share of the requests. Pods of an early version of the operator lack the project's own
//! label, and so do new pods of a template that is still pinned from that version. Selectors use
//! the label once every pod has it, so that an upgrade neither loses nor replaces pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use scaledapp_crds::words::{MANAGER, component, label};
use scaledapp_crds::{API_VERSION, KIND};

use super::meta::Owner;
use super::{Observed, Pod};

/// Prefix of labels and annotations that only this project sets.
const OWN_PREFIX: &str = "scaledapp.io/";

/// The selector of all watches, which uses the labels `instance` and `component`. A Deployment's
/// selector uses the same two labels and is immutable, so these labels of pods do not change.
/// `managed-by` is not used, because policies of some clusters set it on everything.
pub fn watched() -> String {
    let (app, balancer) = (component::APP, component::BALANCER);
    format!(
        "{},{} in ({app},{balancer})",
        label::INSTANCE,
        label::COMPONENT
    )
}

/// Whether an object that [`watched`] selects belongs to this project.
pub fn is_ours(meta: &ObjectMeta) -> bool {
    let labels = meta.labels.iter().flatten();
    let annotations = meta.annotations.iter().flatten();
    let mut owners = meta.owner_references.iter().flatten();
    labels
        .clone()
        .chain(annotations)
        .any(|(name, _)| name.starts_with(OWN_PREFIX))
        || labels
            .into_iter()
            .any(|(name, value)| name == label::MANAGED_BY && value == MANAGER)
        || owners.any(|owner| owner.api_version == API_VERSION && owner.kind == KIND)
}

/// Whether the watches deliver an object as one of this app.
pub fn is_watched(meta: &ObjectMeta, app: &str) -> bool {
    let has = |name: &str, values: &[&str]| {
        let value = meta.labels.as_ref().and_then(|labels| labels.get(name));
        value.is_some_and(|value| values.contains(&value.as_str()))
    };
    has(label::INSTANCE, &[app])
        && has(label::COMPONENT, &[component::APP, component::BALANCER])
        && is_ours(meta)
}

/// The selector of a component's pods, given that new pods have `template`.
pub(super) fn of(
    owner: &Owner<'_>,
    component: &str,
    template: &PodTemplateSpec,
    observed: &Observed,
) -> BTreeMap<String, String> {
    let mut labels = owner.selector(component);
    let meta = template.metadata.as_ref();
    let template_has = meta
        .and_then(|meta| meta.labels.as_ref())
        .is_some_and(|labels| labels.contains_key(label::APP));
    let pods = observed.pods.iter();
    let mut of_it = pods.filter(|pod| pod.component == component);
    if template_has && of_it.all(|pod| pod.marked) {
        labels.insert(label::APP.to_owned(), owner.name.to_owned());
    }
    labels
}

/// The app's own pods, without those that are being deleted.
pub(super) fn app_pods(observed: &Observed) -> impl Iterator<Item = &Pod> {
    let pods = observed.pods.iter();
    pods.filter(|pod| pod.component == component::APP && !pod.deleting)
}

/// A selector as text, for the scale subresource.
pub(super) fn text(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(",")
}

impl Pod {
    /// Whether something else created the pod, although it has the app's labels.
    pub fn is_foreign_to(&self, app: &str) -> bool {
        let owner = Owner {
            name: app,
            namespace: "",
            uid: "",
        };
        let Some(maker) = &self.made_by else {
            return false;
        };
        let deployment = match self.slot {
            Some(slot) => owner.slot(slot),
            None => app.to_owned(),
        };
        // A ReplicaSet is named after its Deployment and the hash of its template.
        maker.rsplit_once('-').map(|(name, _)| name) != Some(&deployment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_objects_are_known_though_a_policy_sets_its_own_managed_by() {
        let meta = |labels: &str, rest: &str| -> ObjectMeta {
            let text =
                format!(r#"{{"labels": {{"app.kubernetes.io/instance": "hello"{labels}}}{rest}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let component = r#","app.kubernetes.io/component": "app""#;
        let theirs = r#","app.kubernetes.io/managed-by": "platform""#;
        let ours = r#","app.kubernetes.io/managed-by": "scaledapp-operator""#;
        let owner = r#","ownerReferences": [{"apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp", "name": "hello", "uid": "u"}]"#;
        let applied = r#","annotations": {"scaledapp.io/applied": "1"}"#;
        for (labels, rest, is) in [
            (format!("{component}{ours}"), "", true),
            (format!("{component}{theirs}"), owner, true),
            (format!("{component}{theirs}"), applied, true),
            (
                format!(r#"{component},"scaledapp.io/app": "hello""#),
                "",
                true,
            ),
            // Any chart may set these labels.
            (component.to_owned(), "", false),
            (format!("{component}{theirs}"), "", false),
            // The watch does not deliver this object.
            (ours.to_owned(), owner, false),
        ] {
            let meta = meta(&labels, rest);
            assert_eq!(is_watched(&meta, "hello"), is, "{meta:?}");
            assert!(!is_watched(&meta, "other"));
        }
    }

    #[test]
    fn a_pod_is_known_by_the_deployment_that_made_it() {
        let made = |maker: Option<&str>, slot: Option<u32>| Pod {
            made_by: maker.map(ToOwned::to_owned),
            slot,
            ..Pod::default()
        };
        for (maker, slot, foreign) in [
            (Some("hello-7f6684675f"), None, false),
            (Some("hello-lb-1-7f6684675f"), Some(1), false),
            (Some("hello-lb-1-7f6684675f"), None, true),
            (Some("hello-lb-0-7f6684675f"), Some(1), true),
            (Some("shop-7f6684675f"), None, true),
            (Some("hello"), None, true),
            (None, None, false),
        ] {
            assert_eq!(
                made(maker, slot).is_foreign_to("hello"),
                foreign,
                "{maker:?}"
            );
        }
    }
}
