//! Tests of creation, scaling and deletion of an app, and of objects that belong to others.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kubelet::Behaviour;

use crate::story::{SOON, Story, condition, story};
use scaledapp_tests::wait;

#[test]
fn an_app_comes_up_is_scaled_and_leaves_nothing_behind() {
    let Some(story) = story("life", 2) else {
        return;
    };
    story.apply("hello", "replicas: {total: 2}");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["pods"], "2/2");
    assert_eq!(app["status"]["serving"], "2/2");
    // The namespace enforces the strictest Pod Security, and all pods are admitted.
    assert_eq!(story.pods("hello", "app").len(), 2);
    assert_eq!(story.pods("hello", "balancer").len(), 2);

    story.apply("hello", "replicas: {total: 3}");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["pods"], "3/3");

    // The start of pods takes a moment and causes no warning.
    story.rule(|pod| {
        let new = pod["spec"]["containers"][0]["image"] == "registry.test/app:2";
        Behaviour::Ready(Duration::from_secs(if new { 2 } else { 0 }))
    });
    story.apply("hello", "replicas: {total: 3}\nimage: registry.test/app:2");
    story.wait_complete("hello");
    story.apply("hello", "replicas: {total: 4}\nimage: registry.test/app:2");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["pods"], "4/4");
    assert_eq!(story.warnings("hello"), [""; 0]);

    // The operator sets no finalizer, so owner references must remove everything.
    let options = json!({"propagationPolicy": "Foreground"});
    story
        .server
        .api
        .delete(&story.app_path("hello"), &options)
        .unwrap();
    wait::until(SOON, "all of its objects are gone", || {
        let left = [
            story.list("/apis/scaledapp.io/v1alpha1", "scaledapps"),
            story.list("/apis/apps/v1", "deployments"),
            story.list("/api/v1", "services"),
            story.list("/apis/rbac.authorization.k8s.io/v1", "roles"),
            story.list("/api/v1", "pods"),
        ];
        let left: Vec<&Value> = left
            .iter()
            .flatten()
            .map(|it| &it["metadata"]["name"])
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .unwrap();
}

#[test]
fn pods_per_node_follow_the_nodes() {
    let Some(story) = story("nodes", 2) else {
        return;
    };
    story.apply("hello", "replicas: {perNode: 1}");
    story.wait_complete("hello");
    story.add_node(3);
    let app = story.wait("hello", "a pod for the new node", |app| {
        app["status"]["pods"] == "3/3"
    });
    assert_eq!(
        condition(&app, "Degraded").status,
        "False",
        "{}",
        app["status"]
    );
    let pods = story.pods("hello", "app");
    let mut nodes: Vec<&str> = pods
        .iter()
        .filter_map(|pod| pod["spec"]["nodeName"].as_str())
        .collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["nodes-1", "nodes-2", "nodes-3"]);
}

/// After `kubectl delete --cascade=orphan`, or after a backup is restored, there are objects whose
/// app no longer exists.
#[test]
fn objects_that_an_app_left_behind_become_its_own_again() {
    let Some(story) = story("orphan", 1) else {
        return;
    };
    story.apply("hello", "replicas: {total: 2}");
    story.wait_complete("hello");
    let uids = |story: &Story| -> Vec<Value> {
        let pods = story.pods("hello", "app");
        pods.iter()
            .map(|pod| pod["metadata"]["uid"].clone())
            .collect()
    };
    let before = uids(&story);
    let options = json!({"propagationPolicy": "Orphan"});
    let api = &story.server.api;
    api.delete(&story.app_path("hello"), &options).unwrap();
    wait::until(SOON, "the app is gone", || {
        match api.get(&story.app_path("hello")) {
            Ok(_) => Err("it is there"),
            Err(_) => Ok(()),
        }
    })
    .unwrap();
    // On this API server, adopting an object needs the right to delete it. The operator has
    // no such right for ConfigMaps and accounts, and uses them nevertheless.
    let app = story.apply("hello", "replicas: {total: 2}\nworkers: {count: 3}");
    story.wait_complete("hello");
    let owner = |path: &str| {
        let object = api.get(path).unwrap();
        object["metadata"]["ownerReferences"][0]["uid"].clone()
    };
    let deployment = story.at("/apis/apps/v1", "deployments/hello");
    assert_eq!(owner(&deployment), app["metadata"]["uid"]);
    for left in [
        "serviceaccounts/hello",
        "serviceaccounts/hello-lb",
        "configmaps/hello-desired",
    ] {
        assert_eq!(owner(&story.at("/api/v1", left)), Value::Null, "{left}");
    }
    let map = api.get(&story.at("/api/v1", "configmaps/hello-desired"));
    assert_eq!(map.unwrap()["data"]["workers"], "3");
    assert_eq!(uids(&story), before);
    let told = story.wait("hello", "what would stay is named", |app| {
        condition(app, "Degraded").reason == "NotOwned"
    });
    assert_eq!(story.warnings("hello").len(), 1);
    // The condition is written once.
    let writes = story.settled_writes();
    story.apply(
        "hello",
        "replicas: {total: 2}\nworkers: {count: 3}\ndns: {hostname: o.apps.test}",
    );
    story.wait_complete("hello");
    assert_eq!(story.settled_writes()[writes.len()..], [""; 0]);
    let message = condition(&told, "Degraded").message;
    // The Role and its binding follow the account.
    assert!(!message.contains("role"), "{message}");
    owned_by_hand(&story, &message);
}

/// Runs the command of the message as a user who may delete these objects. Afterwards, the
/// deletion of the app must delete all of them.
fn owned_by_hand(story: &Story, message: &str) {
    let api = &story.server.api;
    let (_, command) = message.split_once("(kubectl ").unwrap();
    let (words, patch) = command.split_once(" -p '").unwrap();
    let patch = patch.strip_suffix("')").unwrap();
    let words: Vec<&str> = words.split(' ').chain(["-p", patch]).collect();
    let Some(ended) = story.server.kubectl(&words) else {
        println!("skipped: kubectl is not compiled");
        return;
    };
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    story.wait("hello", "nothing would stay", |app| {
        condition(app, "Degraded").status == "False"
    });
    api.delete(&story.app_path("hello"), &json!({})).unwrap();
    wait::until(SOON, "nothing stays", || {
        let mut left = Vec::new();
        for kind in ["serviceaccounts", "configmaps", "services"] {
            left.extend(story.list("/api/v1", kind));
        }
        for kind in ["roles", "rolebindings"] {
            left.extend(story.list("/apis/rbac.authorization.k8s.io/v1", kind));
        }
        left.retain(|object| {
            object["metadata"]["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("hello"))
        });
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .unwrap();
}

/// An object without the operator's labels belongs to somebody else.
#[test]
fn an_object_of_somebody_else_with_our_name_is_left_alone() {
    let Some(story) = story("conflict", 1) else {
        return;
    };
    let theirs = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "hello-desired", "namespace": "conflict"},
        "data": {"theirs": "stays"},
    });
    story.try_apply(&theirs).unwrap();
    story.apply("hello", "replicas: {total: 1}");
    let app = story.wait("hello", "the conflict is reported", |app| {
        condition(app, "Stalled").reason == "NameConflict"
    });
    assert!(condition(&app, "Ready").message.contains("hello-desired"));
    let map = story.at("/api/v1", "configmaps/hello-desired");
    assert_eq!(story.server.api.get(&map).unwrap()["data"], theirs["data"]);
}

/// The operator writes a slot's `EndpointSlice` only once a balancer serves, so this conflict
/// appears later than conflicts about other objects.
#[test]
fn an_endpoint_slice_of_somebody_else_is_left_alone() {
    let Some(story) = story("slice", 1) else {
        return;
    };
    let path = story.at("/apis/discovery.k8s.io/v1", "endpointslices/hello-lb-0");
    let theirs = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "hello-lb-0", "namespace": "slice"},
        "addressType": "IPv4", "ports": [],
        "endpoints": [{"addresses": ["10.99.0.1"]}],
    });
    story.try_apply(&theirs).unwrap();
    story.apply("hello", "replicas: {total: 1}");
    let app = story.wait("hello", "the conflict is reported", |app| {
        condition(app, "Stalled").reason == "NameConflict"
            && condition(app, "Degraded").reason == "NameConflict"
    });
    let message = condition(&app, "Stalled").message;
    assert!(message.contains("hello-lb-0"), "{message}");
    let slice = story.server.api.get(&path).unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"][0], "10.99.0.1");
}

#[test]
fn a_persons_change_of_our_object_is_undone_at_once() {
    let Some(story) = story("undone", 1) else {
        return;
    };
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    let api = &story.server.api;
    let map = story.at("/api/v1", "configmaps/hello-desired");
    let token = api.get(&map).unwrap()["data"]["token"].clone();
    for (path, patch, at, value) in [
        (
            "services/hello-lb-0",
            json!({"spec": {"selector": {"app.kubernetes.io/instance": "hello"}}}),
            "/spec/selector",
            Value::Null,
        ),
        (
            "services/hello-pods",
            json!({"spec": {"selector": {"more": "than-that"}}}),
            "/spec/selector/more",
            Value::Null,
        ),
        (
            "configmaps/hello-desired",
            json!({"data": {"token": "another-token-of-somebody"}}),
            "/data/token",
            token,
        ),
    ] {
        let path = story.at("/api/v1", path);
        api.merge(&path, &patch).unwrap();
        wait::until(SOON, &format!("{path} is undone"), || {
            let now = api.get(&path).unwrap();
            let found = now.pointer(at).cloned().unwrap_or_default();
            if found == value {
                Ok(())
            } else {
                Err(found.to_string())
            }
        })
        .unwrap();
    }
    // For the changed selector, Kubernetes has created slices, which it does not delete by itself.
    let slices = "endpointslices?labelSelector=kubernetes.io/service-name%3Dhello-lb-0";
    let names = || -> Vec<String> {
        let slices = story.list("/apis/discovery.k8s.io/v1", slices);
        let names = slices.iter().map(|it| it["metadata"]["name"].to_string());
        names.collect()
    };
    let mut quiet = std::time::Instant::now();
    wait::until(SOON, "the slot has one slice", || {
        let names = names();
        if names != ["\"hello-lb-0\""] {
            quiet = std::time::Instant::now();
        } else if quiet.elapsed() > Duration::from_secs(3) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
        Err(format!("{names:?}"))
    })
    .unwrap();
}

/// The labels include those by which the operator selects its pods. Many charts set such labels.
#[test]
fn pods_of_others_with_the_same_labels_get_no_request() {
    let Some(story) = story("foreign", 1) else {
        return;
    };
    let labels = json!({
        "app.kubernetes.io/instance": "side",
        "app.kubernetes.io/component": "app",
        "app.kubernetes.io/managed-by": "scaledapp-operator",
    });
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "shop", "namespace": "foreign"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "web", "image": "registry.test/shop:1",
                    "ports": [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9377}],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        }},
    });
    story.try_apply(&theirs).unwrap();
    story.apply("side", "replicas: {total: 1}");
    story.wait_complete("side");
    let app = story.wait("side", "the workers of one pod", |app| {
        app["status"]["workers"]["summary"] == "1/1"
    });
    assert_eq!(app["status"]["pods"], "1/1");
    let slices = story.list(
        "/apis/discovery.k8s.io/v1",
        "endpointslices?labelSelector=kubernetes.io/service-name%3Dside-pods",
    );
    let endpoints = slices
        .iter()
        .filter_map(|slice| slice["endpoints"].as_array());
    let names: Vec<&str> = endpoints
        .flatten()
        .filter_map(|it| it["targetRef"]["name"].as_str())
        .collect();
    assert!(
        names.len() == 1 && names[0].starts_with("side-"),
        "{names:?}"
    );
    let selector = app["status"]["selector"].as_str().unwrap();
    assert!(selector.contains("scaledapp.io/app=side"), "{selector}");
}

/// A mesh's webhook adds fields to Deployments, and so does `kubectl set env`.
#[test]
fn additions_of_others_to_a_deployment_stay_and_cause_no_further_writes() {
    let Some(story) = story("added", 1) else {
        return;
    };
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    let path = story.at("/apis/apps/v1", "deployments/hello");
    let added = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "hello", "namespace": "added"},
        "spec": {"template": {"spec": {"containers": [
            {"name": "app", "env": [{"name": "ADDED", "value": "1"}]},
        ]}}},
    });
    story.try_apply(&added).unwrap();
    story.wait("hello", "the new pods", |_| {
        let status = &story.deployment("hello")["status"];
        status["updatedReplicas"] == 1 && status["replicas"] == 1
    });
    story.wait_complete("hello");
    let before = story.deployment("hello");
    // This triggers another pass, for a reason that does not concern the Deployment.
    story.apply("hello", "replicas: {total: 1}\nbalancers: {replicas: 3}");
    story.wait_complete("hello");
    let after = story.server.api.get(&path).unwrap();
    assert_eq!(
        before["metadata"]["generation"],
        after["metadata"]["generation"]
    );
    let env = after["spec"]["template"]["spec"]["containers"][0]["env"].as_array();
    assert!(env.unwrap().iter().any(|it| it["name"] == "ADDED"));
}
