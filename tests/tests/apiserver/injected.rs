//! Tests with admission that adds to the operator's objects, as meshes and platform teams do:
//! labels, variables, tolerations, containers, and another grace period. The operator keeps all
//! additions, the app becomes Ready and Updated, and no later pass writes.

use serde_json::{Value, json};

use crate::story::{Story, condition, story};

/// The fields that a policy merges into a pod or, below `spec.template`, into a pod template.
fn merged(of: &str) -> String {
    let (meta, spec) = (format!("{of}.metadata"), format!("{of}.spec"));
    let object = spec.replacen("Object", "object", 1);
    format!(
        "{of}{{
            metadata: {meta}{{labels: {{'mesh.test/injected': 'true'}}, annotations: {{'mesh.test/status': 'injected'}}}},
            spec: {spec}{{
                terminationGracePeriodSeconds: 77,
                containers: [
                    {spec}.containers{{name: {object}.containers[0].name, env: [{spec}.containers.env{{name: 'MESH', value: 'on'}}]}}
                ]
            }}
        }}"
    )
}

/// The items that a policy appends: a toleration, and a container that drops all capabilities.
/// Tolerations and capabilities are lists that server-side apply treats as a single value.
fn appended(path: &str, of: &str) -> String {
    let spec = of.replacen("Object", "object", 1);
    let add = |field: &str, value: &str| {
        format!("[JSONPatch{{op: 'add', path: '{path}/{field}', value: {value}}}]")
    };
    let pool = "{'key': 'mesh.test/pool', 'operator': 'Exists'}";
    let (all, one) = (
        add("tolerations", &format!("[{pool}]")),
        add("tolerations/-", pool),
    );
    let security = format!("{of}.containers.securityContext");
    let mesh = add(
        "containers/-",
        &format!(
            "{of}.containers{{name: 'mesh', image: 'mesh.test/proxy:1', securityContext: {security}{{allowPrivilegeEscalation: false, capabilities: {security}.capabilities{{drop: ['ALL']}}}}}}"
        ),
    );
    format!(
        "(!has({spec}.tolerations) ? {all} : ({spec}.tolerations.exists(it, has(it.key) && it.key == 'mesh.test/pool') ? [] : {one}))
         + ({spec}.containers.exists(it, it.name == 'mesh') ? [] : {mesh})"
    )
}

impl Story {
    /// Adds a policy with two mutations. It applies to created objects, and with `changes` to
    /// changed objects as well.
    fn injects(&self, group: &str, resource: &str, changes: bool, merge: &str, patch: &str) {
        let name = format!("{}-{resource}", self.namespace);
        let operations: &[&str] = if changes {
            &["CREATE", "UPDATE"]
        } else {
            &["CREATE"]
        };
        let group_version = "admissionregistration.k8s.io/v1";
        let policy = json!({
            "apiVersion": group_version, "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [group], "apiVersions": ["v1"],
                    "operations": operations, "resources": [resource],
                }]},
                "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded",
                "mutations": [
                    {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": merge}},
                    {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}},
                ],
            },
        });
        let here = json!({"matchLabels": {"kubernetes.io/metadata.name": self.namespace}});
        let binding = json!({
            "apiVersion": group_version, "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "matchResources": {"namespaceSelector": here}},
        });
        self.server.api.apply(&policy).unwrap();
        self.server.api.apply(&binding).unwrap();
    }
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|it| it["name"].as_str()).collect()
}

/// Checks that a pod or a pod template has everything that the policies add.
fn assert_injected(of: &Value) {
    let spec = &of["spec"];
    assert_eq!(spec["terminationGracePeriodSeconds"], 77, "{spec}");
    assert!(names(&spec["containers"]).contains(&"mesh"), "{spec}");
    assert!(
        names(&spec["containers"][0]["env"]).contains(&"MESH"),
        "{spec}"
    );
    let tolerations = spec["tolerations"].as_array().unwrap();
    let pools = tolerations
        .iter()
        .filter(|it| it["key"] == "mesh.test/pool");
    assert_eq!(pools.count(), 1, "{spec}");
    assert_eq!(of["metadata"]["labels"]["mesh.test/injected"], "true");
}

#[test]
fn what_admission_adds_to_deployments_and_pods_stays_and_costs_no_write() {
    let Some(story) = story("injected", 2) else {
        return;
    };
    let template = merged("Object.spec.template");
    story.injects(
        "apps",
        "deployments",
        true,
        &format!(
            "Object{{metadata: Object.metadata{{labels: {{'mesh.test/team': 'a'}}}}, spec: Object.spec{{template: {template}}}}}"
        ),
        &appended("/spec/template/spec", "Object.spec.template.spec"),
    );
    story.injects(
        "",
        "pods",
        false,
        &merged("Object"),
        &appended("/spec", "Object.spec"),
    );
    let container = json!({
        "name": "app", "image": "registry.test/probe:1",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    let pod = json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    });
    story.wait_policies(
        &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "probe", "namespace": "injected"}, "spec": pod,
        }),
        |stored| stored["metadata"]["labels"]["mesh.test/injected"] == "true",
    );
    story.wait_policies(
        &json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "probe", "namespace": "injected"},
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod},
            },
        }),
        |stored| stored["metadata"]["labels"]["mesh.test/team"] == "a",
    );
    let fields = "replicas: {total: 2}\nenv: [{name: OWN, value: x}]";
    story.apply("hello", fields);
    story.wait_complete("hello");
    let is_out = |app: &Value| condition(app, "Updated").status == "True";
    story.wait("hello", "this generation is out", is_out);
    for name in ["hello", "hello-lb-0"] {
        let deployment = story.deployment(name);
        assert_injected(&deployment["spec"]["template"]);
        assert_eq!(deployment["metadata"]["labels"]["mesh.test/team"], "a");
    }
    for component in ["app", "balancer"] {
        for pod in story.staying_pods("hello", component) {
            assert_injected(&pod);
        }
    }
    story.passes("hello", fields, 1);
    let before = story.settled_writes();
    story.passes("hello", fields, 5);
    let after = story.settled_writes();
    assert_eq!(after[before.len()..], [""; 0]);
    // A release is still rolled out, and people's changes are still undone.
    story.apply("hello", &format!("{fields}\nimage: registry.test/app:2"));
    story.wait("hello", "the release is out", |app| {
        app["status"]["observedGeneration"] == app["metadata"]["generation"] && is_out(app)
    });
    let theirs = json!({"spec": {"replicas": 5}});
    let path = story.at("/apis/apps/v1", "deployments/hello");
    story.server.api.merge(&path, &theirs).unwrap();
    story.wait("hello", "the changed number is undone", |app| {
        story.deployment("hello")["spec"]["replicas"] == 2 && app["status"]["pods"] == "2/2"
    });
    assert_eq!(story.warnings("hello"), [""; 0]);
}
