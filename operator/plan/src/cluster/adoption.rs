//! Finds objects of an earlier app that this app uses without owning them, and says how to set
//! their owner.
//!
//! Objects that remain from an earlier app of the same name (after
//! `kubectl delete --cascade=orphan`, or from a restored backup) become this app's own, if the
//! operator may set their owner. Roles and `RoleBindings` are never changed ([`super::rights`] has
//! the reason): they are deleted with the balancers' `ServiceAccount`, which is their second owner.
//! Where the admission plugin `OwnerReferencesPermissionEnforcement` is on, setting an owner needs
//! the right to delete the object. The operator does not have that right for `ConfigMaps` and
//! `ServiceAccounts`, because RBAC rules cannot select a prefix of names. So a person has to set
//! the owner of these objects, and of Roles that an older operator created with the app as their
//! only owner.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use scaledapp_crds::kubernetes::ScaledApp;
use serde_json::json;

use super::facts::owner;
use super::meta::{Owner, SERVICE_ACCOUNT};
use super::{ObjectKey, Objects, Observed};

/// The path of an object's owners. If the stored object differs from the written one here, the API
/// server did not accept the app as owner.
const OWNERS: &str = "metadata.ownerReferences";

/// Names the objects that the app uses without owning them, and the command that sets their
/// owner; `None` if there are no such objects. `told` says whether the status reports them
/// already: a new leader can know only from the status that the API server refused an owner.
pub(super) fn unowned(
    object: &ScaledApp,
    observed: &Observed,
    planned: &Objects,
    told: bool,
) -> Option<String> {
    let owner = owner(object);
    let is_refused = |key: &ObjectKey| {
        let admitted = observed.admitted.get(key);
        admitted.is_some_and(|admitted| admitted.paths().any(|path| path.starts_with(OWNERS)))
    };
    let mut left = planned.keys();
    left.retain(|key| {
        let live = observed.live.find(key);
        let is_lasting = !key.kind.is_changed() || told || is_refused(key);
        let is_left = |live| !owner.owns(live) && !follows_account(live, &observed.live);
        !key.kind.is_removed() && is_lasting && live.is_some_and(is_left)
    });
    (!left.is_empty()).then(|| sentence(&owner, &left))
}

/// Whether a live `ServiceAccount` owns the object, so that the object is deleted together with
/// it.
fn follows_account(meta: &ObjectMeta, live: &Objects) -> bool {
    let mut owners = meta.owner_references.iter().flatten();
    owners.any(|owner| {
        let mut accounts = live.service_accounts.iter();
        owner.kind == SERVICE_ACCOUNT
            && accounts.any(|account| account.metadata.uid.as_ref() == Some(&owner.uid))
    })
}

fn sentence(owner: &Owner<'_>, left: &[ObjectKey]) -> String {
    let names: Vec<String> = left
        .iter()
        .map(|key| format!("{:?} {}", key.kind, key.name))
        .collect();
    let words: Vec<String> = left
        .iter()
        .map(|key| format!("{}/{}", format!("{:?}", key.kind).to_lowercase(), key.name))
        .collect();
    let owners = owner.meta(String::new(), "").owner_references;
    let patch = json!({"metadata": {"ownerReferences": owners}});
    format!(
        "{} would stay when this app is deleted, because an earlier app has left them and the operator may not set their owner: set it yourself (kubectl -n {} patch {} --type=merge -p '{patch}')",
        names.join(", "),
        owner.namespace,
        words.join(" "),
    )
}
