//! Tests of others who write to the operator's objects: kubectl's rollout commands, people, and
//! tools that make objects match a repository.

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::story::{SOON, Story, condition, story};

impl Story {
    /// Changes a Deployment of the app as a person would.
    fn patch(&self, name: &str, patch: &Value) {
        let path = self.at("/apis/apps/v1", &format!("deployments/{name}"));
        self.server.api.merge(&path, patch).unwrap();
    }

    /// Names of the `ReplicaSet`s of the app that have pods.
    fn sets(&self, name: &str) -> Vec<String> {
        let selector = format!(
            "replicasets?labelSelector=app.kubernetes.io/instance%3D{name},app.kubernetes.io/component%3Dapp"
        );
        let sets = self.list("/apis/apps/v1", &selector);
        let with_pods = sets.iter().filter(|set| set["spec"]["replicas"] != 0);
        with_pods
            .map(|set| set["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Many operators remove the annotation that `kubectl rollout restart` sets. That stops the restart
/// half-way, or causes another restart at the next change.
#[test]
fn a_rollout_restart_is_carried_out_once() {
    let Some(story) = story("restart", 1) else {
        return;
    };
    story.apply("hello", "replicas: {total: 2}");
    story.wait_complete("hello");
    let before = story.sets("hello");
    let at = json!({"kubectl.kubernetes.io/restartedAt": "2026-11-29T18:00:00Z"});
    story.patch(
        "hello",
        &json!({"spec": {"template": {"metadata": {"annotations": at}}}}),
    );
    story.wait("hello", "new pods alone", |_| {
        let sets = story.sets("hello");
        sets.len() == 1 && sets != before
    });
    story.wait_complete("hello");
    let after = story.sets("hello");
    story.apply("hello", "replicas: {total: 3}\nbalancers: {replicas: 1}");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["pods"], "3/3");
    assert_eq!(story.sets("hello"), after);
}

/// After `kubectl rollout pause`, a release does not proceed.
#[test]
fn a_deployment_that_somebody_has_paused_is_reported() {
    let Some(story) = story("pause", 1) else {
        return;
    };
    story.apply("hello", "replicas: {total: 2}");
    story.wait_complete("hello");
    story.patch("hello", &json!({"spec": {"paused": true}}));
    story.apply("hello", "replicas: {total: 2}\nimage: registry.test/app:2");
    let app = story.wait("hello", "it is reported", |app| {
        condition(app, "Updated").reason == "DeploymentPaused"
    });
    let stalled = condition(&app, "Stalled");
    assert_eq!(stalled.status, "True", "{stalled:?}");
    let cure = "kubectl -n pause rollout resume deployment/hello";
    assert!(stalled.message.contains(cure), "{stalled:?}");
    assert_eq!(condition(&app, "Ready").status, "True");
    story.patch("hello", &json!({"spec": {"paused": null}}));
    story.wait_complete("hello");
    // Replaced pods may still be ending.
    let pods = story.staying_pods("hello", "app");
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"].clone();
    assert!(pods.iter().all(|pod| image(pod) == "registry.test/app:2"));
}

/// The API server rewrites quantities in any field that has one.
#[test]
fn amounts_in_any_form_are_written_once() {
    let Some(story) = story("amounts", 1) else {
        return;
    };
    let fields = "
replicas: {total: 1}
resources: {requests: {cpu: 1.5m, memory: 1000Ki}, limits: {cpu: 2000m, memory: 2048Mi}}
env: [{name: EMPTY, value: ''}, {name: B, value: b}]
podTemplate:
  spec:
    nodeSelector: {story: amounts}
    tolerations: [{key: story, operator: Exists}]
    terminationGracePeriodSeconds: 100
    volumes: [{name: tmp, emptyDir: {sizeLimit: 1024Mi}}]
    containers:
    - name: app
      volumeMounts: [{name: tmp, mountPath: /tmp}]
      securityContext: {}
    - name: helper
      image: registry.test/helper:1
      ports: [{containerPort: 80}]
      resources: {limits: {cpu: '0.1', ephemeral-storage: 1e9}}
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
";
    story.apply("hello", fields);
    story.wait_complete("hello");
    let before = story.settled_writes();
    for ttl in 100..105 {
        let dns = format!("{fields}\ndns: {{hostname: amounts.apps.local, ttl: {ttl}s}}");
        story.apply("hello", &dns);
        story.wait_complete("hello");
    }
    let writes = story.server.writes("amounts");
    assert_eq!(writes[before.len()..], [""; 0]);
}

/// Deployment tools track their objects by labels and annotations. They would delete objects of the
/// operator with these labels or annotations.
#[test]
fn labels_of_deployment_tools_stay_on_the_object_that_they_deploy() {
    let Some(story) = story("marks", 1) else {
        return;
    };
    let mut object = story.spec("hello", "replicas: {total: 1}");
    object["metadata"]["labels"] = json!({
        "kustomize.toolkit.fluxcd.io/name": "apps",
        "app.kubernetes.io/instance": "argo-app",
        "helm.sh/chart": "x-1",
    });
    object["metadata"]["annotations"] = json!({
        "argocd.argoproj.io/tracking-id": "argo-app:scaledapp.io/ScaledApp:marks/hello",
        "kustomize.toolkit.fluxcd.io/checksum": "1",
        "meta.helm.sh/release-name": "x",
    });
    story.try_apply(&object).unwrap();
    story.wait_complete("hello");
    for (group, kind) in [
        ("/apis/apps/v1", "deployments"),
        ("/apis/apps/v1", "replicasets"),
        ("/api/v1", "services"),
        ("/api/v1", "pods"),
        ("/api/v1", "configmaps"),
        ("/apis/discovery.k8s.io/v1", "endpointslices"),
        ("/apis/policy/v1", "poddisruptionbudgets"),
        ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    ] {
        for object in story.list(group, kind) {
            let marks = [
                &object["metadata"]["labels"],
                &object["metadata"]["annotations"],
            ];
            let text = marks.map(Value::to_string).concat();
            for mark in ["fluxcd", "argo", "helm.sh"] {
                assert!(!text.contains(mark), "{kind}: {text}");
            }
        }
    }
    // The ScaledApp's spec is as it was applied, so the tools see no difference.
    let live = story.app("hello");
    for (field, wanted) in object["spec"].as_object().unwrap() {
        assert_eq!(live["spec"][field], *wanted, "{field}");
    }
    assert_eq!(
        live["spec"].as_object().unwrap().len(),
        object["spec"].as_object().unwrap().len()
    );
}

#[test]
fn an_object_that_is_deleted_or_loses_its_owner_is_restored() {
    let Some(story) = story("orphans", 1) else {
        return;
    };
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    let pods: Vec<Value> = story.pods("hello", "app");
    for (group, path) in [
        ("/apis/apps/v1", "deployments/hello"),
        ("/api/v1", "services/hello-pods"),
        ("/apis/discovery.k8s.io/v1", "endpointslices/hello-lb-0"),
    ] {
        let at = story.at(group, path);
        let none = json!({"metadata": {"ownerReferences": null}});
        story.server.api.merge(&at, &none).unwrap();
        wait::until(SOON, &format!("{path} has its owner again"), || {
            let object = story.server.api.get(&at).unwrap();
            match object["metadata"]["ownerReferences"][0]["name"].as_str() {
                Some("hello") => Ok(()),
                _ => Err(story.app("hello")["status"].to_string()),
            }
        })
        .unwrap();
    }
    for (group, path) in [
        ("/api/v1", "services/hello-lb-0"),
        ("/apis/discovery.k8s.io/v1", "endpointslices/hello-lb-1"),
        ("/api/v1", "configmaps/hello-desired"),
        ("/apis/rbac.authorization.k8s.io/v1", "roles/hello-lb"),
    ] {
        let at = story.at(group, path);
        story.server.api.delete(&at, &json!({})).unwrap();
        wait::until(SOON, &format!("{path} is there again"), || {
            story.server.api.get(&at)
        })
        .unwrap();
    }
    story.wait_complete("hello");
    assert_eq!(
        story.pods("hello", "app")[0]["metadata"]["uid"],
        pods[0]["metadata"]["uid"]
    );
}
