//! Tests with admission that changes fields which the operator writes: the app becomes Ready,
//! the operator writes each object only once, and it still undoes a person's changes.

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::story::{SOON, Story, condition, story};

const GROUP: &str = "admissionregistration.k8s.io/v1";

impl Story {
    /// Adds a policy that changes objects in this namespace by a JSON patch if `applies` holds.
    fn policy(&self, name: &str, group: &str, resource: &str, applies: &str, patch: &str) {
        let policy = json!({
            "apiVersion": GROUP, "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [group], "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"], "resources": [resource],
                }]},
                "matchConditions": [{"name": "applies", "expression": applies}],
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
            },
        });
        let here = json!({"matchLabels": {"kubernetes.io/metadata.name": self.namespace}});
        let binding = json!({
            "apiVersion": GROUP, "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "matchResources": {"namespaceSelector": here}},
        });
        self.server.api.apply(&policy).unwrap();
        self.server.api.apply(&binding).unwrap();
    }

    /// Waits until policies are in force, which takes some time after their creation.
    pub(crate) fn wait_policies(&self, object: &Value, is_changed: impl Fn(&Value) -> bool) {
        wait::until(SOON, "policies are in force", || {
            let stored = self.server.api.check(object).unwrap();
            if is_changed(&stored) {
                Ok(())
            } else {
                Err(stored.to_string())
            }
        })
        .unwrap();
    }

    /// Triggers `count` passes that change nothing but the generation, and waits for each.
    pub(crate) fn passes(&self, name: &str, fields: &str, count: usize) {
        for ttl in 100..100 + count {
            let dns = format!(
                "dns: {{hostname: {}.apps.test, ttl: {ttl}s}}",
                self.namespace
            );
            self.apply(name, &format!("{fields}\n{dns}"));
            self.wait_complete(name);
        }
    }
}

fn image(deployment: &Value) -> &str {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    container["image"].as_str().unwrap()
}

/// The policies are those of a registry mirror and of a platform that sets a label.
#[test]
fn values_that_admission_changes_are_written_once_and_those_that_people_change_are_undone() {
    let Some(story) = story("mirrored", 1) else {
        return;
    };
    let container = "object.spec.template.spec.containers[0].image";
    story.policy(
        "mirror",
        "apps",
        "deployments",
        &format!("!{container}.startsWith('mirror.test/')"),
        &format!(
            r#"[JSONPatch{{op: "replace", path: "/spec/template/spec/containers/0/image", value: "mirror.test/" + {container}}}]"#
        ),
    );
    story.policy(
        "part-of",
        "",
        "services",
        "has(object.metadata.labels) && 'app.kubernetes.io/part-of' in object.metadata.labels",
        r#"[JSONPatch{op: "replace", path: "/metadata/labels/app.kubernetes.io~1part-of", value: "platform"}]"#,
    );
    let probe = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "probe", "namespace": "mirrored", "labels": {"app.kubernetes.io/part-of": "x"}},
        "spec": {"ports": [{"port": 80}]},
    });
    story.wait_policies(&probe, |stored| {
        stored["metadata"]["labels"]["app.kubernetes.io/part-of"] == "platform"
    });
    let fields = "replicas: {total: 2}";
    story.apply("hello", fields);
    story.wait_complete("hello");
    assert_eq!(
        image(&story.deployment("hello")),
        "mirror.test/registry.test/app:1"
    );
    story.passes("hello", fields, 1);
    let before = story.settled_writes();
    story.passes("hello", fields, 5);
    let after = story.server.writes("mirrored");
    assert_eq!(after[before.len()..], [""; 0]);

    // A person changes first a field that admission does not change, then one that it changes.
    for (path, patch) in [
        ("spec.replicas", json!({"spec": {"replicas": 5}})),
        (
            "image",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "mirror.test/evil:1"}]}}}}),
        ),
    ] {
        let mut theirs = patch;
        theirs["apiVersion"] = json!("apps/v1");
        theirs["kind"] = json!("Deployment");
        theirs["metadata"] = json!({"name": "hello", "namespace": "mirrored"});
        story.try_apply(&theirs).unwrap();
        wait::until(SOON, &format!("{path} is undone"), || {
            let live = story.deployment("hello");
            let is = (live["spec"]["replicas"].clone(), image(&live).to_owned());
            if is == (json!(2), "mirror.test/registry.test/app:1".to_owned()) {
                Ok(())
            } else {
                Err(format!("{is:?}"))
            }
        })
        .unwrap();
    }
    story.wait_complete("hello");
    let log = story.server.operator_log();
    let found = log.lines().filter(|line| {
        line.contains("changes fields of this object")
            && line.contains("containers[app].image")
            && line.contains("mirrored")
    });
    assert_eq!(found.count(), 1, "{log}");
}

/// A platform team's policy may mark everything as managed by its own tool.
#[test]
fn objects_are_known_though_a_policy_sets_another_managed_by_on_all_of_them() {
    let Some(story) = story("managed", 1) else {
        return;
    };
    let has =
        "has(object.metadata.labels) && 'app.kubernetes.io/managed-by' in object.metadata.labels";
    let set = r#"[JSONPatch{op: "replace", path: "/metadata/labels/app.kubernetes.io~1managed-by", value: "platform"}]"#;
    let rest =
        r#"[JSONPatch{op: "remove", path: "/metadata/labels/app.kubernetes.io~1managed-by"}]"#;
    for (name, group, resource, patch) in [
        ("managed-core", "", "*", set),
        ("managed-apps", "apps", "*", set),
        ("managed-budgets", "policy", "*", set),
        ("managed-slices", "discovery.k8s.io", "*", rest),
        ("managed-rights", "rbac.authorization.k8s.io", "*", rest),
    ] {
        story.policy(name, group, resource, has, patch);
    }
    let labels = json!({"app.kubernetes.io/managed-by": "x"});
    for probe in [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "probe", "namespace": "managed", "labels": labels},
            "spec": {"ports": [{"port": 80}]},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "probe", "namespace": "managed", "labels": labels},
            "rules": [],
        }),
    ] {
        story.wait_policies(&probe, |stored| {
            stored["metadata"]["labels"]["app.kubernetes.io/managed-by"] != "x"
        });
    }
    story.apply("hello", "replicas: {total: 2}");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["pods"], "2/2");
    let before = story.settled_writes();
    assert_eq!(story.warnings("hello"), [""; 0]);
    story.passes("hello", "replicas: {total: 2}", 5);
    let after = story.server.writes("managed");
    assert_eq!(after[before.len()..], [""; 0]);
    story.apply("hello", "replicas: {total: 1}\nbalancers: {replicas: 1}");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["pods"], "1/1");
}

/// The removed label is one by which the operator selects its objects.
#[test]
fn objects_that_admission_hides_from_the_operator_are_reported_and_written_once() {
    let Some(story) = story("hidden", 1) else {
        return;
    };
    let label = "app.kubernetes.io/component";
    story.policy(
        "hide",
        "",
        "services",
        &format!("has(object.metadata.labels) && '{label}' in object.metadata.labels"),
        r#"[JSONPatch{op: "remove", path: "/metadata/labels/app.kubernetes.io~1component"}]"#,
    );
    let probe = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "probe", "namespace": "hidden", "labels": {label: "x"}},
        "spec": {"ports": [{"port": 80}]},
    });
    story.wait_policies(&probe, |stored| {
        stored["metadata"]["labels"][label].is_null()
    });
    story.apply("hello", "replicas: {total: 1}");
    let app = story.wait("hello", "it is reported", |app| {
        condition(app, "Stalled").reason == "LabelsChanged"
    });
    let message = condition(&app, "Stalled").message;
    assert!(
        message.contains("Service hello-lb-0") && message.contains(label),
        "{message}"
    );
    let before = story.settled_writes();
    story.apply(
        "hello",
        "replicas: {total: 1}\ndns: {hostname: hidden.apps.local}",
    );
    story.wait("hello", "another pass", |app| {
        app["status"]["observedGeneration"] == app["metadata"]["generation"]
    });
    let after = story.settled_writes();
    assert_eq!(after[before.len()..], [""; 0]);
}

/// The removed annotation is the one by which the number of workers reaches running pods.
#[test]
fn an_annotation_that_admission_removes_from_pods_is_written_once_to_each() {
    let Some(story) = story("stripped", 1) else {
        return;
    };
    let has =
        "has(object.metadata.annotations) && 'scaledapp.io/workers' in object.metadata.annotations";
    story.policy(
        "strip",
        "",
        "pods",
        has,
        r#"[JSONPatch{op: "remove", path: "/metadata/annotations/scaledapp.io~1workers"}]"#,
    );
    let probe = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "probe", "namespace": "stripped", "annotations": {"scaledapp.io/workers": "1"}},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "probe", "image": "registry.test/probe:1",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    story.wait_policies(&probe, |stored| {
        stored["metadata"]["annotations"]["scaledapp.io/workers"].is_null()
    });
    story.apply("hello", "replicas: {total: 2}");
    story.wait_complete("hello");
    let fields = "replicas: {total: 2}\nworkers: {count: 7}";
    story.passes("hello", fields, 5);
    let writes = story.server.writes("stripped");
    let found = writes
        .iter()
        .filter(|write| write.starts_with("patch pods "));
    assert_eq!(found.count(), 2, "{writes:?}");
}
