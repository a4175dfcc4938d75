//! Names, labels and owner of everything that belongs to an app, and the hash by which changes are
//! detected.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use scaledapp_crds::words::{APP, MANAGER, component, label};
use scaledapp_crds::{API_VERSION, KIND};
use scaledapp_units::Fnv1a;
use serde::Serialize;

/// The longest app name that is not cut before a suffix is added: with the longest suffix
/// (`-desired`), the result must fit into a DNS label.
const BASE: usize = 63 - "-desired".len();

/// The kind of the account that owns a Role and its binding.
pub(super) const SERVICE_ACCOUNT: &str = "ServiceAccount";

/// The app that owns an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: &'a str,
    pub(super) uid: &'a str,
}

impl Owner<'_> {
    /// `NAME-SUFFIX`. A name that is too long is cut, and a hash keeps it unique.
    pub(super) fn named(&self, suffix: &str) -> String {
        if self.name.len() <= BASE {
            return format!("{}-{suffix}", self.name);
        }
        let hash = hash(self.name.as_bytes());
        let kept = self.name[..BASE - 9].trim_end_matches('-');
        format!("{kept}-{}-{suffix}", &hash[..8])
    }

    /// Name of the objects that belong to one slot.
    pub(super) fn slot(&self, slot: u32) -> String {
        self.named(&format!("lb-{slot}"))
    }

    /// Name of the headless Service that lists the app's pods.
    pub(super) fn pods(&self) -> String {
        self.named("pods")
    }

    /// Name of the `ConfigMap` with the desired state, which containers read at their start.
    pub(super) fn desired(&self) -> String {
        self.named("desired")
    }

    /// The name of the objects that all balancers share.
    pub(super) fn balancers(&self) -> String {
        self.named("lb")
    }

    /// The label that only pods of this project have.
    pub(super) fn mark(&self) -> BTreeMap<String, String> {
        map([(label::APP, self.name)])
    }

    /// The labels by which a Deployment selects its pods. These two labels must never change,
    /// because the selector of a Deployment is immutable.
    pub(super) fn selector(&self, component: &str) -> BTreeMap<String, String> {
        map([(label::INSTANCE, self.name), (label::COMPONENT, component)])
    }

    /// The labels that every object of the app has; some objects have more.
    pub(super) fn labels(&self, component: &str) -> BTreeMap<String, String> {
        let mut labels = self.selector(component);
        labels.extend(map([
            (label::NAME, APP),
            (label::PART_OF, APP),
            (label::MANAGED_BY, MANAGER),
        ]));
        labels
    }

    /// Metadata of an object that the operator creates.
    pub(super) fn meta(&self, name: String, component: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.to_owned()),
            labels: Some(self.labels(component)),
            owner_references: Some(vec![OwnerReference {
                api_version: API_VERSION.to_owned(),
                kind: KIND.to_owned(),
                name: self.name.to_owned(),
                uid: self.uid.to_owned(),
                controller: Some(true),
                // With OwnerReferencesPermissionEnforcement, as on OpenShift, `true` would
                // need a right to the app's finalizers, which the operator does not have.
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        }
    }

    /// Metadata of an object of one slot.
    pub(super) fn slot_meta(&self, slot: u32) -> ObjectMeta {
        let mut meta = self.meta(self.slot(slot), component::BALANCER);
        let labels = meta.labels.get_or_insert_default();
        labels.insert(label::SLOT.to_owned(), slot.to_string());
        meta
    }

    /// Whether this app controls the object.
    pub(super) fn owns(&self, meta: &ObjectMeta) -> bool {
        let owners = meta.owner_references.iter().flatten();
        owners
            .filter(|owner| owner.controller == Some(true))
            .any(|owner| owner.uid == self.uid)
    }
}

pub(super) fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

pub(super) fn selects(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    }
}

/// The number in the slot label.
pub(super) fn slot_of(meta: &ObjectMeta) -> Option<u32> {
    meta.labels.as_ref()?.get(label::SLOT)?.parse().ok()
}

pub(super) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

pub(super) fn annotate(meta: &mut ObjectMeta, name: &str, value: String) {
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(name.to_owned(), value);
}

/// The first `most` bytes of a text or fewer, cut between characters.
pub fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// A duration in the format of the flags and of the pin.
pub(super) fn time(time: Duration) -> String {
    scaledapp_crds::Duration(time).to_string()
}

/// The JSON of a value. Its maps must have text keys.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("invariant: these types have text keys only")
}

/// The FNV-1a hash (64 bit) of `bytes`. It detects changes and is not cryptographic.
pub fn hash(bytes: &[u8]) -> String {
    Fnv1a::default().with(bytes.iter().copied()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_fits_into_a_label_and_two_apps_never_share_one() {
        let owner = |name| Owner {
            name,
            namespace: "n",
            uid: "u",
        };
        assert_eq!(owner("hello").slot(1), "hello-lb-1");
        let (a, b) = ("a".repeat(63), format!("{}b", "a".repeat(62)));
        for name in [&*a, &*b] {
            for named in [
                owner(name).desired(),
                owner(name).slot(7),
                owner(name).pods(),
            ] {
                assert!(named.len() <= 63, "{named}");
            }
        }
        assert_ne!(owner(&a).pods(), owner(&b).pods());
    }
}
