//! The types of a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::words::{Reason, annotation};
use serde::Serialize;

use super::certificate::Certificate;
use super::kinds::each_kind;
use super::meta::{annotate, hash, json, slot_of};

macro_rules! objects {
    ($($(#[$about:meta])* $field:ident: $kind:ident = $type:ty;)*) => {
        /// Objects in the order in which they are applied.
        #[derive(Debug, Clone, Default, PartialEq, Serialize)]
        #[serde(rename_all = "camelCase")]
        pub struct Objects {
            $($(#[$about])* pub $field: Vec<$type>,)*
        }

        /// Kinds of [`Objects`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[allow(missing_docs, reason = "they are Kubernetes' own names")]
        pub enum Kind {
            $($kind,)*
        }

        impl Objects {
            /// All metadata, with the kind, in the order of applying.
            pub fn metas(&self) -> impl Iterator<Item = (Kind, &ObjectMeta)> {
                let all = std::iter::empty();
                $(
                    let some = self.$field.iter();
                    let all = all.chain(some.map(|object| (Kind::$kind, &object.metadata)));
                )*
                all
            }

            /// Annotates each object with the hash of its bytes. The objects must not change
            /// afterwards.
            pub(super) fn seal(&mut self, live: &Self) {
                $(
                    keep_owner(&mut self.$field, &live.$field);
                    self.$field.iter_mut().for_each(seal);
                )*
            }
        }
    };
}

each_kind!(objects);

impl Kind {
    /// Whether the operator may write an object of this kind after its creation. The operator may
    /// not change Roles and their bindings: a right to do so would cover those of every user.
    pub fn is_changed(self) -> bool {
        !matches!(self, Self::Role | Self::RoleBinding)
    }

    /// Whether the operator removes objects of this kind while the app exists. Objects of the other
    /// kinds are deleted together with the app.
    pub fn is_removed(self) -> bool {
        match self {
            Self::Service | Self::EndpointSlice | Self::Deployment | Self::PodDisruptionBudget => {
                true
            }
            Self::ConfigMap | Self::ServiceAccount | Self::Role | Self::RoleBinding => false,
        }
    }
}

/// An object in the app's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObjectKey {
    /// The object's kind.
    pub kind: Kind,
    /// The object's name.
    pub name: String,
}

/// What the operator has to do. The same input gives the same plan, byte for byte.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Objects to apply. An object for which [`super::is_applied`] is true needs no request.
    pub apply: Objects,
    /// Live objects that the app no longer needs. They are deleted after all planned objects
    /// were applied.
    pub delete: Vec<ObjectKey>,
    /// The Certificate that is to be written, if it is missing or not as planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// Annotations to be set on pods, after everything else.
    pub touch: Vec<PodAnnotations>,
    /// Events to be sent once the changes that they report have been written.
    pub events: Vec<Event>,
    /// When the next pass is due, even if nothing changes.
    pub wake: Option<Duration>,
    /// Why the plan contains only the slots' `EndpointSlice`s.
    pub stalled: Option<Stalled>,
}

/// Annotations to be set on one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodAnnotations {
    /// The pod's name.
    pub name: String,
    /// The pod's uid, so that a new pod of the same name does not get the annotations.
    pub uid: String,
    /// The annotations to set; other annotations do not change.
    pub annotations: BTreeMap<String, String>,
}

/// A problem that only a person can solve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stalled {
    /// Why, in one word.
    pub reason: Reason,
    /// What is wrong, where, and the cure.
    pub message: String,
}

/// Whether an event reports a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "they are Kubernetes' own names")]
pub enum EventType {
    Normal,
    Warning,
}

/// An event about the `ScaledApp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Whether the event reports a problem.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Why, in one word.
    pub reason: Reason,
    /// What was done, in one word.
    pub action: &'static str,
    /// What happened, in a sentence.
    pub note: String,
    /// When the reported change happened; `None` if that is not known. An event with this time is
    /// stored once, even if it is sent twice.
    #[serde(skip)]
    pub since: Option<Timestamp>,
}

impl Objects {
    /// Kinds and names, in the order of applying.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.metas()
            .filter_map(|(kind, meta)| {
                let name = meta.name.clone()?;
                Some(ObjectKey { kind, name })
            })
            .collect()
    }

    /// The metadata of the object with this key.
    pub fn find(&self, key: &ObjectKey) -> Option<&ObjectMeta> {
        let mut metas = self.metas();
        let found =
            metas.find(|(kind, meta)| *kind == key.kind && meta.name.as_ref() == Some(&key.name));
        found.map(|(_, meta)| meta)
    }
}

/// Keeps `blockOwnerDeletion` as an older operator wrote it. With
/// `OwnerReferencesPermissionEnforcement`, a change of the owner reference needs the right
/// to delete the object, which the operator does not have for all kinds.
fn keep_owner<T: Metadata<Ty = ObjectMeta>>(planned: &mut [T], live: &[T]) {
    for planned in planned {
        let planned = planned.metadata_mut();
        let mut metas = live.iter().map(Metadata::metadata);
        let Some(live) = metas.find(|live| live.name == planned.name) else {
            continue;
        };
        for owner in planned.owner_references.iter_mut().flatten() {
            let mut before = live.owner_references.iter().flatten();
            let before = before.find(|before| before.uid == owner.uid);
            owner.block_owner_deletion = before.and_then(|before| before.block_owner_deletion);
        }
    }
}

fn seal<T: Serialize + Metadata<Ty = ObjectMeta>>(object: &mut T) {
    let hash = hash(json(object).as_bytes());
    annotate(object.metadata_mut(), annotation::APPLIED, hash);
}

/// The names that a plan needs. The operator checks which of them belong to objects that
/// the app does not control, and puts these into [`super::Observed::foreign`].
///
/// An `EndpointSlice` is planned only once a balancer serves. Its name is checked together
/// with that of its slot's new Service, so that a conflict is reported before anything is
/// created.
pub fn names(planned: &Objects, live: &Objects) -> Vec<ObjectKey> {
    let mut keys = planned.keys();
    let is_live = |name: &Option<String>| {
        let mut services = live.services.iter();
        services.any(|service| service.metadata.name == *name)
    };
    for service in &planned.services {
        let meta = &service.metadata;
        let is_new = slot_of(meta).is_some() && !is_live(&meta.name);
        let slice = meta.name.clone().filter(|_| is_new).map(|name| ObjectKey {
            kind: Kind::EndpointSlice,
            name,
        });
        keys.extend(slice.filter(|slice| !keys.contains(slice)));
    }
    keys
}
