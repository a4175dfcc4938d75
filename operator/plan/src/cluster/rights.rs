//! Whether the Role and the `RoleBinding` of an app's balancers are as they should be.
//!
//! The operator may make both and may neither change nor delete any: RBAC knows no
//! prefix of names, so the right to change ours would be the right to change
//! everybody's. They go with the app, by their owner reference. What somebody else
//! has changed is reported, with the cure. For the same reason a later version that
//! wants other rules has to give the Role another name.

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::drift::carries;
use super::{Kind, Objects};

/// What is wrong with a live one, and the cure; `None` where they are as planned or
/// not there yet.
pub(super) fn difference(planned: &Objects, live: &Objects) -> Option<String> {
    let roles = planned.roles.iter().filter_map(|role| {
        let live = named(&live.roles, role)?;
        let same = equal(&json!({"rules": live.rules}), &json!({"rules": role.rules}));
        wrong(Kind::Role, &live.metadata, same)
    });
    let bindings = planned.role_bindings.iter().filter_map(|binding| {
        let live = named(&live.role_bindings, binding)?;
        let same = equal(
            &json!({"roleRef": live.role_ref, "subjects": live.subjects}),
            &json!({"roleRef": binding.role_ref, "subjects": binding.subjects}),
        );
        wrong(Kind::RoleBinding, &live.metadata, same)
    });
    roles.chain(bindings).next()
}

fn named<'a, T: Metadata<Ty = ObjectMeta>>(live: &'a [T], planned: &T) -> Option<&'a T> {
    let name = &planned.metadata().name;
    live.iter().find(|live| live.metadata().name == *name)
}

/// Both ways: a rule that somebody has added gives as much as one taken away.
fn equal(live: &Value, planned: &Value) -> bool {
    carries::<Value>(live, planned) && carries::<Value>(planned, live)
}

fn wrong(kind: Kind, live: &ObjectMeta, same: bool) -> Option<String> {
    let name = live.name.as_deref().unwrap_or_default();
    let namespace = live.namespace.as_deref().unwrap_or_default();
    let why = if !same {
        "is not as the operator makes it"
    } else if live.owner_references.iter().flatten().next().is_none() {
        "belongs to no ScaledApp, and would stay when this one is deleted"
    } else {
        return None;
    };
    let word = if kind == Kind::Role {
        "role"
    } else {
        "rolebinding"
    };
    Some(format!(
        "the {kind:?} {name} {why}: the operator makes these and never changes them, so delete it (kubectl -n {namespace} delete {word} {name}) and it is made anew"
    ))
}
