//! Which pods are the app's: by a label that nobody else sets by accident, and by
//! who made them.
//!
//! `instance` and `component` are everybody's labels: a Deployment of somebody else
//! with the same two would get a share of the requests. Pods that an earlier
//! operator made lack our own label, and so do those of a template that is still
//! the one that it made. Selectors ask for it once every pod has it, so that an
//! upgrade loses none and replaces none.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use scaledapp_crds::words::label;

use super::meta::Owner;
use super::{Observed, Pod};

/// What selects the pods of a component, once those of `template` are among them.
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

/// As text, for the scale subresource.
pub(super) fn text(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(",")
}

impl Pod {
    /// Whether somebody else made it, though its labels say the app's.
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
