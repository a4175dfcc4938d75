//! Pods that do not come up: what the status says, in whose words, how soon, and
//! that it says the same until the cause is gone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kubelet::Behaviour;
use crate::story::{Story, condition, story};

const READY: Behaviour = Behaviour::Ready(Duration::ZERO);

fn is_app(pod: &Value) -> bool {
    pod["spec"]["containers"][0]["name"] == "app"
}

fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
}

impl Story {
    /// Waits until Ready says this, and that it is told as one Warning.
    fn wait_told(&self, reason: &str, says: &str) -> Value {
        let app = self.wait("hello", "the reason", |app| {
            let degraded = condition(app, "Degraded");
            degraded.reason == reason && degraded.message.contains(says)
        });
        let updated = condition(&app, "Updated");
        assert_eq!((&*updated.status, &*updated.reason), ("False", reason));
        app
    }
}

#[test]
fn an_image_that_cannot_be_pulled_is_named_for_app_init_container_and_balancer() {
    let Some(story) = story("pull", 1) else {
        return;
    };
    let missing = "failed to pull registry.test/x: not found";
    story.rule(move |pod| {
        if is_app(pod) {
            Behaviour::InitWaits("ErrImagePull", missing)
        } else {
            READY
        }
    });
    story.apply("hello", "replicas: {total: 1}");
    let app = story.wait_told("ImagePullError", missing);
    assert_eq!(condition(&app, "Ready").reason, "ImagePullError");
    story.rule(move |pod| {
        if is_app(pod) {
            READY
        } else {
            Behaviour::Waits("ImagePullBackOff", missing)
        }
    });
    story.wait_told("ImagePullError", "balancer: failed to pull");
    story.rule(|_| READY);
    story.wait_complete("hello");
    let warnings = story.warnings("hello");
    assert!(warnings.len() <= 2, "{warnings:?}");
}

#[test]
fn what_refuses_pods_is_told_in_its_own_words() {
    let Some(story) = story("refused", 1) else {
        return;
    };
    let quota = |hard: &Value| json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "refused"}, "spec": {"hard": hard}});
    story.try_apply(&quota(&json!({"pods": "2"}))).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    story.apply("hello", "replicas: {total: 4}");
    story.wait_told("PodsRefused", "exceeded quota: q");
    story.try_apply(&quota(&json!({"pods": "20"}))).unwrap();
    story
        .server
        .api
        .delete(&story.app_path("hello"), &json!({}))
        .unwrap();

    // Pod Security, by what the user lays over ours.
    let root = "replicas: {total: 1}\npodTemplate: {spec: {hostNetwork: true}}";
    story.apply("hello", root);
    story.wait_told("PodsRefused", "violates PodSecurity");
}

/// A release that crashes, while the old one serves.
#[test]
fn a_pipeline_sees_that_a_release_is_not_out_and_the_old_pods_stay() {
    let Some(story) = story("release", 1) else {
        return;
    };
    let words = "throw e\n^\nError: no database\n    at main (server.js:3:7)\n\nNode.js v18.20.4\n";
    story.rule(move |pod| match image(pod) {
        "registry.test/app:2" => Behaviour::Crashes(1, words),
        _ => READY,
    });
    story.apply("hello", "replicas: {total: 2}");
    let app = story.wait_complete("hello");
    assert_eq!(condition(&app, "Updated").status, "True");
    assert_eq!(story.warnings("hello"), [""; 0], "a first start");
    story.apply("hello", "replicas: {total: 2}\nimage: registry.test/app:2");
    let app = story.wait_told("AppCrashing", "exit code 1: Error: no database");
    // Both old pods serve on.
    assert_eq!(condition(&app, "Ready").status, "True");
    assert_eq!(app["status"]["readyReplicas"], 2);
    // Through two restarts it says the same, and is not written again.
    let begun = Instant::now();
    let mut seen = BTreeSet::new();
    while begun.elapsed() < Duration::from_secs(5) {
        seen.insert(condition(&story.app("hello"), "Degraded").message);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    story.apply("hello", "replicas: {total: 2}\nimage: registry.test/app:3");
    let app = story.wait_complete("hello");
    assert_eq!(condition(&app, "Updated").status, "True");
    let warnings = story.warnings("hello");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn nobody_takes_a_fresh_object_for_done() {
    let Some(story) = story("fresh", 1) else {
        return;
    };
    let made = story.apply("hello", "replicas: {total: 1}");
    assert_eq!(made["status"]["observedGeneration"], -1, "{made}");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["observedGeneration"], 1);
}
