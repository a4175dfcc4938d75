//! The shape of a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::words::{Reason, annotation};
use serde::Serialize;

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

            /// Writes on each object what its bytes are, the last thing that is done to it.
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
    /// Whether the operator may write an object of this kind after it was made. It
    /// may not where that right would reach everybody's access rules.
    pub fn is_changed(self) -> bool {
        !matches!(self, Self::Role | Self::RoleBinding)
    }

    /// Whether the operator ever removes one while the app lives. Of the others each
    /// app has the same ones from its first day to its last, and they go with it.
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
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// What is to be done. Same input, same plan, byte for byte.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// To be applied, where [`super::is_applied`] says that it is not.
    pub apply: Objects,
    /// To be deleted after that: live ones that this app owns and nothing needs.
    pub delete: Vec<ObjectKey>,
    /// Annotations to be set on pods, last.
    pub touch: Vec<PodAnnotations>,
    /// To be sent after what they speak of was written.
    pub events: Vec<Event>,
    /// Look again after this long, even if nothing changes.
    pub wake: Option<Duration>,
    /// Why nothing but slots was planned.
    pub stalled: Option<Stalled>,
}

/// Annotations to be set on one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodAnnotations {
    /// The pod.
    pub name: String,
    /// Its uid, so that no namesake is meant.
    pub uid: String,
    /// What to set; others stay.
    pub annotations: BTreeMap<String, String>,
}

/// Something that only a person can cure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stalled {
    /// Why, in one word.
    pub reason: Reason,
    /// What is wrong, where, and the cure.
    pub message: String,
}

/// Whether an event tells of trouble.
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
    /// Its type.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Why, in one word.
    pub reason: Reason,
    /// What was done, in one word.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
    /// When that came about which it tells of, if that has a moment: to send it twice
    /// is then to send it once.
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

    /// The metadata of one of them.
    pub fn find(&self, key: &ObjectKey) -> Option<&ObjectMeta> {
        let mut metas = self.metas();
        let found =
            metas.find(|(kind, meta)| *kind == key.kind && meta.name.as_ref() == Some(&key.name));
        found.map(|(_, meta)| meta)
    }
}

/// An older operator blocked the owner's deletion. Where `OwnerReferencesPermissionEnforcement`
/// is on, whoever changes the reference of an object needs the right to delete it, which
/// of some kinds the operator has not: it stays as it is.
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

/// The names that a plan takes: the operator looks which of them exist without the app
/// as controller, and says so in [`super::Observed::foreign`].
///
/// An `EndpointSlice` is planned only once a balancer serves. Its name is looked up with
/// that of its slot's new Service, so that a conflict is told before anything is made.
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
