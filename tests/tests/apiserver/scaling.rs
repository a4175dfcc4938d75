//! Tests of scaling by the scale subresource, as `kubectl scale` and an HPA do it. They also
//! check that a clean start, scaling and a rollout cause no Warning.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::kubelet::Behaviour;
use crate::story::{SOON, Story, condition, stays, story};

impl Story {
    /// Scales an app as `kubectl scale` does.
    fn scale(&self, name: &str, replicas: u32) -> Result<Value, crate::api::Refused> {
        let path = format!("{}/scale", self.app_path(name));
        let patch = json!({"spec": {"replicas": replicas}});
        self.server.api.merge(&path, &patch)
    }

    /// Waits until the status counts `pods`, such as `2/2`, and Updated is true.
    fn wait_pods(&self, name: &str, pods: &str) -> Value {
        self.wait(name, pods, |app| {
            app["status"]["pods"] == pods && condition(app, "Updated").status == "True"
        })
    }
}

fn uids(story: &Story) -> Vec<String> {
    // Replaced pods may still be ending.
    let pods = story.staying_pods("hello", "app");
    let uids = pods.iter().filter_map(|it| it["metadata"]["uid"].as_str());
    let mut uids: Vec<String> = uids.map(ToOwned::to_owned).collect();
    uids.sort();
    uids
}

#[test]
fn kubectl_scale_works_with_and_without_replicas_and_a_refusal_names_the_cure() {
    let Some(story) = story("scale", 2) else {
        return;
    };
    // Without `replicas`, there is a pod on each node.
    story.apply("hello", "");
    story.wait_pods("hello", "2/2");
    let scaled = story.scale("hello", 3).unwrap();
    assert_eq!(scaled["spec"]["replicas"], 3);
    story.wait_pods("hello", "3/3");
    let got = story
        .server
        .api
        .get(&format!("{}/scale", story.app_path("hello")))
        .unwrap();
    assert_eq!(got["spec"]["replicas"], 3);
    assert_eq!(got["status"]["replicas"], 3);
    let selector = got["status"]["selector"].as_str().unwrap();
    let selected = format!("pods?labelSelector={}", selector.replace('=', "%3D"));
    // Replaced pods may still be ending.
    let mut pods = story.list("/api/v1", &selected);
    pods.retain(stays);
    assert_eq!(pods.len(), 3, "{selector}");

    // Scaling to the present number replaces no pod.
    let (before, generation) = (
        uids(&story),
        story.deployment("hello")["metadata"]["generation"].clone(),
    );
    story.scale("hello", 3).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    story.wait_pods("hello", "3/3");
    assert_eq!(uids(&story), before);
    assert_eq!(
        story.deployment("hello")["metadata"]["generation"],
        generation
    );

    // Applying without a number keeps the number that scaling has set.
    story.apply("hello", "");
    story.wait_pods("hello", "3/3");
    // Applying with a number undoes the scaling.
    story.apply("hello", "replicas: {total: 2}");
    story.wait_pods("hello", "2/2");
    story.scale("hello", 1).unwrap();
    story.wait_pods("hello", "1/1");
    story.apply("hello", "replicas: {total: 2}");
    story.wait_pods("hello", "2/2");

    for (replicas, cure) in [(0, "give 1 to 5000"), (9_999, "give 1 to 5000")] {
        let refused = story.scale("hello", replicas).unwrap_err();
        assert!(refused.message.contains(cure), "{refused}");
    }
    story.apply("per", "replicas: {perNode: 1}\nresources: {}");
    let refused = story.scale("per", 3).unwrap_err();
    assert!(
        refused
            .message
            .contains("change perNode with `kubectl edit`"),
        "{refused}"
    );
    assert_eq!(story.warnings("hello"), [""; 0]);
}

/// With a `total`, pods may share a node and therefore have another template than with one pod
/// on each node.
#[test]
fn scaling_to_the_present_number_restarts_nothing_and_removing_the_number_undoes_it() {
    let Some(story) = story("same-scale", 2) else {
        return;
    };
    story.apply("hello", "");
    story.wait_pods("hello", "2/2");
    let before = uids(&story);
    story.scale("hello", 2).unwrap();
    story.wait_complete("hello");
    assert_eq!(uids(&story), before);
    // A new node changes nothing for a total.
    story.add_node(3);
    std::thread::sleep(Duration::from_secs(2));
    story.wait_pods("hello", "2/2");
    assert_eq!(uids(&story), before);
    let remove = json!({"spec": {"replicas": null}});
    story
        .server
        .api
        .merge(&story.app_path("hello"), &remove)
        .unwrap();
    story.wait_pods("hello", "3/3");
    let after = uids(&story);
    assert!(before.iter().all(|uid| after.contains(uid)), "{after:?}");
    story.scale("hello", 4).unwrap();
    story.wait_pods("hello", "4/4");
}

#[test]
fn an_hpa_scales_an_app_with_total_and_reports_what_is_missing_without() {
    let Some(story) = story("hpa", 2) else {
        return;
    };
    story.apply("hello", "replicas: {total: 1}\nbalancers: {replicas: 1}");
    story.apply(
        "none",
        "balancers: {replicas: 1}\nresources: {requests: {cpu: 100m}}",
    );
    for name in ["hello", "none"] {
        let hpa = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name, "namespace": "hpa"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp", "name": name},
                "minReplicas": 3, "maxReplicas": 5,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}],
            },
        });
        story.try_apply(&hpa).unwrap();
    }
    // Without any metric, an HPA still raises the number to its minimum.
    story.wait_pods("hello", "3/3");
    let said = |name: &str| {
        let path = format!("horizontalpodautoscalers/{name}");
        let hpa = story
            .server
            .api
            .get(&story.at("/apis/autoscaling/v2", &path));
        condition(&hpa.unwrap(), "AbleToScale")
    };
    assert_eq!(said("hello").status, "True");
    let lacks = wait::until(SOON, "the HPA says what it lacks", || {
        std::thread::sleep(Duration::from_millis(500));
        let said = said("none");
        if said.status == "False" {
            Ok(said)
        } else {
            Err(said.message)
        }
    })
    .unwrap();
    assert!(
        lacks.message.contains(".spec.replicas.total"),
        "{}",
        lacks.message
    );
    // The app's status says what to do. The app that has a `total` gets no warning.
    let told = story.wait("none", "the app says what to do", |app| {
        condition(app, "Degraded").reason == "AutoscalerCannotScale"
    });
    let cure = "kubectl -n hpa scale scaledapp/none --replicas=N";
    assert!(condition(&told, "Degraded").message.contains(cure));
    let warnings = story.warnings("none");
    assert!(
        matches!(&warnings[..], [one] if one.contains(cure)),
        "{warnings:?}"
    );
    assert_eq!(story.warnings("hello"), [""; 0]);
    // Once the field exists, the HPA works.
    story.scale("none", 1).unwrap();
    story.wait_pods("none", "3/3");
    story.wait("none", "nothing is wrong any more", |app| {
        condition(app, "Degraded").status == "False"
    });
}

/// If an HPA is created, is deleted or gets another target, it triggers a pass over the app that it
/// names, even if it names one of the app's Deployments.
#[test]
fn an_hpa_on_a_deployment_of_an_app_is_reported_while_it_exists() {
    let Some(story) = story("hpa-child", 2) else {
        return;
    };
    story.apply("hello", "replicas: {total: 1}\nbalancers: {replicas: 1}");
    story.wait_complete("hello");
    let hpa = |version: &str, kind: &str, name: &str| {
        let hpa = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "scaler", "namespace": "hpa-child"},
            "spec": {
                "scaleTargetRef": {"apiVersion": version, "kind": kind, "name": name},
                "maxReplicas": 5,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}],
            },
        });
        story.try_apply(&hpa).unwrap();
    };
    let told = |part: &str| {
        story.wait("hello", part, |app| {
            condition(app, "Degraded").message.contains(part)
        });
    };
    hpa("apps/v1", "Deployment", "hello");
    told("scaleTargetRef");
    hpa("apps/v1", "Deployment", "hello-lb-0");
    told("spec.balancers.replicas");
    hpa("scaledapp.io/v1alpha1", "ScaledApp", "hello");
    told("nothing is missing");
    hpa("apps/v1", "Deployment", "hello");
    told("scaleTargetRef");
    let path = story.at("/apis/autoscaling/v2", "horizontalpodautoscalers/scaler");
    story.server.api.delete(&path, &json!({})).unwrap();
    told("nothing is missing");
}

/// As on real nodes, pods need a moment to start, and how long depends on the image.
#[test]
fn a_clean_start_scaling_and_rollout_cause_no_warning() {
    let Some(story) = story("calm", 2) else {
        return;
    };
    story.rule(|pod| {
        let new = pod["spec"]["containers"][0]["image"] == "registry.test/app:2";
        Behaviour::Ready(Duration::from_millis(if new { 2_500 } else { 1_000 }))
    });
    let done = AtomicBool::new(false);
    let flips = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            story.server.enter().unwrap();
            let mut seen: Vec<String> = Vec::new();
            while !done.load(Ordering::Relaxed) {
                if let Ok(app) = story.server.api.get(&story.app_path("hello")) {
                    let ready = condition(&app, "Ready").status;
                    let degraded = condition(&app, "Degraded");
                    let is = format!(
                        "Ready {ready}, Degraded {} {}",
                        degraded.status, degraded.reason
                    );
                    if seen.last() != Some(&is) {
                        seen.push(is);
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            seen
        });
        let small = "resources: {requests: {cpu: 100m}}";
        let with = |fields: &str| {
            story.apply("hello", &format!("{small}\n{fields}"));
            story.wait_complete("hello");
            story.wait("hello", "this generation is rolled out", |app| {
                condition(app, "Updated").status == "True"
            });
        };
        with("replicas: {total: 2}");
        with("replicas: {total: 5}");
        with("replicas: {total: 1}");
        with("replicas: {total: 3}\nbalancers: {replicas: 4}");
        with("replicas: {total: 3}\nbalancers: {replicas: 2}\nworkers: {count: 2}");
        with("replicas: {total: 3}\nimage: registry.test/app:2");
        with("replicas: {total: 4}\nimage: registry.test/app:2");
        with("replicas: {perNode: 1}\nimage: registry.test/app:1");
        done.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    });
    assert_eq!(story.warnings("hello"), [""; 0], "{flips:?}");
    let flips: Vec<&String> = flips
        .iter()
        .filter(|it| !it.starts_with("Ready ,"))
        .collect();
    let expected = [
        "Ready False, Degraded False AsWanted",
        "Ready True, Degraded False AsWanted",
    ];
    let shown: Vec<&str> = flips
        .iter()
        .map(|it| it.as_str())
        .filter(|it| !it.contains("Unknown"))
        .collect();
    assert_eq!(shown, expected);
    let events = story.list("/apis/events.k8s.io/v1", "events");
    let returned = events
        .iter()
        .filter(|event| event["reason"] == "SlotReturned");
    assert_eq!(returned.count(), 0);
}
