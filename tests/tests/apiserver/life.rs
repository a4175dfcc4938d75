//! An app's life: made, scaled, deleted; under admission that others enable.

use serde_json::{Value, json};

use crate::story::{SOON, condition, story};
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
    // The namespace enforces the strictest Pod Security, and all pods are in.
    assert_eq!(story.pods("hello", "app").len(), 2);
    assert_eq!(story.pods("hello", "balancer").len(), 2);

    story.apply("hello", "replicas: {total: 3}");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["pods"], "3/3");

    // A finalizer of ours would keep it; owner references must do.
    let options = json!({"propagationPolicy": "Foreground"});
    story
        .server
        .api
        .delete(&story.app_path("hello"), &options)
        .unwrap();
    wait::until(SOON, "all of it is gone", || {
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
