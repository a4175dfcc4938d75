//! Tests of the rights of the operator's token on a real API server with the chart's rules,
//! and of a Role that somebody changed.

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::server::SYSTEM;
use crate::story::{SOON, condition, story};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn code(answer: Result<Value, crate::api::Refused>) -> u16 {
    answer.map_or_else(|refused| refused.code, |_| 200)
}

fn binding(name: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    })
}

fn role(name: &str, resource: &str) -> Value {
    let group = if resource == "secrets" {
        ""
    } else {
        "discovery.k8s.io"
    };
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": name},
        "rules": [{"apiGroups": [group], "resources": [resource], "verbs": ["get"]}],
    })
}

#[test]
fn the_token_of_the_operator_reaches_no_access_rules_of_others() {
    let Some(story) = story("rights", 1) else {
        return;
    };
    let admin = &story.server.api;
    let bindings = story.at(RBAC, "rolebindings");
    let roles = story.at(RBAC, "roles");
    admin.post(&bindings, &binding("theirs", "view")).unwrap();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}});
    admin
        .post(&story.at("/api/v1", "configmaps"), &map)
        .unwrap();
    let operator = story
        .server
        .as_account(SYSTEM, "scaledapp-operator")
        .unwrap();
    let none = json!({});
    let theirs = format!("{bindings}/theirs");
    let map = story.at("/api/v1", "configmaps/theirs");
    for (what, answer) in [
        ("delete a RoleBinding", operator.delete(&theirs, &none)),
        (
            "change one",
            operator.merge(&theirs, &json!({"subjects": []})),
        ),
        ("delete all", operator.delete(&bindings, &none)),
        (
            "bind more than it has",
            operator.post(&bindings, &binding("more", "admin")),
        ),
        (
            "give more than it has",
            operator.post(&roles, &role("more", "secrets")),
        ),
        (
            "read Secrets",
            operator.get(&story.at("/api/v1", "secrets")),
        ),
        ("delete a ConfigMap", operator.delete(&map, &none)),
        (
            "bind in the cluster",
            operator.post(&format!("{RBAC}/clusterrolebindings"), &none),
        ),
        (
            "run something in a pod",
            operator.post(&story.at("/api/v1", "pods/p/exec"), &none),
        ),
        (
            "make a token",
            operator.post(&story.at("/api/v1", "serviceaccounts/default/token"), &none),
        ),
    ] {
        assert_eq!(code(answer), 403, "{what}");
    }
    // The negative control: an action that the token is meant for.
    operator
        .post(&roles, &role("less", "endpointslices"))
        .unwrap();
}

#[test]
fn a_role_that_somebody_changed_is_reported_and_created_again_once_it_is_deleted() {
    let Some(story) = story("role", 1) else {
        return;
    };
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    let path = story.at(RBAC, "roles/hello-lb");
    let made = story.server.api.get(&path).unwrap();
    let wider = json!({"rules": [{
        "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
        "verbs": ["get", "list", "watch", "delete"],
    }]});
    story.server.api.merge(&path, &wider).unwrap();
    let app = story.wait("hello", "the change is reported", |app| {
        condition(app, "Degraded").reason == "RightsDiffer"
    });
    let message = condition(&app, "Degraded").message;
    let cure = "kubectl -n role delete role hello-lb";
    assert!(message.contains(cure), "{message}");
    assert_eq!(condition(&app, "Ready").status, "True");
    // The event follows the status.
    let warnings = || {
        let mut warnings = story.warnings("hello");
        warnings.retain(|it| it.starts_with("RightsDiffer: "));
        warnings
    };
    let is_reported = || (!warnings().is_empty()).then_some(()).ok_or("no event yet");
    wait::until(SOON, "the change is an event", is_reported).unwrap();
    assert_eq!(warnings().len(), 1, "{:?}", warnings());

    story.server.api.delete(&path, &json!({})).unwrap();
    story.wait("hello", "the cure helps", |app| {
        condition(app, "Degraded").status == "False"
    });
    let again = story.server.api.get(&path).unwrap();
    assert_eq!(again["rules"], made["rules"]);
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"]);
}

/// An operator with Roles instead of the `ClusterRole` runs beside the operator that watches all
/// namespaces. They do not disturb each other, because they plan the same objects.
#[test]
fn an_operator_with_roles_only_watches_their_namespaces_and_names_the_unreadable_one() {
    let Some(story) = story("watched", 1) else {
        return;
    };
    let other =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "roles-only"}});
    story.server.api.apply(&other).unwrap();
    let values = ["watchNamespaces={watched}", "dns.enabled=false"];
    let server = story.server;
    server.chart("roles", "roles-only", &values).unwrap();
    let words = [
        "--watch-namespace=watched,not-granted",
        "--admin=127.0.0.1:9998",
    ];
    let operator = server
        .operator_as("roles-only", "roles-operator", &words)
        .unwrap();
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    let status = wait::until(
        SOON,
        "its own namespace is watched, the other is not",
        || {
            let status = server
                .admin(9998, "/status")
                .map_err(|error| error.to_string())?;
            let is_so = status["namespaces"]["watched"] == "watched"
                && status["ready"] == true
                && status["namespaces"]["not-granted"]
                    .to_string()
                    .contains("forbidden");
            if is_so {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        },
    )
    .unwrap();
    assert_eq!(status["apps"], 1, "{status}");
    let log = operator.stderr();
    let refused = log
        .lines()
        .filter(|line| line.contains("forbidden") && line.contains("watched"));
    assert_eq!(refused.collect::<Vec<_>>(), [""; 0]);
}
