//! Tests of pods per node while nodes fill up, appear and are drained, with a cluster autoscaler
//! that adds a node whenever a pod finds none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::long::{cordon, evict};
use crate::story::{Story, condition, is_unschedulable, story};

const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// An autoscaler that adds a node if the scheduler had no node for a pod in two successive checks.
/// A real autoscaler checks every ten seconds.
struct Autoscaler {
    added: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
}

impl Autoscaler {
    fn start(story: &Story, nodes: usize) -> Self {
        let (added, ends) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let scaler = Self {
            added: Arc::clone(&added),
            ends: Arc::clone(&ends),
        };
        let (server, namespace) = (story.server, story.namespace.clone());
        std::thread::spawn(move || {
            let own = Story {
                server,
                namespace: namespace.clone(),
            };
            let mut before: Vec<Value> = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let pods = server.api.list(&own.at("/api/v1", "pods"));
                let pods = pods
                    .unwrap_or_default()
                    .into_iter()
                    .filter(is_unschedulable);
                let waiting: Vec<Value> = pods.map(|pod| pod["metadata"]["uid"].clone()).collect();
                let is_late = waiting.iter().any(|uid| before.contains(uid));
                before = waiting;
                if is_late {
                    let number = nodes + 1 + added.fetch_add(1, Ordering::Relaxed);
                    own.add_node(number);
                }
                std::thread::sleep(CHECK_INTERVAL);
            }
            // The story deletes its namespace.
            std::mem::forget(own);
        });
        scaler
    }

    fn added(&self) -> usize {
        self.added.load(Ordering::Relaxed)
    }
}

impl Drop for Autoscaler {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

impl Story {
    /// Adds a pod that does not belong to the app and takes this many CPUs of a node.
    fn fill(&self, number: usize, cpu: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "hog", "namespace": self.namespace},
            "spec": {
                "nodeName": self.node(number),
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "hog", "image": "registry.test/hog:1",
                    "resources": {"requests": {"cpu": cpu}},
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        });
        self.server.api.apply(&pod).unwrap();
    }

    fn nodes_of(&self, name: &str) -> Vec<String> {
        let pods = self.pods(name, "app");
        let nodes = pods
            .iter()
            .filter_map(|pod| pod["spec"]["nodeName"].as_str());
        let mut nodes: Vec<String> = nodes.map(str::to_owned).collect();
        nodes.sort();
        nodes
    }
}

#[test]
fn a_full_node_neither_keeps_the_app_from_being_ready_nor_grows_the_cluster() {
    let Some(story) = story("full", 3) else {
        return;
    };
    story.fill(2, "3500m");
    let scaler = Autoscaler::start(&story, 3);
    story.apply("hello", "replicas: {perNode: 1}");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["pods"], "2/2");
    let degraded = condition(&app, "Degraded");
    assert_eq!(degraded.reason, "NodesWithoutRoom", "{degraded:?}");
    // An autoscaler would have added a node by now.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(story.nodes_of("hello"), ["full-1", "full-3"]);
    // A new node gets its pod, and causes no further node.
    story.add_node(9);
    story.wait("hello", "a pod for the new node", |app| {
        app["status"]["pods"] == "3/3"
    });
    // The pod that fills a node is deleted.
    story
        .server
        .api
        .delete(&story.at("/api/v1", "pods/hog"), &json!({}))
        .unwrap();
    let app = story.wait("hello", "a pod for the old node", |app| {
        app["status"]["pods"] == "4/4"
    });
    assert_eq!(condition(&app, "Degraded").status, "False");
    assert_eq!(scaler.added(), 0);
}

#[test]
fn a_drain_and_a_rollout_do_not_grow_the_cluster() {
    let Some(story) = story("drain", 3) else {
        return;
    };
    // A pod is so large that no second one fits beside it.
    story.apply(
        "hello",
        "replicas: {perNode: 1}\nresources: {requests: {cpu: '3'}}",
    );
    story.wait_complete("hello");
    let scaler = Autoscaler::start(&story, 3);
    let node = format!("/api/v1/nodes/{}", story.node(1));
    story
        .server
        .api
        .merge(&node, &json!({"spec": {"unschedulable": true}}))
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let pods = story.pods("hello", "app");
    let on_it = pods
        .iter()
        .find(|pod| pod["spec"]["nodeName"] == story.node(1))
        .unwrap();
    let name = on_it["metadata"]["name"].as_str().unwrap();
    let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    story
        .server
        .api
        .post(
            &story.at("/api/v1", &format!("pods/{name}/eviction")),
            &evict,
        )
        .unwrap();
    let app = story.wait("hello", "two pods on two nodes", |app| {
        app["status"]["pods"] == "2/2"
    });
    assert_eq!(condition(&app, "Ready").status, "True");
    story
        .server
        .api
        .merge(&node, &json!({"spec": {"unschedulable": null}}))
        .unwrap();
    story.wait("hello", "three again", |app| app["status"]["pods"] == "3/3");
    assert_eq!(scaler.added(), 0, "while a node was drained");

    story.apply(
        "hello",
        "replicas: {perNode: 1}\nimage: registry.test/app:2\nresources: {requests: {cpu: '3'}}",
    );
    story.wait_complete("hello");
    assert_eq!(story.nodes_of("hello"), ["drain-1", "drain-2", "drain-3"]);
    assert_eq!(scaler.added(), 0, "while pods were replaced");
}

/// The successor of an evicted pod has no node until the operator asks for fewer pods.
#[test]
fn a_drain_causes_no_warning_about_a_pod_without_a_node() {
    let Some(story) = story("quietly", 3) else {
        return;
    };
    story.apply("hello", "");
    story.wait_complete("hello");
    let node = story.node(1);
    cordon(&story, &node, true);
    while evict(&story, &node) > 0 {
        std::thread::sleep(Duration::from_millis(200));
    }
    story.wait("hello", "two pods", |app| app["status"]["pods"] == "2/2");
    story.wait_complete("hello");
    let mut warnings = story.warnings("hello");
    warnings.retain(|warning| !warning.starts_with("SlotTakenOver"));
    assert_eq!(warnings, [""; 0]);
}
