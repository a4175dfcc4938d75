//! Tests of what is read from Kubernetes' pods and nodes.

use k8s_openapi::api::core::v1;
use scaledapp_plan::cluster::{Node, Pod};
use serde_json::{Value, json};

fn pod(status: &Value) -> Pod {
    let pod: v1::Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "hello-x", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/component": "balancer", "scaledapp.io/slot": "1"},
        },
        "spec": {
            "nodeName": "n1",
            "initContainers": [{"name": "scaledapp-install", "image": "sidecar:1"}],
            "containers": [{"name": "app"}],
        },
        "status": status,
    }))
    .unwrap();
    Pod::from(&pod)
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"containerStatuses": [{
        "name": "app", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": {"terminated": {"exitCode": 1, "message": "boot\nno database\n"}},
    }]})
}

#[test]
fn the_node_the_address_and_the_readiness_of_a_pod_are_read() {
    let ready = json!({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
    let found = pod(&ready);
    assert_eq!(
        (found.slot, found.ip.as_deref(), found.node.as_deref()),
        (Some(1), Some("10.0.0.1"), Some("n1"))
    );
    assert_eq!(found.sidecar_image.as_deref(), Some("sidecar:1"));
    assert!(found.ready && !found.deleting && found.failure.is_none());
    // An evicted pod stays listed but never runs again.
    assert!(pod(&json!({"phase": "Failed"})).deleting);
    assert!(!pod(&json!({})).ready);
}

#[test]
fn the_reason_why_a_pod_does_not_run_leaves_out_the_name_of_the_pod() {
    let unscheduled = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu",
    }]});
    for (status, reason, message) in [
        (unscheduled, "Unschedulable", "Insufficient cpu"),
        (
            waiting(
                "CreateContainerConfigError",
                "container has runAsNonRoot and image will run as root (pod: \"hello-x_shop(u)\", container: app)",
            ),
            "ContainerConfigError",
            "container has runAsNonRoot and image will run as root",
        ),
        (
            waiting("ImagePullBackOff", "not found"),
            "ImagePullError",
            "not found",
        ),
        (
            waiting("CrashLoopBackOff", "back-off 40s"),
            "AppCrashing",
            "exit code 1: no database",
        ),
    ] {
        let failure = pod(&status).failure.unwrap();
        assert_eq!(
            (failure.reason.as_str(), &*failure.message),
            (reason, message)
        );
    }
    assert_eq!(pod(&waiting("ContainerCreating", "")).failure, None);
}

#[test]
fn what_decides_whether_a_node_takes_pods_is_read() {
    let node = |spec: Value, ready: &str| {
        let node: v1::Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"a": "b"}},
            "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap();
        Node::from(&node)
    };
    let well = node(json!({}), "True");
    assert!(well.schedulable && well.ready && well.labels["a"] == "b");
    assert!(!node(json!({"unschedulable": true}), "True").schedulable);
    assert!(!node(json!({}), "Unknown").ready);
    assert_eq!(
        node(
            json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}),
            "True"
        )
        .taints
        .len(),
        1
    );
}
