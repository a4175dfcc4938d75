//! The rights of the chart's service accounts, in all namespaces or only in some.

use serde_json::Value;

use crate::{NAMESPACE, RELEASE, find, flag, refused, rendered};

const NAME: [&str; 2] = [
    "scaledapp-system-scaledapp-operator",
    "scaledapp-system-scaledapp-dns",
];

fn named(objects: &[Value], kind: &str) -> Vec<String> {
    let mut found: Vec<String> = objects
        .iter()
        .filter(|object| object["kind"] == kind)
        .map(|object| {
            let meta = &object["metadata"];
            let namespace = meta["namespace"].as_str().unwrap_or("*");
            format!("{namespace}/{}", meta["name"].as_str().unwrap())
        })
        .collect();
    found.sort();
    found
}

fn resources(object: &Value) -> Vec<&str> {
    let rules = object["rules"].as_array().unwrap().iter();
    let resources = rules.flat_map(|rule| rule["resources"].as_array().unwrap());
    resources.filter_map(Value::as_str).collect()
}

#[test]
fn by_default_all_namespaces_are_watched() {
    let Some(objects) = rendered(&[]) else { return };
    let all = [format!("*/{}", NAME[1]), format!("*/{}", NAME[0])];
    assert_eq!(named(&objects, "ClusterRole"), all);
    assert_eq!(named(&objects, "ClusterRoleBinding"), all);
    // The DNS server reads its Service, and the operator uses its Lease.
    let own = ["dns", "operator"].map(|component| format!("{NAMESPACE}/{RELEASE}-{component}"));
    assert_eq!(named(&objects, "Role"), own);
    assert_eq!(named(&objects, "RoleBinding"), own);
    let operator = find(&objects, "ClusterRole", NAME[0]);
    assert!(resources(operator).contains(&"nodes"));
    assert!(resources(operator).contains(&"deployments"));
    for component in ["operator", "dns"] {
        assert_eq!(flag(&objects, component, "watch-namespace"), [""; 0]);
    }
}

#[test]
fn each_named_namespace_has_a_role_and_the_cluster_role_reads_only_nodes() {
    let Some(objects) = rendered(&["watchNamespaces={team-a,team-b}"]) else {
        return;
    };
    let nodes = [format!("*/{}", NAME[0])];
    assert_eq!(named(&objects, "ClusterRole"), nodes);
    assert_eq!(named(&objects, "ClusterRoleBinding"), nodes);
    let rules = &find(&objects, "ClusterRole", NAME[0])["rules"];
    let expected: Value =
        serde_saphyr::from_str("[{apiGroups: [''], resources: [nodes], verbs: [list, watch]}]")
            .unwrap();
    assert_eq!(*rules, expected);
    let own = ["dns", "operator"].map(|component| format!("{NAMESPACE}/{RELEASE}-{component}"));
    let mut roles = Vec::from(own);
    for namespace in ["team-a", "team-b"] {
        roles.extend(NAME.map(|name| format!("{namespace}/{name}")));
    }
    roles.sort();
    assert_eq!(named(&objects, "Role"), roles);
    assert_eq!(named(&objects, "RoleBinding"), roles);
    for object in &objects {
        let is_binding = object["kind"].as_str().unwrap().ends_with("RoleBinding");
        if is_binding {
            let role = &object["roleRef"];
            let kind = object["kind"].as_str().unwrap();
            assert_eq!(role["kind"], kind.trim_end_matches("Binding"));
            assert_eq!(role["name"], object["metadata"]["name"]);
            assert_eq!(object["subjects"][0]["namespace"], NAMESPACE);
        }
    }
    for component in ["operator", "dns"] {
        let watched = flag(&objects, component, "watch-namespace");
        assert_eq!(watched, ["team-a", "team-b"], "{component}");
    }
}

/// This is for a user who may install, but may not grant rights.
#[test]
fn without_rbac_there_are_service_accounts_but_no_rules() {
    for values in [
        &["rbac.create=false"][..],
        &["rbac.create=false", "watchNamespaces={a}"],
    ] {
        let Some(objects) = rendered(values) else {
            return;
        };
        for kind in ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"] {
            assert_eq!(named(&objects, kind), [""; 0]);
        }
        find(&objects, "ServiceAccount", "scaledapp-operator");
        find(&objects, "ServiceAccount", "scaledapp-dns");
    }
}

#[test]
fn invalid_namespaces_are_refused() {
    for (value, part) in [
        ("watchNamespaces={Team}", "/watchNamespaces/0"),
        ("watchNamespaces={a,a}", "/watchNamespaces"),
        ("watchNamespaces=team", "/watchNamespaces"),
        ("watchNamespaces={*}", "/watchNamespaces/0"),
    ] {
        let Some(message) = refused(&[crate::REGISTRY, value]) else {
            return;
        };
        assert!(message.contains(part), "{value}: {message}");
    }
}
