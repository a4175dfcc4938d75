//! Tests of the status if objects of an app are refused, its pods find no node, or nothing is
//! created at all: the conditions name the cause, and its cure if there is one.

use std::time::{Duration, Instant};

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::refusals::quota;
use crate::story::{SOON, condition, story};

/// The status reports the missing `ServiceAccount`, not the pods that are refused because of it.
#[test]
fn a_refused_object_is_named_in_the_status_and_retried_with_growing_pauses() {
    let Some(story) = story("accounts", 1) else {
        return;
    };
    quota(&story, &json!({"count/serviceaccounts": "1"}));
    let begun = Instant::now();
    story.apply("hello", "replicas: {total: 1}");
    let says = [
        "cannot apply a ServiceAccount",
        "exceeded quota: small",
        "raise that ResourceQuota",
    ];
    let is_reported = |app: &Value| {
        ["Ready", "Degraded"].iter().all(|kind| {
            let condition = condition(app, kind);
            condition.reason == "ApplyFailed"
                && says.iter().all(|part| condition.message.contains(part))
        })
    };
    story.wait("hello", "the quota is reported", is_reported);
    let asked = || {
        let writes = story.server.writes("accounts");
        let asked = writes
            .iter()
            .filter(|it| *it == "patch serviceaccounts hello");
        asked.count()
    };
    // Passes follow each other closely. The operator writes the object again after five
    // seconds, then with growing pauses.
    while begun.elapsed() < Duration::from_secs(8) {
        assert!(is_reported(&story.app("hello")));
        let most = 1 + begun.elapsed().as_secs() / 5;
        assert!(
            asked() as u64 <= most,
            "{} in {:?}",
            asked(),
            begun.elapsed()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let path = story.at("/api/v1", "resourcequotas/small");
    story.server.api.delete(&path, &json!({})).unwrap();
    story.wait_complete("hello");
}

/// The status quotes the scheduler's message with a cure. If no scheduler handles the pod, the
/// status says so, too.
#[test]
fn a_pod_that_finds_no_node_is_reported_with_its_cure() {
    let Some(story) = story("no-node", 1) else {
        return;
    };
    let template = |lines: &str| {
        format!(
            "{{replicas: {{total: 1}}, resources: {{}}, podTemplate: {{spec: {{nodeSelector: {{story: no-node}}, tolerations: [{{key: story, operator: Exists}}], {lines}}}}}}}"
        )
    };
    let volumes = "volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]";
    story.apply("scheduler", &template("schedulerName: mine"));
    story.apply("claim", &template(volumes));
    for (app, says) in [
        (
            "scheduler",
            [
                "no scheduler named mine",
                "spec.podTemplate.spec.schedulerName",
            ],
        ),
        (
            "claim",
            [
                "persistentvolumeclaim \"data\" not found",
                "create that PersistentVolumeClaim",
            ],
        ),
    ] {
        let is_reported = |found: &Value| {
            ["Ready", "Degraded"].iter().all(|kind| {
                let it = condition(found, kind);
                it.reason == "Unschedulable" && says.iter().all(|part| it.message.contains(part))
            })
        };
        story.wait(app, "it is reported", is_reported);
        // The event follows the status.
        let warnings = || story.warnings(app);
        let is_reported = || (!warnings().is_empty()).then_some(()).ok_or("no event yet");
        wait::until(SOON, "it is an event", is_reported).unwrap();
        assert_eq!(warnings().len(), 1, "{:?}", warnings());
    }
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}},
    });
    story.make("/api/v1", "persistentvolumeclaims", &claim);
    story.wait("claim", "a claim without a volume is reported", |app| {
        condition(app, "Ready")
            .message
            .contains("kubectl describe pvc")
    });
}

/// If the operator creates nothing, `Ready` and `Degraded` give the reason.
#[test]
fn if_nothing_is_created_ready_and_degraded_give_the_reason() {
    let Some(story) = story("nothing", 1) else {
        return;
    };
    story.apply("paused", "paused: true");
    story.apply(
        "invalid",
        "podTemplate: {spec: {containers: [{name: app, image: other}]}}",
    );
    for (app, reason) in [("paused", "Paused"), ("invalid", "InvalidPodTemplate")] {
        let found = story.wait(app, "the reason is reported", |app| {
            condition(app, "Ready").reason == reason
        });
        let degraded = condition(&found, "Degraded");
        assert_eq!(degraded.reason, reason, "{degraded:?}");
        assert_eq!(
            degraded.status,
            if app == "paused" { "False" } else { "True" }
        );
    }
}
