//! Tests of what is invalid in a cluster, each with its cure.

use scaledapp_plan::cluster::{plan, validate};

use super::given::{app, cluster, named, object, settings};

fn violations(lines: &str) -> Vec<String> {
    match validate(&object(lines)) {
        Ok(_) => Vec::new(),
        Err(violations) => violations.iter().map(ToString::to_string).collect(),
    }
}

const BAD: &[(&str, &str)] = &[
    (
        "  replicas: {perNode: 1, total: 6}",
        "spec.replicas: perNode and total exclude each other: leave one out",
    ),
    (
        "  port: 0",
        "spec.port: 0 is not a port: give the one that the app listens on, 1 to 65535",
    ),
    (
        "  port: 70000",
        "spec.port: 70000 is not a port: give the one that the app listens on, 1 to 65535",
    ),
    (
        "  workers: {perCore: 0}",
        "spec.workers.perCore: 0 workers serve nothing: give 1 to 1024",
    ),
    (
        "  balancers: {replicas: 0}",
        "spec.balancers.replicas: 0 balancers serve no client: give 1 to 8",
    ),
    (
        "  dns: {hostname: Hello_World.x}",
        "spec.dns.hostname: \"Hello_World.x\" is not a DNS name: use labels of a-z, 0-9 and -, each at most 63 long, separated by dots, such as hello.apps.local",
    ),
    (
        "  appProtocol: tcp\n  balancers: {http2: true}",
        "spec.balancers.http2: is for HTTP, and spec.appProtocol is tcp: leave it out",
    ),
    (
        "  env: [{name: A, valueFrom: {}}]",
        "spec.env[0].valueFrom: give exactly one of secretKeyRef, configMapKeyRef and fieldRef",
    ),
    (
        "  env: [{name: A, value: a, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
        "spec.env[0]: value and valueFrom exclude each other: leave one out",
    ),
    (
        "  envFrom: [{}]",
        "spec.envFrom[0]: give exactly one of configMapRef and secretRef",
    ),
    (
        "  balancers: {podTemplate: {nodeSelector: {}}}",
        "spec.balancers.podTemplate.nodeSelector: there is no such field: write it under podTemplate.metadata or podTemplate.spec",
    ),
    (
        "  resources: {requests: {cpu: '1'}, limits: {cpu: 500m}}",
        "spec.resources.requests.cpu: 1 is more than limits.cpu, which is 500m: lower the one or raise the other",
    ),
    (
        "  balancers: {resources: {requests: {memory: 1Gi}, limits: {memory: 512Mi}}}",
        "spec.balancers.resources.requests.memory: 1Gi is more than limits.memory, which is 512Mi: lower the one or raise the other",
    ),
    (
        "  podTemplate: {containers: []}",
        "spec.podTemplate.containers: there is no such field: write it under podTemplate.metadata or podTemplate.spec",
    ),
];

#[test]
fn each_rule_has_a_message_that_names_field_and_cure() {
    for (lines, expected) in BAD {
        assert_eq!(violations(lines), [*expected], "{lines}");
    }
    let mut no_command = object("");
    no_command.spec.command.clear();
    let found = validate(&no_command).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "spec.command: is empty: say what one worker runs, such as [node, server.js]"
    );
    let found = validate(&named("1st", "")).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "metadata.name: \"1st\" becomes the name of a Service: begin with a letter, such as app-1st"
    );
}

/// Values of `podTemplate.spec`, and the message with which the app is stalled.
const OVERLAYS: &[(&str, &str)] = &[
    (
        "{nodeSelektor: {a: b}}",
        "spec.podTemplate.spec.nodeSelektor: there is no such field in a pod template",
    ),
    (
        "{containers: [{name: app, livenesProbe: {}, resorces: {limits: {cpu: '1'}}}]}",
        "spec.podTemplate.spec.containers[0].resorces: there is no such field in a pod template",
    ),
    (
        "{hostNetwork: maybe}",
        "spec.podTemplate.spec.hostNetwork: invalid type",
    ),
    (
        "{containers: [{image: i}]}",
        "spec.podTemplate.spec.containers[0].name: is missing",
    ),
    (
        "{containers: [{name: other}]}",
        "spec.podTemplate.spec.containers[0].image: is missing",
    ),
    (
        "{containers: [{name: app, command: [sh]}]}",
        "spec.podTemplate.spec.containers[0].command: the supervisor starts the app: set it in spec.command",
    ),
    (
        "{restartPolicy: Never}",
        "spec.podTemplate.spec.restartPolicy: a Deployment allows only Always",
    ),
];

#[test]
fn what_cannot_be_merged_stalls_and_names_the_path() {
    for (spec, expected) in OVERLAYS {
        let planned = plan(
            &app(&format!("  podTemplate: {{spec: {spec}}}")),
            &cluster(2),
            &settings(),
        );
        let stalled = planned.stalled.unwrap();
        assert_eq!(stalled.reason, "InvalidPodTemplate");
        assert!(stalled.message.starts_with(expected), "{}", stalled.message);
        assert!(planned.apply.deployments.is_empty() && planned.delete.is_empty());
    }
}

/// A supervisor refuses the whole desired state if its token is longer.
#[test]
fn a_reload_token_has_a_length_that_pods_accept() {
    let with = |length: usize| {
        let mut object = object("");
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert("scaledapp.io/reload".to_owned(), "x".repeat(length));
        validate(&object)
    };
    assert!(with(128).is_ok());
    let violations = with(129).unwrap_err();
    let text = violations[0].to_string();
    assert!(text.contains("annotations[scaledapp.io/reload]"), "{text}");
    assert!(text.contains("at most 128 are allowed"), "{text}");
}
