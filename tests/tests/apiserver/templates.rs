//! Tests of users' pod templates with a real API server: quotas and limit ranges, refused
//! templates, drains, and image volumes.

use std::time::Duration;

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::kubelet::Behaviour;
use crate::story::{SOON, Story, condition, story};

const SMALL: &str = "{requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 200m, memory: 128Mi}}";

impl Story {
    /// An app with this `podTemplate.spec` and the story's placement.
    fn with_template(&self, fields: &str, template: &Value) -> Value {
        let mut app = self.spec("hello", fields);
        let spec = &mut app["spec"]["podTemplate"]["spec"];
        for (field, value) in template.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        app
    }

    fn template(&self, name: &str) -> Value {
        self.deployment(name)["spec"]["template"].clone()
    }
}

/// The requests and limits of each container are large enough for the limit range.
#[test]
fn a_quota_on_requests_and_limits_and_a_limit_range_let_all_pods_in() {
    let Some(story) = story("quota", 2) else {
        return;
    };
    let hard = json!({"requests.cpu": "4", "requests.memory": "4Gi", "limits.cpu": "8", "limits.memory": "8Gi"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "quota"}, "spec": {"hard": hard}});
    story.try_apply(&quota).unwrap();
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r", "namespace": "quota"},
        "spec": {"limits": [{"type": "Container", "min": {"cpu": "50m", "memory": "48Mi"}, "maxLimitRequestRatio": {"cpu": "4", "memory": "10"}}]}});
    story.try_apply(&range).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let fields = format!("replicas: {{total: 2}}\nresources: {SMALL}\n");
    story.apply("hello", &fields);
    // The operator's default for balancers has no CPU limit.
    let app = story.wait("hello", "the balancers' problem is reported", |app| {
        condition(app, "Degraded").message.starts_with("balancer: ")
    });
    let shown = condition(&app, "Degraded");
    assert_eq!(shown.reason, "PodsRefused");
    assert!(
        shown.message.contains("limits.cpu") || shown.message.contains("cpu max limit to request"),
        "{}",
        shown.message
    );
    assert!(
        shown.message.contains("spec.balancers.resources"),
        "{}",
        shown.message
    );
    story.apply(
        "hello",
        &format!("{fields}balancers: {{resources: {SMALL}}}"),
    );
    story.wait_complete("hello");
    let pods = [story.pods("hello", "app"), story.pods("hello", "balancer")].concat();
    assert_eq!(pods.len(), 4);
    for pod in &pods {
        let spec = &pod["spec"];
        let lists = [&spec["containers"], &spec["initContainers"]];
        for container in lists.iter().filter_map(|list| list.as_array()).flatten() {
            assert_eq!(
                container["resources"]["limits"]["cpu"], "200m",
                "{container}"
            );
            assert_eq!(
                container["resources"]["requests"]["memory"], "64Mi",
                "{container}"
            );
        }
    }
}

#[test]
fn fields_of_our_containers_are_applied_and_probes_are_replaced_as_a_whole() {
    let Some(story) = story("said", 1) else {
        return;
    };
    let amounts = json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}});
    let template = json!({
        "initContainers": [{"name": "scaledapp-install", "resources": amounts}],
        "containers": [{
            "name": "app",
            "livenessProbe": {"exec": {"command": ["/bin/true"]}},
            "readinessProbe": {"tcpSocket": {"port": 3000}},
        }],
    });
    story
        .try_apply(&story.with_template("replicas: {total: 1}", &template))
        .unwrap();
    story.wait_complete("hello");
    let pod = story.template("hello")["spec"].clone();
    assert_eq!(pod["initContainers"][0]["resources"], amounts);
    let app = &pod["containers"][0];
    assert_eq!(app["readinessProbe"]["tcpSocket"]["port"], 3000);
    assert!(app["readinessProbe"]["httpGet"].is_null(), "{app}");
    assert_eq!(
        app["livenessProbe"]["exec"]["command"],
        json!(["/bin/true"])
    );
    assert!(app["livenessProbe"]["httpGet"].is_null(), "{app}");
    // Without the user's probes, the operator's probes are complete again.
    story.apply("hello", "replicas: {total: 1}");
    story.wait("hello", "our probes", |_| {
        let probe = &story.template("hello")["spec"]["containers"][0]["readinessProbe"];
        probe["httpGet"]["path"] == "/readyz" && probe["tcpSocket"].is_null()
    });
    story.wait_complete("hello");
}

/// Values of `podTemplate.spec` that only the API server can refuse, each with a part of the
/// message.
fn refused() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({"containers": [{"name": "app", "resources": {"limits": {"cpu": "500m"}}}]}),
            "spec.podTemplate.spec.containers[0].resources.requests: Invalid value",
        ),
        (
            json!({"tolerations": [{"key": "a", "operator": "Wrong"}]}),
            "spec.podTemplate.spec.tolerations[0].operator: Unsupported value",
        ),
        (
            json!({"containers": [{"name": "mesh", "image": "m", "ports": [{"containerPort": 99_999}]}]}),
            "spec.podTemplate.spec.containers[0].ports[0].containerPort: Invalid value",
        ),
        (
            json!({"containers": [{"name": "app", "volumeMounts": [{"name": "none", "mountPath": "/x"}]}]}),
            "spec.podTemplate.spec.containers[0].volumeMounts",
        ),
        (
            json!({"nodeSelector": {"a b": "c"}}),
            "spec.podTemplate.spec.nodeSelector",
        ),
        (
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}}),
            "spec.podTemplate.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}),
            "spec.podTemplate.spec.topologySpreadConstraints[0].maxSkew: Invalid value",
        ),
        (
            json!({"priorityClassName": "Not_A_Name"}),
            "spec.podTemplate.spec.priorityClassName: Invalid value",
        ),
        // The next two templates are refused by server-side apply itself, with messages of another
        // form.
        (
            json!({"containers": [{"name": "mesh", "image": "m", "ports": [{"containerPort": 1, "protocol": "TCP"}, {"containerPort": 1, "protocol": "TCP"}]}]}),
            "spec.podTemplate.spec.containers[0].ports",
        ),
        (
            json!({"hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}),
            "spec.podTemplate.spec.hostAliases",
        ),
        (
            json!({"containers": [{"name": "app", "livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}]}),
            "spec.podTemplate.spec.containers[0].livenessProbe",
        ),
        (
            json!({"securityContext": {"runAsUser": -5}}),
            "spec.podTemplate.spec.securityContext.runAsUser: Invalid value",
        ),
    ]
}

#[test]
fn a_refusal_of_the_api_server_stalls_with_the_users_field() {
    let Some(story) = story("invalid", 1) else {
        return;
    };
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    let uid = story.pods("hello", "app")[0]["metadata"]["uid"].clone();
    let stalled = |expected: &str, object: &Value| {
        let generation = story.try_apply(object).unwrap()["metadata"]["generation"].clone();
        let app = story.wait("hello", expected, |app| {
            app["status"]["observedGeneration"] == generation
                && condition(app, "Stalled").status == "True"
        });
        let shown = condition(&app, "Stalled");
        assert!(shown.message.contains(expected), "{expected}: {shown:?}");
        assert_eq!(condition(&app, "Reconciling").status, "False");
        // The running pods keep serving.
        assert_eq!(condition(&app, "Ready").status, "True");
        shown
    };
    for (template, expected) in refused() {
        let object = story.with_template("replicas: {total: 1}", &template);
        let shown = stalled(expected, &object);
        assert_eq!(shown.reason, "InvalidPodTemplate", "{}", shown.message);
    }
    // The refused object is not written again and again.
    let writes = || {
        let log = story.server.operator_log();
        log.lines()
            .filter(|line| line.contains("invalid") && line.contains("refused"))
            .count()
    };
    // A new status triggers one more pass.
    std::thread::sleep(Duration::from_secs(2));
    let before = writes();
    // A refused object is tried again after 5 s at the earliest.
    std::thread::sleep(Duration::from_secs(2));
    assert!(writes() <= before, "{}", story.server.operator_log());
    // The same holds for balancers, and for fields outside of templates.
    let balancers = "replicas: {total: 1}\nbalancers: {podTemplate: {spec: {tolerations: [{operator: Wrong}]}}}";
    stalled(
        "spec.balancers.podTemplate.spec.tolerations[0].operator: Unsupported value",
        &story.spec("hello", balancers),
    );
    let variable = "replicas: {total: 1}\nenv: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.nothing}}}]";
    let shown = stalled(
        "spec.env[0].valueFrom.fieldRef.fieldPath: Invalid value",
        &story.spec("hello", variable),
    );
    assert_eq!(shown.reason, "InvalidSpec");
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    assert_eq!(story.pods("hello", "app")[0]["metadata"]["uid"], uid);
}

#[test]
fn balancers_run_where_their_template_places_them() {
    let Some(story) = story("sent", 2) else {
        return;
    };
    let fields = "replicas: {total: 1}\nbalancers: {podTemplate: {metadata: {labels: {team: edge}, annotations: {note: x}}, spec: {nodeSelector: {story: sent}, tolerations: [{key: story, operator: Exists}], topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule}], containers: [{name: balancer, env: [{name: A, value: b}]}]}}}";
    story.apply("hello", fields);
    story.wait_complete("hello");
    let pods = story.pods("hello", "balancer");
    let mut nodes: Vec<&str> = pods
        .iter()
        .filter_map(|pod| pod["spec"]["nodeName"].as_str())
        .collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["sent-1", "sent-2"]);
    assert!(
        pods.iter()
            .all(|pod| pod["metadata"]["labels"]["team"] == "edge")
    );
}

impl Story {
    /// Requests the eviction of a pod, as a drain does. Returns the HTTP status of the answer.
    fn evict(&self, pod: &Value) -> u16 {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let evict =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        let path = self.at("/api/v1", &format!("pods/{name}/eviction"));
        match self.server.api.post(&path, &evict) {
            Ok(_) => 201,
            Err(refused) => refused.code,
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
}

/// One of several pods is evicted at a time, and no pod blocks a drain indefinitely.
#[test]
fn budgets_let_a_drain_take_one_pod_at_a_time() {
    let Some(story) = story("evict", 2) else {
        return;
    };
    story.apply("hello", "replicas: {total: 2}");
    story.wait_complete("hello");
    for component in ["app", "balancer"] {
        let pods = story.pods("hello", component);
        assert_eq!(pods.len(), 2);
        // Replacements take a while to start.
        let names: Vec<Value> = ["app", "balancer"]
            .iter()
            .flat_map(|component| story.pods("hello", component))
            .map(|pod| pod["metadata"]["name"].clone())
            .collect();
        story.rule(move |pod| {
            let is_new = !names.contains(&pod["metadata"]["name"]);
            Behaviour::Ready(Duration::from_secs(if is_new { 6 } else { 0 }))
        });
        // The budget counts pods with a delay, so a refused request is repeated.
        for pod in &pods {
            wait::until(SOON, "a pod may be evicted", || match story.evict(pod) {
                201 => Ok(()),
                code => Err(code),
            })
            .unwrap();
        }
        // A ready new pod shows that the second pod was evicted only after the first was replaced.
        let is_new = |pod: &&Value| {
            pods.iter()
                .all(|old| old["metadata"]["uid"] != pod["metadata"]["uid"])
        };
        let now = story.pods("hello", component);
        let ready = now.iter().filter(is_new).filter(|pod| is_ready(pod));
        assert_eq!(ready.count(), 1, "{component}: {now:?}");
        story.wait_complete("hello");
    }
    // A single pod has no budget, because a drain would wait for it indefinitely.
    story.apply("hello", "replicas: {total: 1}\nbalancers: {replicas: 1}");
    story.wait_complete("hello");
    for component in ["app", "balancer"] {
        assert_eq!(story.evict(&story.pods("hello", component)[0]), 201);
    }
    // A pod that does not become ready blocks nothing.
    let ends = Behaviour::Crashes(1, "no");
    story.rule(move |_| ends.clone());
    story.apply("hello", "replicas: {total: 2}\nimage: registry.test/app:2");
    wait::until(SOON, "a pod that does not become ready is evicted", || {
        let pods = story.pods("hello", "app");
        let broken = pods
            .iter()
            .find(|pod| pod["spec"]["containers"][0]["image"] == "registry.test/app:2");
        match broken.map(|pod| story.evict(pod)) {
            Some(201) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
}

/// `kubectl drain` refuses pods with an `emptyDir` (k8s.io/kubectl/pkg/drain,
/// localStorageFilter). A cluster autoscaler refuses pods with an `emptyDir` that no annotation
/// names.
#[test]
fn an_image_volume_does_not_count_as_local_storage() {
    let Some(story) = story("volume", 1) else {
        return;
    };
    let local = |pod: &Value| {
        let volumes = pod["spec"]["volumes"].as_array();
        let mut volumes = volumes.into_iter().flatten();
        volumes.any(|volume| !volume["emptyDir"].is_null())
    };
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    let pods = story.pods("hello", "app");
    assert!(local(&pods[0]));
    let evictable = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    assert_eq!(pods[0]["metadata"]["annotations"][evictable], "scaledapp");
    assert!(!story.pods("hello", "balancer").iter().any(local));

    story.apply(
        "hello",
        "replicas: {total: 1}\nsupervisor: {delivery: ImageVolume}",
    );
    story.wait_complete("hello");
    let pods = story.pods("hello", "app");
    let new = pods
        .iter()
        .find(|pod| pod["spec"]["initContainers"].is_null())
        .unwrap();
    assert!(!local(new), "{new}");
    // A drain refuses the old pod until it is gone.
    wait::until(SOON, "the old pod is gone", || {
        std::thread::sleep(Duration::from_millis(100));
        let old = story
            .pods("hello", "app")
            .iter()
            .filter(|pod| local(pod))
            .count();
        if old == 0 {
            Ok(())
        } else {
            Err(old.to_string())
        }
    })
    .unwrap();
    let app = story.app("hello");
    assert_eq!(app["status"]["sidecarVersion"], "registry.test/sidecar:1");
    // With `ImageVolume`, a drain needs no flag; with the init container it needs one.
    story.add_node(2);
    let node = story.node(1);
    let drain = |flag: &str| {
        let words = ["drain", &node, "--ignore-daemonsets", "--timeout=60s", flag];
        story.server.kubectl(&words)
    };
    let plain = "--pod-selector=app.kubernetes.io/component=app";
    let Some(drained) = drain(plain) else {
        println!("skipped: kubectl is not compiled, so it cannot drain anything");
        return;
    };
    assert_eq!(drained.code, 0, "{}{}", drained.stdout, drained.stderr);
    story.apply("hello", "replicas: {total: 1}");
    story.wait_complete("hello");
    let (on, off) = (story.node(2), story.node(1));
    let uncordoned = story.server.kubectl(&["uncordon", &off]).unwrap();
    assert_eq!(uncordoned.code, 0, "{}", uncordoned.stderr);
    let refused = story
        .server
        .kubectl(&["drain", &on, "--ignore-daemonsets", plain])
        .unwrap();
    assert!(
        refused.code != 0 && refused.stderr.contains("--delete-emptydir-data"),
        "{}",
        refused.stderr
    );
    let words = [
        "drain",
        &on,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        plain,
    ];
    let drained = story.server.kubectl(&words).unwrap();
    assert_eq!(drained.code, 0, "{}{}", drained.stdout, drained.stderr);
    story.wait_complete("hello");
}
