//! What is told where objects of an app are refused, where its pods find no node, and
//! where nothing is made at all: the cause, with its cure, in every condition.

use std::time::{Duration, Instant};

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::refusals::quota;
use crate::story::{SOON, condition, story};

/// An object that is missing is no refused pod.
#[test]
fn a_refused_object_is_told_of_itself_and_asked_about_once() {
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
    let told = |app: &Value| {
        ["Ready", "Degraded"].iter().all(|kind| {
            let condition = condition(app, kind);
            condition.reason == "ApplyFailed"
                && says.iter().all(|part| condition.message.contains(part))
        })
    };
    story.wait("hello", "the quota is told", told);
    let asked = || {
        let writes = story.server.writes("accounts");
        let asked = writes
            .iter()
            .filter(|it| *it == "patch serviceaccounts hello");
        asked.count()
    };
    // Passes follow each other closely; the operator asks again after five seconds, then
    // ever later.
    while begun.elapsed() < Duration::from_secs(8) {
        assert!(told(&story.app("hello")));
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

/// What the scheduler says, or nobody says, has its cure.
#[test]
fn a_pod_that_finds_no_node_is_told_of_with_its_cure() {
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
        let is_told = |found: &Value| {
            ["Ready", "Degraded"].iter().all(|kind| {
                let it = condition(found, kind);
                it.reason == "Unschedulable" && says.iter().all(|part| it.message.contains(part))
            })
        };
        story.wait(app, "it is told", is_told);
        // The event follows the status.
        let warnings = || story.warnings(app);
        let is_told = || (!warnings().is_empty()).then_some(()).ok_or("no event yet");
        wait::until(SOON, "it is an event", is_told).unwrap();
        assert_eq!(warnings().len(), 1, "{:?}", warnings());
    }
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}},
    });
    story.make("/api/v1", "persistentvolumeclaims", &claim);
    story.wait("claim", "a claim without a volume is told", |app| {
        condition(app, "Ready")
            .message
            .contains("kubectl describe pvc")
    });
}

/// Whatever the reason is why nothing more is done, no condition says that all is well.
#[test]
fn where_nothing_is_made_no_condition_says_that_nothing_is_missing() {
    let Some(story) = story("nothing", 1) else {
        return;
    };
    story.apply("paused", "paused: true");
    story.apply(
        "invalid",
        "podTemplate: {spec: {containers: [{name: app, image: other}]}}",
    );
    for (app, reason) in [("paused", "Paused"), ("invalid", "InvalidPodTemplate")] {
        let told = story.wait(app, "the reason is told", |app| {
            condition(app, "Ready").reason == reason
        });
        let degraded = condition(&told, "Degraded");
        assert_eq!(degraded.reason, reason, "{degraded:?}");
        assert_eq!(
            degraded.status,
            if app == "paused" { "False" } else { "True" }
        );
    }
}
