//! Snapshots of all objects of a few apps, and a test that the same input gives the same bytes.

use k8s_openapi::api::core::v1::Service;
use proptest::prelude::*;
use scaledapp_plan::cluster::{Objects, Plan, plan, validate};

use super::given::{app, balancer, cluster, named, object, pod, settings};

fn yaml(value: &impl serde::Serialize) -> String {
    serde_saphyr::to_string(value).unwrap()
}

/// Shortens the kept template, which repeats the Deployment's template.
fn shorten(objects: &mut Objects) {
    for deployment in &mut objects.deployments {
        let template = serde_json::to_string(&deployment.spec.template).unwrap();
        let annotations = deployment.metadata.annotations.as_mut().unwrap();
        if let Some(kept) = annotations.get_mut("scaledapp.io/template") {
            assert_eq!(*kept, template);
            "(the template)".clone_into(kept);
        }
    }
}

fn planned(lines: &str) -> Plan {
    let mut observed = cluster(2);
    observed.pods = vec![balancer(0), balancer(1)];
    let mut planned = plan(&app(lines), &observed, &settings());
    shorten(&mut planned.apply);
    planned
}

#[test]
fn the_shortest_app_becomes_all_of_this() {
    insta::assert_snapshot!(yaml(&planned("")));
}

/// The app's Deployment and the `ConfigMap` that its pods read.
fn workload(lines: &str) -> String {
    let planned = planned(lines);
    format!(
        "{}---\n{}",
        yaml(&planned.apply.config_maps[0]),
        yaml(&planned.apply.deployments[0])
    )
}

#[test]
fn an_app_with_everything_that_the_object_can_say() {
    insta::assert_snapshot!(workload(
        r#"  args: ["--greeting", $(GREETING)]
  env: [{name: GREETING, value: hi}, {name: KEY, valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
  envFrom: [{prefix: C_, configMapRef: {name: c}}, {secretRef: {name: s}}]
  workingDir: /app
  port: 8000
  replicas: {total: 6}
  workers: {count: 4, readiness: {path: "/healthz?$(X)", timeout: 2m}, drainTimeout: 1500ms, stopSignal: SIGINT, instanceEnv: WORKER}
  resources: {requests: {cpu: 500m, memory: 512Mi}, limits: {cpu: "2"}}"#
    ));
}

#[test]
fn messages_are_flags_of_the_pod_and_absent_ones_change_nothing() {
    let line = |lines: &str| {
        let planned = planned(lines);
        let template = planned.apply.deployments[0].spec.template.clone();
        let command = template.spec.unwrap().containers[0].command.clone();
        command.unwrap().join(" ")
    };
    let annotations = |lines: &str| {
        planned(lines).apply.deployments[0]
            .metadata
            .annotations
            .clone()
    };
    let says = "  workers: {readiness: {waitReady: true}, shutdownMessage: true, incrementEnv: DEBUG_PORT}";
    let absent = "  workers: {readiness: {waitReady: false}, shutdownMessage: false}";
    assert!(
        line(says).contains(" --increment-env DEBUG_PORT --stop-signal"),
        "{}",
        line(says)
    );
    assert!(
        line(says).contains(" --wait-ready --shutdown-message -- "),
        "{}",
        line(says)
    );
    assert_ne!(annotations(says), annotations(""));
    assert_eq!(annotations(absent), annotations(""));
    assert_eq!(line(absent), line(""));
}

#[test]
fn an_app_with_connection_dispatch() {
    insta::assert_snapshot!(workload(
        "  replicas: {total: 1}\n  workers: {perCore: 2, dispatch: Connection}"
    ));
}

#[test]
fn a_pod_template_is_merged_over_ours() {
    insta::assert_snapshot!(workload(
        r"  podTemplate:
    metadata: {labels: {team: a, app.kubernetes.io/name: shop}, annotations: {note: x}}
    spec:
      serviceAccountName: hello-rights
      nodeSelector: {disk: ssd}
      tolerations: [{key: gpu, operator: Exists}]
      terminationGracePeriodSeconds: 300
      securityContext: {runAsUser: 1000}
      volumes: [{name: data, emptyDir: {}}]
      containers:
      - name: logs
        image: example/logs:1
      - name: app
        env: [{name: EXTRA, value: '1'}]
        securityContext: {readOnlyRootFilesystem: true}
        volumeMounts: [{name: data, mountPath: /data}]"
    ));
}

#[test]
fn slots_can_have_addresses_of_the_cloud() {
    let planned = planned(
        "  balancers: {replicas: 3, exposure: LoadBalancer, algorithm: Hash}\n  dns: {hostname: hello.apps.example.com, ttl: 10s}",
    );
    let slots = Objects {
        services: planned.apply.services[2..].to_vec(),
        endpoint_slices: planned.apply.endpoint_slices,
        deployments: planned.apply.deployments[3..].to_vec(),
        ..Objects::default()
    };
    insta::assert_snapshot!(yaml(&slots));
}

#[test]
fn a_certificate_gives_each_slot_a_port_for_https() {
    let planned = planned(
        "  balancers: {replicas: 1, http2: false, tls: {secretName: hello-tls, additionalSecretNames: [b-tls], \
         minVersion: '1.3', hsts: 24h, clientCertificates: {secretName: clients, mode: Optional}}}",
    );
    let of_balancers = Objects {
        services: planned.apply.services,
        endpoint_slices: planned.apply.endpoint_slices,
        deployments: planned.apply.deployments[1..].to_vec(),
        ..Objects::default()
    };
    insta::assert_snapshot!(yaml(&of_balancers));
}

#[test]
fn another_protocol_has_one_port_which_is_that_of_the_app() {
    let planned = planned(
        "  port: 6379\n  appProtocol: tcp\n  balancers: {replicas: 1, tls: {secretName: s}, \
         stickiness: {clientAddress: true}, proxyProtocol: {from: [10.0.0.0/8], toPods: true}}",
    );
    let ports = |service: &Service| {
        let ports = service.spec.as_ref().unwrap().ports.iter().flatten();
        let ports = ports.map(|port| {
            let to = serde_json::to_value(&port.target_port).unwrap();
            format!("{} {} {to}", port.name.as_ref().unwrap(), port.port)
        });
        ports.collect::<Vec<_>>()
    };
    let named = |name: &str| {
        let is_named = |service: &&Service| service.metadata.name.as_deref() == Some(name);
        ports(planned.apply.services.iter().find(is_named).unwrap())
    };
    assert_eq!(named("hello-lb-0"), ["tcp 6379 8080"]);
    assert_eq!(named("hello"), ["tcp 6379 8080"]);
    assert_eq!(
        named("hello-pods"),
        ["tcp 6379 \"tcp\"", "admin 9377 \"admin\""]
    );
    for slice in &planned.apply.endpoint_slices {
        let ports = slice.ports.iter().flatten();
        let ports: Vec<_> = ports
            .map(|port| (port.name.as_deref(), port.port))
            .collect();
        assert_eq!(ports, [(Some("tcp"), Some(8080))]);
    }
    let pods = planned.apply.deployments.iter();
    let pods = pods.filter_map(|it| it.spec.template.spec.as_ref());
    let words = pods.flat_map(|pod| &pod.containers);
    let words = words.flat_map(|container| container.command.iter().flatten());
    let words = words.cloned().collect::<Vec<_>>().join(" ");
    for part in [
        " --protocol tcp ",
        " --proxy-protocol-from 10.0.0.0/8 ",
        " --proxy-protocol-to-servers true ",
        " --sticky address ",
        " --tls /etc",
        " --dispatch connection ",
    ] {
        assert!(words.contains(part), "{part} in {words}");
    }
    for part in ["--tls-listen", "--tls-redirect", "--trust-token-file"] {
        assert!(!words.contains(part), "{part} in {words}");
    }
}

#[test]
fn every_name_fits_and_is_controlled_by_the_app() {
    let name = format!("a{}", "b".repeat(62));
    let app = validate(&named(&name, "  balancers: {replicas: 8}")).unwrap();
    let mut observed = cluster(2);
    observed.pods = vec![balancer(0)];
    let planned = plan(&app, &observed, &settings());
    for (kind, meta) in planned.apply.metas() {
        let name = meta.name.as_ref().unwrap();
        assert!(name.len() <= 63, "{kind:?} {name}");
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!(
            (owner.controller, &*owner.uid),
            (Some(true), super::given::UID)
        );
        assert_eq!(meta.namespace.as_deref(), Some("shop"));
        let labels = meta.labels.as_ref().unwrap();
        assert!(labels.values().all(|value| value.len() <= 63), "{labels:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_same_input_gives_the_same_bytes_whatever_the_order_of_what_was_read(
        nodes in 0_u32..6,
        balancers in 0_u32..4,
        pods in 0_u32..5,
        per_node in 1_u32..4,
        slots in 1_u32..5,
        seed in any::<u64>(),
    ) {
        let app = validate(&object(&format!("  replicas: {{perNode: {per_node}}}\n  balancers: {{replicas: {slots}}}"))).unwrap();
        let mut observed = cluster(nodes);
        observed.pods = (0..balancers).map(balancer).chain((0..pods).map(pod)).collect();
        let first = plan(&app, &observed, &settings());
        prop_assert_eq!(yaml(&first), yaml(&plan(&app, &observed, &settings())));
        if !observed.pods.is_empty() {
            let turn = seed as usize % observed.pods.len();
            observed.pods.rotate_left(turn);
            observed.nodes.reverse();
        }
        prop_assert_eq!(yaml(&first), yaml(&plan(&app, &observed, &settings())));
        for slice in &first.apply.endpoint_slices {
            prop_assert!(!slice.endpoints.as_ref().unwrap().is_empty());
        }
    }
}
