//! Tests of admin ports that are blocked although their pods are ready, for example by a
//! `NetworkPolicy` or by a mesh that enforces mutual TLS. Everything keeps serving, and
//! the status names the blocked connections.

use std::time::Duration;

use serde_json::Value;

use crate::kubelet::Behaviour;
use crate::story::{Story, condition, story};

const READY: Behaviour = Behaviour::Ready(Duration::ZERO);

fn is_app(pod: &Value) -> bool {
    pod["spec"]["containers"][0]["name"] == "app"
}

impl Story {
    /// Waits until Degraded has this reason and a message with these parts; Ready must be true all
    /// the time.
    fn wait_degraded(&self, reason: &str, says: &[&str]) -> Value {
        self.wait("hello", reason, |app| {
            let ready = condition(app, "Ready");
            assert_eq!(ready.status, "True", "{}", app["status"]);
            let degraded = condition(app, "Degraded");
            degraded.reason == reason && says.iter().all(|part| degraded.message.contains(part))
        })
    }

    /// The addresses that a slot leads to.
    fn leads(&self, slot: u32) -> Vec<String> {
        let slices = self.list(
            "/apis/discovery.k8s.io/v1",
            &format!("endpointslices?labelSelector=kubernetes.io/service-name%3Dhello-lb-{slot}"),
        );
        let endpoints = slices.iter().filter_map(|it| it["endpoints"].as_array());
        let addresses = endpoints
            .flatten()
            .filter_map(|it| it["addresses"][0].as_str());
        addresses.map(ToOwned::to_owned).collect()
    }

    fn balancer_address(&self, slot: u32) -> String {
        let pods = self.pods("hello", "balancer");
        let slot = slot.to_string();
        let pod = pods
            .iter()
            .find(|pod| pod["metadata"]["labels"]["scaledapp.io/slot"] == slot);
        pod.unwrap()["status"]["podIP"].as_str().unwrap().to_owned()
    }
}

#[test]
fn an_app_that_the_operator_cannot_reach_serves_and_its_status_names_the_blocked_port() {
    let Some(story) = story("blocked", 1) else {
        return;
    };
    story.rule(|_| Behaviour::Unreachable);
    story.apply("hello", "replicas: {total: 2}");
    // According to the kubelets the app is complete.
    story.wait("hello", "it serves", |app| {
        condition(app, "Ready").status == "True" && app["status"]["serving"] == "2/2"
    });
    let app = story.wait_degraded(
        "PodsUnreachable",
        &[
            "port 9377 of the balancers and of the app's pods",
            "ingress from namespace scaledapp-system to TCP port 9377",
        ],
    );
    assert_eq!(
        condition(&app, "Updated").status,
        "True",
        "{}",
        app["status"]
    );
    assert_eq!(app["status"]["workers"]["summary"], "unknown");
    for slot in 0..2 {
        assert_eq!(story.leads(slot), [story.balancer_address(slot)]);
    }
    // A balancer that becomes ready later than the other may cause another warning.
    let warnings = story.warnings("hello");
    let reports = warnings.iter().filter(|it| it.contains("PodsUnreachable"));
    assert_eq!(reports.count(), 1, "{warnings:?}");
    // The policy is corrected.
    story.rule(|_| READY);
    story.wait_degraded("AsWanted", &[]);
    story.wait("hello", "the workers are known", |app| {
        app["status"]["workers"]["summary"] == "2/2"
    });
}

#[test]
fn a_policy_that_is_added_later_removes_no_address() {
    let Some(story) = story("later", 1) else {
        return;
    };
    story.apply("hello", "replicas: {total: 2}");
    story.wait_complete("hello");
    story.wait("hello", "the workers are known", |app| {
        app["status"]["workers"]["summary"] == "2/2"
    });
    story.rule(|_| Behaviour::Unreachable);
    let app = story.wait_degraded("PodsUnreachable", &["the operator cannot reach port 9377"]);
    assert_eq!(app["status"]["serving"], "2/2");
    assert_eq!(app["status"]["workers"]["summary"], "2/2");
    for slot in 0..2 {
        assert_eq!(story.leads(slot), [story.balancer_address(slot)]);
    }
    // A balancer that its kubelet reports as dead still counts as dead.
    story.rule(|pod| {
        let slot = &pod["metadata"]["labels"]["scaledapp.io/slot"];
        if slot == "0" {
            Behaviour::Crashes(1, "Error: killed")
        } else {
            Behaviour::Unreachable
        }
    });
    let other = story.balancer_address(1);
    story.wait_degraded("AppCrashing", &["balancer: "]);
    story.wait("hello", "the other one answers", |_| {
        story.leads(0) == [other.as_str()]
    });
}

#[test]
fn balancers_that_reach_no_pod_are_reported() {
    let Some(story) = story("blind", 1) else {
        return;
    };
    let blind = r#"{"ready": true, "endpoints": [{"name": "hello-1", "standing": "suspect"}]}"#;
    story.rule(move |pod| {
        if is_app(pod) {
            READY
        } else {
            Behaviour::Says(true, blind)
        }
    });
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    story.wait_degraded(
        "PodsUnreachable",
        &[
            "the balancers cannot reach port 9377 of the app's pods",
            "ingress from the app's balancers to TCP port 9377 and to TCP port 3000",
        ],
    );
    let seen = r#"{"ready": true, "endpoints": [{"name": "hello-1", "standing": "serving"}]}"#;
    story.rule(move |pod| {
        if is_app(pod) {
            READY
        } else {
            Behaviour::Says(true, seen)
        }
    });
    story.wait_degraded("AsWanted", &[]);
    assert_eq!(
        story.warnings("hello").len(),
        1,
        "{:?}",
        story.warnings("hello")
    );
}
