//! Tests of a user's pod template: what is merged, what is refused with which cure, and to
//! which field a refusal of the API server is translated.

use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use scaledapp_plan::cluster::{Cause, Plan, plan, refused, validate};
use serde_json::{Value, json};

use super::given::{app, cluster, named, running, settings};

fn planned(lines: &str) -> Plan {
    let plan = plan(&app(lines), &cluster(2), &settings());
    assert_eq!(plan.stalled, None, "{lines}");
    plan
}

/// A pod may not read nodes, so the kubelet tells a balancer where it runs.
#[test]
fn a_balancer_learns_its_zone_only_if_zones_matter() {
    let environment = |lines: &str| {
        let container = pod(&planned(lines), 1).containers.remove(0);
        let fields = container.env.unwrap_or_default().into_iter();
        fields
            .map(|one| {
                let path = one.value_from.unwrap().field_ref.unwrap().field_path;
                format!("{}={path}", one.name)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(environment(""), [""; 0]);
    assert_eq!(
        environment("  balancers: {trafficDistribution: PreferSameZone}"),
        [
            "SCALEDAPP_ZONE=metadata.labels['topology.kubernetes.io/zone']",
            "SCALEDAPP_NODE=spec.nodeName"
        ]
    );
}

/// The template of the app, or of the first balancer.
fn template(plan: &Plan, index: usize) -> PodTemplateSpec {
    plan.apply.deployments[index].spec.template.clone()
}

fn pod(plan: &Plan, index: usize) -> PodSpec {
    template(plan, index).spec.unwrap()
}

fn resources(container: &Container) -> Value {
    serde_json::to_value(&container.resources).unwrap()
}

fn stalled(lines: &str) -> String {
    let plan = plan(&app(lines), &cluster(2), &settings());
    let stalled = plan.stalled.expect(lines);
    assert_eq!(stalled.reason, "InvalidPodTemplate");
    stalled.message
}

#[test]
fn the_init_container_inherits_resources_unless_the_template_sets_them() {
    let all = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}});
    let lines =
        "  resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 200m, memory: 128Mi}}\n";
    let own = "  podTemplate: {spec: {initContainers: [{name: scaledapp-install, resources: {limits: {cpu: 1}}, imagePullPolicy: Always}]}}";
    let gpu = "  resources: {limits: {cpu: '1', 'nvidia.com/gpu': 1}}";
    let merged =
        "  podTemplate: {spec: {containers: [{name: app, resources: {limits: {memory: 1Gi}}}]}}";
    for (lines, wanted) in [
        (lines.to_owned(), all),
        (format!("{lines}{own}"), json!({"limits": {"cpu": "1"}})),
        (String::new(), Value::Null),
        (gpu.to_owned(), json!({"limits": {"cpu": "1"}})),
        (merged.to_owned(), json!({"limits": {"memory": "1Gi"}})),
    ] {
        let pod = pod(&planned(&lines), 0);
        let inits = pod.init_containers.unwrap();
        assert_eq!(resources(&inits[0]), wanted, "{lines}");
        let policy = lines.contains("imagePullPolicy").then_some("Always");
        assert_eq!(inits[0].image_pull_policy.as_deref(), policy);
        assert_eq!(inits[0].command.as_ref().unwrap()[1], "install");
    }
}

#[test]
fn balancers_have_the_resources_of_the_object_or_of_the_operator() {
    let of = |lines: &str| resources(&pod(&planned(lines), 1).containers[0]);
    let default =
        json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}});
    assert_eq!(of(""), default);
    let given = "  balancers: {resources: {requests: {cpu: 0.5}, limits: {cpu: 1, memory: 1Gi}}}";
    let wanted = json!({"requests": {"cpu": "0.5"}, "limits": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(of(given), wanted);
    assert_eq!(of("  balancers: {resources: {}}"), Value::Null);
    // A change of the balancers' resources restarts no pod of the app.
    let observed = running(&app(""));
    let after = plan(&app(given), &observed, &settings());
    let before = &observed.live.deployments[0].spec.template;
    assert_eq!(after.apply.deployments[0].spec.template, *before);
}

#[test]
fn a_users_probe_variable_and_constraint_replace_ours_as_a_whole() {
    let plan = planned(
        r"  env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: B, value: $(A)}]
  replicas: {perNode: 2}
  podTemplate:
    spec:
      topologySpreadConstraints:
      - {topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, maxSkew: 5}
      - {topologyKey: zone, whenUnsatisfiable: DoNotSchedule, maxSkew: 1, labelSelector: {matchLabels: {a: b}}}
      containers:
      - name: app
        env: [{name: A, value: a}]
        livenessProbe: {exec: {command: [/bin/true]}}
        readinessProbe: {tcpSocket: {port: 3000}}",
    );
    let pod = pod(&plan, 0);
    let container = serde_json::to_value(&pod.containers[0]).unwrap();
    let live = json!({"exec": {"command": ["/bin/true"]}});
    assert_eq!(container["livenessProbe"], live);
    assert_eq!(
        container["readinessProbe"],
        json!({"tcpSocket": {"port": 3000}})
    );
    let env = container["env"].as_array().unwrap();
    let ours: Vec<&Value> = env.iter().rev().take(2).collect();
    assert_eq!(
        ours,
        [
            &json!({"name": "B", "value": "$(A)"}),
            &json!({"name": "A", "value": "a"})
        ]
    );
    let spread = serde_json::to_value(pod.topology_spread_constraints).unwrap();
    let shown: Vec<(&Value, &Value, &Value)> = spread
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (&it["topologyKey"], &it["whenUnsatisfiable"], &it["maxSkew"]))
        .collect();
    let wanted = json!([
        ["kubernetes.io/hostname", "DoNotSchedule", 2],
        ["kubernetes.io/hostname", "ScheduleAnyway", 5],
        ["zone", "DoNotSchedule", 1],
    ]);
    assert_eq!(serde_json::to_value(shown).unwrap(), wanted);
    let selector = &spread[1]["labelSelector"]["matchLabels"];
    assert_eq!(selector["app.kubernetes.io/component"], "app");
    assert_eq!(spread[2]["labelSelector"]["matchLabels"], json!({"a": "b"}));
}

#[test]
fn a_probe_without_an_action_changes_the_times_of_ours() {
    let lines = "  podTemplate: {spec: {containers: [{name: app, livenessProbe: {failureThreshold: 20, initialDelaySeconds: 60}}]}}";
    let pod = serde_json::to_value(pod(&planned(lines), 0)).unwrap();
    let probe = &pod["containers"][0]["livenessProbe"];
    assert_eq!(probe["httpGet"]["path"], "/livez");
    assert_eq!(probe["failureThreshold"], 20);
    assert_eq!(
        (&probe["initialDelaySeconds"], &probe["periodSeconds"]),
        (&json!(60), &json!(10))
    );
}

#[test]
fn numbers_are_amounts_as_in_a_deployment() {
    let lines = "  podTemplate: {spec: {overhead: {cpu: 0.1}, volumes: [{name: v, emptyDir: {sizeLimit: 1024}}], containers: [{name: app, resources: {limits: {cpu: 1, memory: 1e9}}}]}}";
    let pod = serde_json::to_value(pod(&planned(lines), 0)).unwrap();
    let limits = &pod["containers"][0]["resources"]["limits"];
    assert_eq!(limits["cpu"], "1");
    assert_eq!(pod["overhead"]["cpu"], "0.1");
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(
        volumes
            .iter()
            .any(|it| it["emptyDir"]["sizeLimit"] == "1024"),
        "{volumes:?}"
    );
    let bad =
        "  podTemplate: {spec: {containers: [{name: app, resources: {limits: {cpu: much}}}]}}";
    let message = stalled(bad);
    assert!(
        message.starts_with(
            "spec.podTemplate.spec.containers[0].resources.limits.cpu: \"much\" is not an amount"
        ),
        "{message}"
    );
}

const EVERYTHING: &str = "{metadata: {labels: {team: a, app.kubernetes.io/name: shop}, annotations: {note: x}}, spec: {
  nodeSelector: {pool: edge}, tolerations: [{key: edge, operator: Exists}], priorityClassName: high,
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}},
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}],
  imagePullSecrets: [{name: mine}], securityContext: {runAsUser: 1000, fsGroup: 7}, runtimeClassName: gvisor,
  initContainers: [{name: wait, image: w}], containers: [{name: NAME, securityContext: {runAsGroup: 5}}, {name: mesh, image: m}]}}";

#[test]
fn templates_place_the_pods_of_app_and_balancers() {
    for (index, field) in [
        (0, "  podTemplate: "),
        (1, "  balancers:\n    podTemplate: "),
    ] {
        let name = ["app", "balancer"][index];
        let plan = planned(&format!("{field}{}", EVERYTHING.replace("NAME", name)));
        let template = template(&plan, index);
        let meta = template.metadata.unwrap();
        let labels = meta.labels.unwrap();
        assert_eq!(
            (&*labels["team"], &*labels["app.kubernetes.io/name"]),
            ("a", "shop")
        );
        assert_eq!(labels["app.kubernetes.io/managed-by"], "scaledapp-operator");
        assert_eq!(meta.annotations.unwrap()["note"], "x");
        let pod = serde_json::to_value(template.spec).unwrap();
        assert_eq!(pod["nodeSelector"], json!({"pool": "edge"}));
        assert_eq!(pod["tolerations"][0]["key"], "edge");
        assert_eq!(pod["priorityClassName"], "high");
        assert_eq!(pod["imagePullSecrets"][0]["name"], "mine");
        let context = json!({"runAsUser": 1000, "fsGroup": 7, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
        assert_eq!(pod["securityContext"], context);
        assert_eq!(pod["containers"][0]["securityContext"]["runAsGroup"], 5);
        assert_eq!(
            pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"],
            false
        );
        assert_eq!(pod["containers"][1]["name"], "mesh");
        let spread = pod["topologySpreadConstraints"].as_array().unwrap();
        let zone = spread
            .iter()
            .find(|it| it["topologyKey"] == "zone")
            .unwrap();
        let selector = &zone["labelSelector"]["matchLabels"];
        assert_eq!(selector["app.kubernetes.io/component"], name);
        assert!(pod["affinity"]["nodeAffinity"].is_object());
        // The operator's own affinity is kept beside the user's.
        assert_eq!(pod["affinity"]["podAntiAffinity"].is_object(), index == 1);
    }
}

#[test]
fn evictable_volumes_are_added_to_ours() {
    let evictable = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    for (theirs, wanted) in [
        ("cache,tmp", "scaledapp,cache,tmp"),
        ("a,scaledapp", "a,scaledapp"),
        ("''", "scaledapp"),
    ] {
        let plan = planned(&format!(
            "  podTemplate: {{metadata: {{annotations: {{{evictable}: '{}'}}}}}}",
            theirs.trim_matches('\'')
        ));
        let annotations = template(&plan, 0).metadata.unwrap().annotations.unwrap();
        assert_eq!(annotations[evictable], wanted);
    }
}

/// Templates that would break the operator's containers, each with the beginning of its message.
const BROKEN: &[(&str, &str)] = &[
    (
        "{spec: {initContainers: [{name: scaledapp-install, image: other}]}}",
        "spec.initContainers[0].image: this container installs the supervisor",
    ),
    (
        "{spec: {initContainers: [{name: scaledapp-install, volumeMounts: []}, {name: scaledapp-install}]}}",
        "spec.initContainers[1]: scaledapp-install occurs twice",
    ),
    (
        "{spec: {initContainers: [{name: app, image: i}]}}",
        "spec.initContainers[0].name: app is a container of ours",
    ),
    (
        "{spec: {containers: [{name: scaledapp-install, image: i}]}}",
        "spec.containers[0].name: scaledapp-install is a container of ours",
    ),
    (
        "{spec: {containers: [{name: app, env: [{name: SCALEDAPP_WORKERS, value: '1'}]}]}}",
        "spec.containers[0].env[0]: SCALEDAPP_WORKERS is set by the supervisor",
    ),
    (
        "{spec: {containers: [{name: app, env: [{name: PORT, value: '1'}]}]}}",
        "spec.containers[0].env[0]: PORT is set from spec.port",
    ),
    (
        "{spec: {containers: [{name: x, image: i, env: [{name: A}, {name: A}]}]}}",
        "spec.containers[0].env[1]: A occurs twice",
    ),
    (
        "{spec: {volumes: [{name: scaledapp, emptyDir: {}}]}}",
        "spec.volumes[0].name: scaledapp is a volume of ours",
    ),
    (
        "{spec: {containers: [{name: app, volumeMounts: [{name: v, mountPath: /.scaledapp/sidecar}]}]}}",
        "spec.containers[0].volumeMounts[0].mountPath: /.scaledapp is a mount of ours",
    ),
    (
        "{spec: {containers: [{name: app, volumeMounts: [{name: v, mountPath: /}]}]}}",
        "spec.containers[0].volumeMounts[0].mountPath: /.scaledapp is a mount of ours",
    ),
    (
        "{spec: {serviceAccount: old}}",
        "spec.serviceAccount: is the old name of serviceAccountName",
    ),
    (
        "{metadata: {labels: {app.kubernetes.io/instance: other}}}",
        "metadata.labels[app.kubernetes.io/instance]: the operator finds the pods by this label",
    ),
    (
        "{metadata: {labels: {scaledapp.io/slot: '1'}}}",
        "metadata.labels[scaledapp.io/slot]: the operator finds the pods by this label",
    ),
    (
        "{metadata: {annotations: {scaledapp.io/desired: x}}}",
        "metadata.annotations[scaledapp.io/desired]: the operator controls the pods with this annotation",
    ),
];

const BROKEN_BALANCERS: &[(&str, &str)] = &[
    (
        "{spec: {containers: [{name: balancer, command: [sh]}]}}",
        "spec.containers[0].command: the operator decides how a balancer is started",
    ),
    (
        "{spec: {containers: [{name: balancer, args: [x]}]}}",
        "spec.containers[0].args: the operator decides how",
    ),
    (
        "{spec: {containers: [{name: balancer, image: x}]}}",
        "spec.containers[0].image: all balancers use the image",
    ),
    (
        "{spec: {containers: [{name: balancer, ports: [{containerPort: 1}]}]}}",
        "spec.containers[0].ports: the Services of the slots",
    ),
    (
        "{spec: {serviceAccountName: mine}}",
        "spec.serviceAccountName: a balancer finds the pods",
    ),
    (
        "{spec: {automountServiceAccountToken: false}}",
        "spec.automountServiceAccountToken: a balancer finds the pods",
    ),
    (
        "{spec: {nodeSelektor: {}, containers: [{name: balancer, resorces: {a: b}}]}}",
        "spec.containers[0].resorces: there is no such field",
    ),
    (
        "{spec: {volumes: [{name: scaledapp-trust, emptyDir: {}}]}}",
        "spec.volumes[0].name: scaledapp-trust is a volume of ours",
    ),
    (
        "{spec: {restartPolicy: Never}}",
        "spec.restartPolicy: a Deployment allows only Always",
    ),
    (
        "{metadata: {labels: {scaledapp.io/app: x}}}",
        "metadata.labels[scaledapp.io/app]: the operator finds",
    ),
];

#[test]
fn what_breaks_our_containers_is_refused_with_its_path_and_the_cure() {
    for (overlay, expected) in BROKEN {
        let message = stalled(&format!("  podTemplate: {overlay}"));
        assert!(
            message.starts_with(&format!("spec.podTemplate.{expected}")),
            "{message}"
        );
    }
    for (overlay, expected) in BROKEN_BALANCERS {
        let message = stalled(&format!("  balancers: {{podTemplate: {overlay}}}"));
        assert!(
            message.starts_with(&format!("spec.balancers.podTemplate.{expected}")),
            "{message}"
        );
    }
}

/// An older operator accepted templates that a new one refuses. The new one must not stop the apps
/// with such a template.
#[test]
fn a_template_that_is_refused_today_stays_until_it_is_changed() {
    // For an app named `other`, the label has its usual value. So the template is accepted, and the
    // hash of the inputs is the same.
    let lines = "  podTemplate: {metadata: {labels: {app.kubernetes.io/instance: other}}}";
    let other = validate(&named("other", lines)).unwrap();
    let inputs = plan(&other, &cluster(2), &settings()).apply.deployments[0]
        .metadata
        .annotations
        .clone()
        .unwrap()["scaledapp.io/inputs"]
        .clone();
    let mut observed = running(&app(""));
    let live = &mut observed.live.deployments[0];
    let annotations = live.metadata.annotations.as_mut().unwrap();
    annotations.insert("scaledapp.io/inputs".to_owned(), inputs);
    let before = live.spec.template.clone();
    assert!(stalled(lines).contains("the operator finds the pods by this label"));
    let planned = plan(&app(lines), &observed, &settings());
    assert_eq!(planned.stalled, None);
    assert_eq!(template(&planned, 0), before);
}

#[test]
fn the_supervisor_can_come_as_an_image_volume() {
    let plan = planned("  supervisor: {delivery: ImageVolume}");
    let template = template(&plan, 0);
    let annotations = template.metadata.unwrap().annotations.unwrap();
    assert_eq!(
        annotations.keys().collect::<Vec<_>>(),
        ["scaledapp.io/desired"]
    );
    let pod = template.spec.unwrap();
    assert_eq!(pod.init_containers, None);
    let volumes = pod.volumes.unwrap();
    assert!(
        volumes.iter().all(|volume| volume.empty_dir.is_none()),
        "{volumes:?}"
    );
    let image = volumes[0].image.as_ref().unwrap();
    assert_eq!(
        image.reference.as_deref(),
        Some("registry.example/scaledapp:1")
    );
    let command = pod.containers[0].command.as_ref().unwrap();
    assert_eq!(command[0], "/.scaledapp/usr/local/bin/scaledapp-sidecar");
    // The default, written out, changes nothing.
    let observed = running(&app(""));
    let default = app("  supervisor: {delivery: InitContainer}");
    let planned = scaledapp_plan::cluster::plan(&default, &observed, &settings());
    assert_eq!(
        planned.apply.deployments[0].spec.template,
        observed.live.deployments[0].spec.template
    );
}

const REFUSED: &str = r"  env: [{name: A, value: a}, {name: B, valueFrom: {fieldRef: {fieldPath: x}}}]
  resources: {requests: {cpu: '1'}}
  supervisor: {delivery: ImageVolume}
  balancers: {resources: {requests: {cpu: '2'}}, podTemplate: {spec: {containers: [{name: mesh, image: m}, {name: balancer, securityContext: {runAsUser: -1}}]}}}
  podTemplate:
    metadata: {labels: {'a b': c}}
    spec:
      tolerations: [{key: a}, {key: b, operator: Wrong}]
      volumes: [{name: cache, emptyDir: {}}]
      containers:
      - {name: mesh, image: m, ports: [{containerPort: 99999}]}
      - {name: app, resources: {limits: {cpu: 500m}}, env: [{name: C, value: c}]}";

/// The name of a Deployment, one of its fields, and the user's field from which that field comes;
/// empty if it comes from none.
const ORIGINS: &[(&str, &str, &str)] = &[
    (
        "hello",
        "spec.template.spec.containers[0].resources.requests",
        "spec.podTemplate.spec.containers[1].resources.requests",
    ),
    (
        "hello",
        "spec.template.spec.containers[1].ports[0].containerPort",
        "spec.podTemplate.spec.containers[0].ports[0].containerPort",
    ),
    (
        "hello",
        "spec.template.spec.containers[0].env[5].valueFrom.fieldRef.fieldPath",
        "spec.env[1].valueFrom.fieldRef.fieldPath",
    ),
    (
        "hello",
        "spec.template.spec.containers[0].env[6]",
        "spec.podTemplate.spec.containers[1].env[0]",
    ),
    (
        "hello",
        "spec.template.spec.containers[0].image",
        "spec.image",
    ),
    (
        "hello",
        "spec.template.spec.tolerations[1].operator",
        "spec.podTemplate.spec.tolerations[1].operator",
    ),
    (
        "hello",
        "spec.template.labels[a b]",
        "spec.podTemplate.metadata.labels[a b]",
    ),
    (
        "hello",
        "spec.template.labels",
        "spec.podTemplate.metadata.labels",
    ),
    (
        "hello",
        "spec.template.spec.volumes[3].name",
        "spec.podTemplate.spec.volumes[0].name",
    ),
    (
        "hello",
        "spec.template.spec.volumes[0]",
        "spec.supervisor.delivery: ImageVolume needs Kubernetes 1.35",
    ),
    (
        "hello",
        "spec.template.spec.containers[name=\"mesh\"].env",
        "spec.podTemplate.spec.containers[0].env",
    ),
    ("hello", "spec.selector", ""),
    ("hello", "spec.template.spec.schedulerName", ""),
    (
        "hello-lb-0",
        "spec.template.spec.containers[0].resources.requests",
        "spec.balancers.resources.requests",
    ),
    (
        "hello-lb-0",
        "spec.template.spec.containers[0].securityContext.runAsUser",
        "spec.balancers.podTemplate.spec.containers[1].securityContext.runAsUser",
    ),
    ("other", "spec.template.spec.containers[0].image", ""),
];

#[test]
fn a_refusal_of_the_api_server_names_the_users_field() {
    let app = app(REFUSED);
    let plan = plan(&app, &cluster(2), &settings());
    assert_eq!(plan.stalled, None);
    for (name, field, expected) in ORIGINS {
        let cause = Cause {
            field: (*field).to_owned(),
            message: "no".to_owned(),
        };
        let stalled = refused(&app, &plan, name, &[cause.clone(), cause]);
        let message = stalled.map(|stalled| stalled.message).unwrap_or_default();
        if expected.is_empty() {
            assert_eq!(message, "", "{field}");
        } else {
            assert!(
                message.starts_with(expected) && message.matches(": no").count() == 1,
                "{field}: {message}"
            );
        }
    }
}

#[test]
fn fields_are_read_from_the_message_of_server_side_apply() {
    let one = r#"failed to create typed patch object (shop/hello; apps/v1, Kind=Deployment): .spec.template.spec.containers[name="x"].env: duplicate entries for key [name="A"]"#;
    let two = "failed to create typed patch object (shop/hello; apps/v1, Kind=Deployment): errors:\n  .spec.template.spec.a: field not declared in schema\n  .spec.template.spec.b: field not declared in schema\n";
    let fields = |text: &str| -> Vec<String> {
        Cause::of_apply(text)
            .into_iter()
            .map(|cause| cause.field)
            .collect()
    };
    assert_eq!(
        fields(one),
        [r#"spec.template.spec.containers[name="x"].env"#]
    );
    assert_eq!(
        fields(two),
        ["spec.template.spec.a", "spec.template.spec.b"]
    );
    assert_eq!(fields("etcdserver: request timed out"), [""; 0]);
}
