//! Whether the Role and the `RoleBinding` of an app's balancers are as they should be.
//!
//! The operator may create them, but neither change nor delete them: RBAC rules cannot select a
//! prefix of names, so a right to change these objects would cover the Roles and `RoleBinding`s
//! of all users. Their owners are the app and the balancers' account, and they are deleted
//! together with their owners; [`super::adoption`] handles objects without an owner reference. If
//! something else changes a Role or `RoleBinding`, this is reported with the cure. A later version
//! of the operator that needs other rules has to give the Role another name, because it cannot
//! change the existing one.

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::drift::carries;
use super::{Kind, Objects};

/// What is wrong with the live Role or binding, and the cure; `None` if they are as planned
/// or do not exist yet.
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

/// Compares in both directions, so that an added rule is found as well as a removed one.
fn equal(live: &Value, planned: &Value) -> bool {
    carries::<Value>(live, planned) && carries::<Value>(planned, live)
}

fn wrong(kind: Kind, live: &ObjectMeta, same: bool) -> Option<String> {
    let name = live.name.as_deref().unwrap_or_default();
    let namespace = live.namespace.as_deref().unwrap_or_default();
    if same {
        return None;
    }
    let word = if kind == Kind::Role {
        "role"
    } else {
        "rolebinding"
    };
    Some(format!(
        "the {kind:?} {name} is not as the operator creates it: the operator creates these and never changes them, so delete it (kubectl -n {namespace} delete {word} {name}); the operator then creates it again"
    ))
}
