//! Values that users expect of any chart, and the chart as a dependency of another chart.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::{DEADLINE, REGISTRY, container, find, flag, helm, refused, rendered, template};
use scaledapp_tests::{binaries, process};

const EVERYTHING: [&str; 15] = [
    r#"operator.tolerations=[{"key":"infra","operator":"Exists"}]"#,
    r#"operator.extraArgs=["--concurrency=4"]"#,
    r#"operator.extraEnv=[{"name":"RUST_BACKTRACE","value":"1"}]"#,
    r#"global.imagePullSecrets=[{"name":"parent"},"own"]"#,
    r#"images.pullSecrets=["own"]"#,
    "operator.nodeSelector.pool=infra",
    "operator.affinity.podAntiAffinity.x=y",
    "operator.priorityClassName=system-cluster-critical",
    "operator.podLabels.team=a",
    r"operator.podLabels.app\.kubernetes\.io/component=other",
    r"operator.podAnnotations.prometheus\.io/scrape=yes",
    "operator.serviceAccount.annotations.role=x",
    r"commonLabels.cost-center=c",
    r"commonLabels.app\.kubernetes\.io/instance=other",
    r#"dns.topologySpreadConstraints=[{"maxSkew":2,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule"}]"#,
];

#[test]
fn common_values_reach_the_pods() {
    let Some(objects) = rendered(&EVERYTHING) else {
        return;
    };
    let operator = find(&objects, "Deployment", "scaledapp-operator");
    let template = &operator["spec"]["template"];
    let pod = &template["spec"];
    assert_eq!(pod["nodeSelector"], json!({"pool": "infra"}));
    assert_eq!(pod["tolerations"][0]["key"], "infra");
    assert_eq!(pod["affinity"]["podAntiAffinity"]["x"], "y");
    assert_eq!(pod["priorityClassName"], "system-cluster-critical");
    let secrets = json!([{"name": "own"}, {"name": "parent"}]);
    assert_eq!(pod["imagePullSecrets"], secrets);
    assert_eq!(
        flag(&objects, "operator", "image-pull-secret"),
        ["own", "parent"]
    );
    assert_eq!(flag(&objects, "operator", "concurrency"), ["4"]);
    let variables = container(&objects, "operator")["env"].as_array().unwrap();
    assert!(variables.contains(&json!({"name": "RUST_BACKTRACE", "value": "1"})));
    // Labels that selectors use cannot be changed.
    let labels = &template["metadata"]["labels"];
    assert_eq!(labels["team"], "a");
    assert_eq!(labels["app.kubernetes.io/component"], "operator");
    assert_eq!(
        template["metadata"]["annotations"]["prometheus.io/scrape"],
        "yes"
    );
    let account = find(&objects, "ServiceAccount", "scaledapp-operator");
    assert_eq!(account["metadata"]["annotations"]["role"], "x");
    for object in &objects {
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["cost-center"], "c", "{object}");
        assert_eq!(
            labels["app.kubernetes.io/instance"], "scaledapp",
            "{object}"
        );
    }
    let dns = find(&objects, "Deployment", "scaledapp-dns");
    let spread = &dns["spec"]["template"]["spec"]["topologySpreadConstraints"];
    assert_eq!(spread[0]["topologyKey"], "zone");
}

#[test]
fn evictions_take_as_many_as_a_value_says() {
    for (values, spec) in [
        (&[][..], json!({"maxUnavailable": 1})),
        (
            &["operator.podDisruptionBudget.maxUnavailable=50%"],
            json!({"maxUnavailable": "50%"}),
        ),
        (
            &["operator.podDisruptionBudget.minAvailable=1"],
            json!({"minAvailable": 1}),
        ),
    ] {
        let Some(objects) = rendered(values) else {
            return;
        };
        let budget = find(&objects, "PodDisruptionBudget", "scaledapp-operator");
        let mut found = budget["spec"].clone();
        found.as_object_mut().unwrap().remove("selector");
        assert_eq!(found, spec, "{values:?}");
    }
    for values in [
        &["operator.podDisruptionBudget.enabled=false"],
        &["operator.replicas=1"],
    ] {
        let objects = rendered(values).unwrap();
        let mut budgets = objects
            .iter()
            .filter(|object| object["kind"] == "PodDisruptionBudget");
        let left: Vec<_> = budgets
            .by_ref()
            .map(|object| &object["metadata"]["name"])
            .collect();
        assert_eq!(left, ["scaledapp-dns"], "{values:?}");
    }
}

#[test]
fn pod_monitors_network_policies_and_json_logs_are_off_by_default() {
    let Some(plain) = rendered(&[]) else { return };
    for kind in ["PodMonitor", "NetworkPolicy"] {
        assert!(plain.iter().all(|object| object["kind"] != kind), "{kind}");
    }
    let objects = rendered(&[
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.labels.release=stack",
        "networkPolicy.enabled=true",
        "logFormat=json",
        r#"watchNamespaces=["team-a"]"#,
    ]);
    let objects = objects.unwrap();
    let apps = find(&objects, "PodMonitor", "scaledapp-apps");
    assert_eq!(apps["metadata"]["labels"]["release"], "stack");
    let namespaces = &apps["spec"]["namespaceSelector"];
    assert_eq!(*namespaces, json!({"matchNames": ["team-a"]}));
    let system = find(&objects, "PodMonitor", "scaledapp-system");
    for component in ["operator", "dns"] {
        let name = format!("scaledapp-{component}");
        let policy = find(&objects, "NetworkPolicy", &name);
        let template = &find(&objects, "Deployment", &name)["spec"]["template"];
        let labels = template["metadata"]["labels"].as_object().unwrap();
        for selector in [&policy["spec"]["podSelector"], &system["spec"]["selector"]] {
            for (label, value) in selector["matchLabels"].as_object().unwrap() {
                assert_eq!(labels.get(label), Some(value), "{component}: {label}");
            }
        }
        let container = container(&objects, component);
        let ports = container["ports"].as_array().unwrap();
        for open in policy["spec"]["ingress"][0]["ports"].as_array().unwrap() {
            let is_there = ports.iter().any(|port| port["name"] == open["port"]);
            assert!(is_there, "{component}: {open}");
        }
        let variables = container["env"].as_array().unwrap();
        let format = json!({"name": "SCALEDAPP_LOG_FORMAT", "value": "json"});
        assert!(variables.contains(&format), "{component}");
    }
}

#[test]
fn names_can_be_changed() {
    let Some(objects) = rendered(&["fullnameOverride=apps", "nameOverride=my-apps"]) else {
        return;
    };
    for component in ["operator", "dns"] {
        let name = format!("apps-{component}");
        let deployment = find(&objects, "Deployment", &name);
        let selector = &deployment["spec"]["selector"]["matchLabels"];
        assert_eq!(selector["app.kubernetes.io/name"], "my-apps");
        assert_eq!(
            deployment["spec"]["template"]["spec"]["serviceAccountName"],
            *name
        );
        let service = find(&objects, "Service", &name);
        assert_eq!(service["spec"]["selector"], *selector);
        find(
            &objects,
            "ClusterRoleBinding",
            &format!("scaledapp-system-{name}"),
        );
    }
}

#[test]
fn a_cluster_may_choose_the_users_itself() {
    let users = [
        "podSecurityContext.runAsUser=null",
        "podSecurityContext.runAsGroup=null",
    ];
    let Some(objects) = rendered(&users) else {
        return;
    };
    let operator = find(&objects, "Deployment", "scaledapp-operator");
    let expected = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    assert_eq!(
        operator["spec"]["template"]["spec"]["securityContext"],
        expected
    );
}

/// `helm upgrade --reuse-values` uses the values of an older release, which lack newer keys.
#[test]
fn values_of_an_older_release_render_as_before() {
    let newer = [
        "image",
        "watchNamespaces",
        "dns.zones",
        "podSecurityContext",
        "commonLabels",
        "rbac",
        "balancers",
        "logFormat",
        "metrics",
        "networkPolicy",
    ];
    let mut values: Vec<String> = newer.iter().map(|key| format!("{key}=null")).collect();
    for image in ["operator", "sidecar", "balancer", "dns"] {
        values.push(format!("images.{image}.repository=old.example/{image}"));
        values.push(format!("images.{image}.digest=null"));
    }
    for component in ["operator", "dns"] {
        for key in [
            "nodeSelector",
            "tolerations",
            "affinity",
            "podLabels",
            "podAnnotations",
            "serviceAccount",
            "extraArgs",
            "extraEnv",
            "topologySpreadConstraints",
            "priorityClassName",
            "podDisruptionBudget",
        ] {
            values.push(format!("{component}.{key}=null"));
        }
    }
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let Some(old) = template(&values) else { return };
    assert_eq!(old.code, 0, "{}", old.stderr);
    let images = ["operator", "sidecar", "balancer", "dns"];
    let images = images.map(|image| format!("images.{image}.repository=old.example/{image}"));
    let new = template(&images.each_ref().map(String::as_str)).unwrap();
    assert_eq!(old.stdout, new.stdout);
}

#[test]
fn the_operator_gets_the_default_resources_of_balancers() {
    for (values, requests, limits) in [
        (&[][..], "cpu=100m,memory=64Mi", "memory=512Mi"),
        (
            &[
                "balancers.resources.limits.cpu=1",
                "balancers.resources.requests.cpu=0.5",
            ],
            "cpu=0.5,memory=64Mi",
            "cpu=1,memory=512Mi",
        ),
        (&["balancers.resources.requests=null"], "", "memory=512Mi"),
    ] {
        let Some(objects) = rendered(values) else {
            return;
        };
        assert_eq!(flag(&objects, "operator", "balancer-requests"), [requests]);
        assert_eq!(flag(&objects, "operator", "balancer-limits"), [limits]);
    }
    let Some(said) = refused(&[REGISTRY, "balancers.resources.limits.cpu=much"]) else {
        return;
    };
    assert!(said.contains("balancers"), "{said}");
}

#[test]
fn an_unknown_key_is_refused() {
    for value in [
        "operator.nodeselector.a=b",
        "watchNamespace=a",
        "dns.zone.a=b",
    ] {
        let Some(message) = refused(&[REGISTRY, value]) else {
            return;
        };
        assert!(
            message.contains("specifications of the schema"),
            "{message}"
        );
    }
}

/// Writes a chart that has this chart as an optional dependency.
fn parent(directory: &Path) {
    let chart = "apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies:\n- {name: scaledapp, version: 0.1.0, condition: scaledapp.enabled}\n";
    fs::write(directory.join("Chart.yaml"), chart).unwrap();
    let parts = directory.join("charts");
    fs::create_dir(&parts).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-r")
        .arg(binaries::workspace().join("charts/scaledapp"))
        .arg(&parts);
    assert_eq!(process::run(copy, DEADLINE).unwrap().code, 0);
}

#[test]
fn as_a_dependency_of_another_chart_it_can_be_disabled() {
    let Some(helm) = helm() else { return };
    let directory = tempfile::tempdir().unwrap();
    parent(directory.path());
    let render = |values: &[&str]| -> Vec<Value> {
        let mut command = Command::new(&helm);
        command.args(["template", "shop"]).arg(directory.path());
        for value in [&["global.imageRegistry=mirror.example"], values].concat() {
            command.args(["--set", value]);
        }
        let ended = process::run(command, DEADLINE).unwrap();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let documents = ended.stdout.split("\n---\n");
        let objects = documents.map(|text| serde_saphyr::from_str(text).unwrap_or_default());
        objects.filter(|object: &Value| !object.is_null()).collect()
    };
    let own = ["scaledapp.crd.install=false"];
    let objects = render(&[&["scaledapp.enabled=true"], &own[..]].concat());
    let deployment = find(&objects, "Deployment", "shop-operator");
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, "mirror.example/scaledapp-operator:0.1.0");
    assert_eq!(render(&["scaledapp.enabled=false"]), [Value::Null; 0]);
}
