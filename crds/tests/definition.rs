//! Tests of the object's definition: it equals its file, it is small, and each bad input is
//! refused by a rule that names the cure.

#![allow(
    clippy::unwrap_used,
    reason = "all of this target is test code, helpers included"
)]

use std::path::{Path, PathBuf};

use kube_cel::{ErrorKind, Validator};
use scaledapp_crds::kubernetes::definition;
use serde_json::{Value, json};

const HEAD: &str = "# Generated from crds/src/v1alpha1.rs: UPDATE=1 cargo test -p scaledapp-crds --test definition\n";

fn yaml() -> String {
    format!("{HEAD}{}", serde_saphyr::to_string(&definition()).unwrap())
}

/// The files that contain the definition. The chart has a copy.
fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = vec![root.join("crds/scaledapp.yaml")];
    let chart = ["charts/scaledapp/crds", "charts/scaledapp/files"];
    let chart = chart.map(|directory| root.join(directory));
    let copies = chart.iter().filter(|directory| directory.is_dir());
    files.extend(copies.map(|directory| directory.join("scaledapp.yaml")));
    files
}

#[test]
fn the_files_match_the_types() {
    let expected = yaml();
    for file in files() {
        if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
            std::fs::write(&file, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            found == expected,
            "{} differs from the types: run UPDATE=1 cargo test -p scaledapp-crds --test definition",
            file.display()
        );
    }
}

/// `kubectl apply` keeps the whole object in an annotation of at most 256 KiB.
#[test]
fn the_definition_is_small_enough_for_kubectl_apply() {
    let json = serde_json::to_vec(&definition()).unwrap();
    assert!(json.len() <= 200 * 1024, "{} bytes", json.len());
}

fn schema() -> Value {
    let definition = serde_json::to_value(definition()).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Every part of a schema with its path.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    for (key, name) in [("items", "[]"), ("additionalProperties", ".*")] {
        if schema[key].is_object() {
            walk(&schema[key], &format!("{path}{name}"), visit);
        }
    }
}

#[test]
fn nothing_is_defaulted_and_everything_is_explained_and_bounded() {
    walk(&schema(), "", &mut |path, part| {
        // This default only means that the operator has not reconciled the object yet.
        let defaulted = part.get("default").is_some();
        assert_eq!(defaulted, path == ".status", "{path} has a default");
        assert!(part.get("nullable").is_none(), "{path} is nullable");
        let spec = path.starts_with(".spec");
        let named = !path.ends_with("[]") && !path.ends_with(".*");
        if !path.is_empty() && named {
            assert!(
                part.get("description").is_some(),
                "{path} has no description"
            );
        }
        if spec && part["type"] == "string" && part.get("enum").is_none() {
            assert!(part.get("maxLength").is_some(), "{path} has no maxLength");
        }
        if spec && part["type"] == "array" {
            assert!(part.get("maxItems").is_some(), "{path} has no maxItems");
        }
        if spec && part["type"] == "integer" {
            assert!(
                part.get("minimum").is_some() && part.get("maximum").is_some(),
                "{path} has no bounds"
            );
        }
    });
}

/// Unknown fields are pruned with a warning, except in pod templates.
#[test]
fn only_pod_templates_may_hold_unknown_fields() {
    let mut open = Vec::new();
    walk(&schema(), "", &mut |path, part| {
        // An amount is text or a number, which a schema can only express like this.
        let is_amount =
            part.get("pattern").is_some() && part.get("maxProperties") == Some(&json!(0));
        if part.get("x-kubernetes-preserve-unknown-fields").is_some() && !is_amount {
            open.push(path.to_owned());
        }
        assert_ne!(
            part.get("additionalProperties"),
            Some(&json!(false)),
            "{path}"
        );
    });
    open.sort();
    assert_eq!(open, [".spec.balancers.podTemplate", ".spec.podTemplate"]);
}

#[test]
fn kubectl_scale_writes_the_total_and_columns_tell_the_state() {
    let definition = serde_json::to_value(definition()).unwrap();
    let version = &definition["spec"]["versions"][0];
    assert_eq!(
        version["subresources"],
        json!({
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas.total",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        })
    );
    let columns = version["additionalPrinterColumns"].as_array().unwrap();
    let shown: Vec<&str> = columns
        .iter()
        .filter(|column| column.get("priority").is_none())
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        shown,
        [
            "Ready",
            "Updated",
            "Pods",
            "Workers",
            "Balancers",
            "Host",
            "Reason",
            "Age"
        ]
    );
    assert_eq!(definition["spec"]["names"]["shortNames"], json!(["sapp"]));
}

/// The messages of the rules that an object with this name and `spec` breaks.
fn messages(name: &str, spec: &str) -> Vec<String> {
    let app = scaledapp_crds::read(&format!(
        "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    ));
    let object = serde_json::to_value(app.unwrap()).unwrap();
    let errors = match Validator::new().validate(&schema(), &object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec(),
    };
    errors
        .into_iter()
        .map(|error| {
            assert_eq!(
                error.kind,
                ErrorKind::ValidationFailure,
                "{spec}: {error:?}"
            );
            error.message
        })
        .collect()
}

const GOOD: &[&str] = &[
    "{image: i, command: [a]}",
    "{image: i, command: ['a b', c]}",
    "{image: i, command: [a], port: 9377, adminPort: 9400, workers: {share: [9378]}}",
    "{image: i, command: [a], port: 65535, appProtocol: http, replicas: {perNode: 1}}",
    "{image: i, command: [a], replicas: {total: 6}, workers: {count: 4, dispatch: Connection}}",
    "{image: i, command: [a], workers: {maxMemory: 300Mi, maxRequests: 1000, maxAge: 6h, hangTimeout: 0s, maxInFlight: 8, share: [8081], metricsFrom: /metrics}}",
    "{image: i, command: [a], workers: {readiness: {waitReady: true}, shutdownMessage: true, incrementEnv: DEBUG_PORT}}",
    "{image: i, command: [a], workers: {perCore: 2, readiness: {path: /healthz, timeout: 30s}, drainTimeout: 1h, stopSignal: sigint}}",
    "{image: i, command: [a], workers: {stopGrace: 90s}, balancers: {slowStart: 0s, trafficDistribution: PreferSameZone, timeouts: {head: 5s, body: 1h, answer: 10m, stall: 20m, stream: 6h, upgrade: 12h, idle: 30s, halfClose: 0s}, limits: {connections: 4000, connectionsPerAddress: 100, requestsPerSecondPerAddress: 50, requestBurstPerAddress: 200, bodySize: 10Mi, bodyRate: 0, headBytes: 131072, headFields: 200}, accessLog: {format: Combined, sample: 5, query: false}}}",
    "{image: i, command: [a], balancers: {limits: {bodySize: '1000000'}, accessLog: {}, errorPages: {configMapName: hello-pages.v2}}}",
    "{image: i, command: [a], autoscaling: {}}",
    "{image: i, command: [a], resources: {limits: {cpu: 1}}, autoscaling: {pods: {min: 0, max: 20}, workers: {min: 1, max: 4}, utilization: 70, concurrency: 20, cpu: {max: 2}, zeroAfter: 10m, scaleDown: {window: 2m}, schedules: [{cron: '0 8 * * 1-5', timeZone: Europe/Rome, minPods: 6, for: 10h}]}}",
    "{image: i, command: [a], autoscaling: {pods: {min: 20}, schedules: [{cron: '0 8 * * 1-5', minPods: 20}, {cron: '0 20 * * 1-5', minPods: 0}]}}",
    "{image: i, command: [a], appProtocol: tcp, autoscaling: {workers: {min: 2, max: 2}}}",
    "{image: i, command: [a], balancers: {replicas: 8, exposure: LoadBalancer}, dns: {hostname: hello.apps.example.com, ttl: 24h}}",
    "{image: i, command: [a], balancers: {forwardedFrom: [10.0.0.0/8, 192.0.2.7, 'fd00::/8', '::1', '::ffff:10.0.0.0/104', 0.0.0.0/0, '2001:db8::1/128']}}",
    "{image: i, command: [a], balancers: {proxyProtocol: {from: [10.0.0.0/8, '::1']}}}",
    "{image: i, command: [a], appProtocol: tcp, port: 6379, workers: {dispatch: Connection}, balancers: {stickiness: {clientAddress: true}, proxyProtocol: {from: [10.0.0.0/8], toPods: true}, tls: {secretName: s, redirect: false}, timeouts: {head: 5s, upgrade: 8h, stall: 1m}, limits: {connections: 100}}}",
    "{image: i, command: [a], port: 8000, env: [{name: PORT, value: '8000'}, {name: S, valueFrom: {secretKeyRef: {name: s, key: k}}}], envFrom: [{configMapRef: {name: c}}]}",
    "{image: i, command: [a], resources: {requests: {cpu: 2}, limits: {cpu: 500m}}, podTemplate: {spec: {anything: 1}}, paused: true}",
    "{image: i, command: [a], resources: {requests: {cpu: 0.5}}, balancers: {resources: {limits: {cpu: 1.5, memory: 1Gi}}, podTemplate: {spec: {anything: 1}}}, supervisor: {delivery: ImageVolume}}",
];

/// Bad inputs, each with the message of its rule.
const BAD: &[(&str, &str)] = &[
    (
        "{image: i, command: [a], replicas: {total: 2}, autoscaling: {}}",
        "is not for an app with autoscaling, which decides how many pods there are: leave replicas out. `kubectl scale` writes replicas.total; set autoscaling.pods.min instead",
    ),
    (
        "{image: i, command: [a], workers: {count: 2}, autoscaling: {}}",
        "perCore and count are not for an app with autoscaling, which decides how many workers a pod has: leave them out. For a fixed number, write the same min and max in autoscaling.workers",
    ),
    (
        "{image: i, command: [a], autoscaling: {pods: {min: 3, max: 2}}}",
        "min is more than max: raise max or lower min",
    ),
    (
        "{image: i, command: [a], autoscaling: {workers: {min: 3, max: 2}}}",
        "min is more than max: raise max or lower min",
    ),
    (
        "{image: i, command: [a], autoscaling: {pods: {min: -1}}}",
        "is out of range: give 0 to 5000",
    ),
    (
        "{image: i, command: [a], autoscaling: {pods: {min: 0, max: 0}}}",
        "0 pods serve nothing, and there is a limit: give 1 to 5000",
    ),
    (
        "{image: i, command: [a], autoscaling: {workers: {min: 0}}}",
        "0 workers serve nothing, and there is a limit: give 1 to 1024",
    ),
    (
        "{image: i, command: [a], workers: {dispatch: Connection}, autoscaling: {workers: {min: 1, max: 4}}}",
        "a range needs dispatch Request: with Connection, workers accept connections themselves, so nobody sees when one more is needed; write the same min and max",
    ),
    (
        "{image: i, command: [a], appProtocol: tcp, autoscaling: {workers: {min: 1, max: 4}}}",
        "a range needs dispatch Request: with Connection, workers accept connections themselves, so nobody sees when one more is needed; write the same min and max",
    ),
    (
        "{image: i, command: [a], autoscaling: {utilization: 100}}",
        "is out of range: give 10 to 95 percent, such as 70; the rest is spare for load that comes suddenly",
    ),
    (
        "{image: i, command: [a], autoscaling: {concurrency: 0}}",
        "is out of range: give 1 to 10000 requests, or leave it out, and it is learnt",
    ),
    (
        "{image: i, command: [a], autoscaling: {cpu: {max: 2}}}",
        "needs the CPU that a pod starts with: give spec.resources.limits.cpu or spec.resources.requests.cpu, or leave cpu out",
    ),
    (
        "{image: i, command: [a], autoscaling: {zeroAfter: 0s}}",
        "is out of range: give 1s to 24h",
    ),
    (
        "{image: i, command: [a], autoscaling: {scaleDown: {window: 25h}}}",
        "is out of range: give 1s to 24h",
    ),
    (
        "{image: i, command: [a], autoscaling: {schedules: [{cron: 8 o'clock, minPods: 1, for: 1h}]}}",
        "is not a cron pattern: write five fields, minute, hour, day of month, month and day of week, such as \"0 8 * * 1-5\" for 08:00 from Monday to Friday",
    ),
    (
        "{image: i, command: [a], autoscaling: {schedules: [{cron: '0 8 * * *', minPods: 1, for: 169h}]}}",
        "is out of range: give 1s to 168h",
    ),
    (
        "{image: i, command: [a], autoscaling: {schedules: [{cron: '0 8 * * *', minPods: 1}]}}",
        "has one schedule without an end, and it would never end: add for: 10h to it, or a second schedule without for that begins when it shall end",
    ),
    (
        "{image: i, command: [a], autoscaling: {schedules: [{cron: '0 8 * * *', minPods: 11, for: 1h}]}}",
        "has a minPods above autoscaling.pods.max (10 by default): raise pods.max, or lower minPods",
    ),
    (
        "{image: i, command: [a], workers: {stopGrace: 2h}}",
        "is longer than 1h, and a stop could take that long: give at most 1h",
    ),
    (
        "{image: i, command: [a], balancers: {slowStart: 1h}}",
        "is longer than 15m, and new pods would help too late: give at most 15m",
    ),
    (
        "{image: i, command: [a], balancers: {timeouts: {answer: 0s}}}",
        "is out of range: give 1ms to 24h",
    ),
    (
        "{image: i, command: [a], balancers: {timeouts: {stream: 25h}}}",
        "is out of range: give 1ms to 24h",
    ),
    (
        "{image: i, command: [a], balancers: {timeouts: {halfClose: 48h}}}",
        "is out of range: give 0s to 24h",
    ),
    (
        "{image: i, command: [a], balancers: {limits: {connections: 0}}}",
        "0 connections serve no client: give 1 to 1000000, or leave it out",
    ),
    (
        "{image: i, command: [a], balancers: {limits: {connectionsPerAddress: 0}}}",
        "0 connections serve no client: give 1 to 1000000, or leave it out",
    ),
    (
        "{image: i, command: [a], balancers: {limits: {requestsPerSecondPerAddress: 0}}}",
        "0 requests serve no client: give 1 to 1000000, or leave it out",
    ),
    (
        "{image: i, command: [a], balancers: {limits: {requestBurstPerAddress: 5}}}",
        "needs requestsPerSecondPerAddress: give it, or leave requestBurstPerAddress out",
    ),
    (
        "{image: i, command: [a], balancers: {limits: {bodySize: 0Mi}}}",
        "is no size of a body: give an amount such as 10Mi or '1048576', or leave it out",
    ),
    (
        "{image: i, command: [a], balancers: {limits: {bodySize: '0'}}}",
        "is no size of a body: give an amount such as 10Mi or '1048576', or leave it out",
    ),
    (
        "{image: i, command: [a], balancers: {accessLog: {sample: 0}}}",
        "is no percentage: give 1 to 100, or leave accessLog out to log nothing",
    ),
    (
        "{image: i, command: [a], balancers: {errorPages: {configMapName: Hello}}}",
        "cannot be the name of a ConfigMap: use a-z, 0-9, - and ., such as hello-pages",
    ),
    (
        "{image: i, command: [a], balancers: {limits: {headBytes: 100}}}",
        "is out of range: give 4096 to 16777216, or leave it out",
    ),
    (
        "{image: i, command: [a], balancers: {limits: {headFields: 3}}}",
        "is out of range: give 64 to 100000, or leave it out",
    ),
    (
        "{image: i, command: [a], balancers: {limits: {bodyRate: -1}}}",
        "is not a rate: give bytes per second, 0 for any rate",
    ),
    (
        "{image: i}",
        "is empty: say what one worker runs, such as [node, server.js]",
    ),
    (
        "{image: i, command: []}",
        "is empty: say what one worker runs, such as [node, server.js]",
    ),
    (
        "{image: i, command: ['']}",
        "begins with an empty word: begin with the program",
    ),
    (
        "{image: i, command: ['node server.js']}",
        "is one word with spaces, and no shell splits it: write each word separately, such as [node, server.js]",
    ),
    (
        "{image: i, command: [a], replicas: {perNode: 1, total: 6}}",
        "perNode and total exclude each other: leave one out. `kubectl scale` writes total; to scale an app with perNode, change perNode with `kubectl edit`",
    ),
    (
        "{image: i, command: [a], replicas: {}}",
        "is empty: give perNode or total, or leave it out (perNode: 1)",
    ),
    (
        "{image: i, command: [a], replicas: {total: 0}}",
        "0 pods serve nothing, and there is a limit: give 1 to 5000",
    ),
    (
        "{image: i, command: [a], port: 0}",
        "is not a port: give the one that the app listens on, 1 to 65535",
    ),
    (
        "{image: i, command: [a], port: 70000}",
        "is not a port: give the one that the app listens on, 1 to 65535",
    ),
    (
        "{image: i, command: [a], appProtocol: tcp, workers: {dispatch: Request}}",
        "Request needs HTTP, and spec.appProtocol is tcp: write Connection, or leave it out",
    ),
    (
        "{image: i, command: [a], appProtocol: tcp, workers: {maxInFlight: 3}}",
        "maxRequests, maxInFlight and readiness.path need HTTP, and spec.appProtocol is tcp: leave them out",
    ),
    (
        "{image: i, command: [a], appProtocol: tcp, balancers: {stickiness: {cookie: A}}}",
        "needs a request that has a cookie or a header, and spec.appProtocol is tcp: use clientAddress: true, or leave it out",
    ),
    (
        "{image: i, command: [a], appProtocol: tcp, balancers: {http2: false}}",
        "http2, forwardedFrom, accessLog and errorPages are for HTTP, and spec.appProtocol is tcp: leave them out; a load balancer in front can say who its client is with proxyProtocol.from",
    ),
    (
        "{image: i, command: [a], appProtocol: tcp, balancers: {tls: {secretName: s, redirect: true}}}",
        "redirect and hsts are for HTTP, and spec.appProtocol is tcp: leave them out",
    ),
    (
        "{image: i, command: [a], appProtocol: tcp, balancers: {timeouts: {idle: 1s}}}",
        "body, answer, stream, idle and halfClose are for HTTP, and spec.appProtocol is tcp: leave them out; upgrade limits how long a connection may be silent",
    ),
    (
        "{image: i, command: [a], appProtocol: tcp, balancers: {limits: {bodyRate: 1}}}",
        "bodyRate, bodySize, headBytes, headFields and requestsPerSecondPerAddress are for HTTP, and spec.appProtocol is tcp: leave them out",
    ),
    (
        "{image: i, command: [a], balancers: {proxyProtocol: {toPods: true}}}",
        "needs appProtocol tcp: apps that speak HTTP learn their client from X-Forwarded-For; leave it out",
    ),
    (
        "{image: i, command: [a], balancers: {proxyProtocol: {toPods: false}}}",
        "is empty: give from or toPods, or leave it out",
    ),
    (
        "{image: i, command: [a], balancers: {proxyProtocol: {from: [10/8]}}}",
        "contains something that is neither a network nor an address: give entries such as 10.0.0.0/8, fd00::/8 or 192.0.2.7; names are not looked up",
    ),
    (
        "{image: i, command: [a], workers: {perCore: 0}}",
        "0 workers serve nothing, and there is a limit: give 1 to 1024",
    ),
    (
        "{image: i, command: [a], workers: {perCore: 1, count: 2}}",
        "perCore and count exclude each other: leave one out",
    ),
    (
        "{image: i, command: [a], workers: {dispatch: Connection, readiness: {path: /h}}}",
        "needs dispatch Request: with Connection, all workers share one queue, so no single one can be probed; leave the path out",
    ),
    (
        "{image: i, command: [a], workers: {readiness: {path: healthz}}}",
        "must start with / and contain no spaces, such as /healthz",
    ),
    (
        "{image: i, command: [a], workers: {readiness: {timeout: 0s}}}",
        "is out of range: give 1ms to 1h",
    ),
    (
        "{image: i, command: [a], workers: {drainTimeout: 61m}}",
        "is longer than 1h, and a stop could take that long: give at most 1h",
    ),
    (
        "{image: i, command: [a], workers: {maxRequests: 0}}",
        "0 requests would replace workers without end: give 1 or more, or leave it out",
    ),
    (
        "{image: i, command: [a], workers: {maxRequests: 9, dispatch: Connection}}",
        "needs dispatch Request: connections that workers accept for themselves are not counted; use maxAge or maxMemory",
    ),
    (
        "{image: i, command: [a], workers: {maxInFlight: 0}}",
        "a worker with 0 requests serves nothing: give 1 or more, or leave it out",
    ),
    (
        "{image: i, command: [a], workers: {maxInFlight: 9, dispatch: Connection}}",
        "needs dispatch Request: with Connection, workers accept connections themselves; leave it out",
    ),
    (
        "{image: i, command: [a], workers: {metricsFrom: metrics}}",
        "is not a source of metrics: give a path such as /metrics, or a port and a path such as 9464/metrics",
    ),
    (
        "{image: i, command: [a], workers: {maxAge: 10ms}}",
        "would replace workers without end: give 1s or more, or leave it out",
    ),
    (
        "{image: i, command: [a], workers: {stopSignal: KILL}}",
        "is not a signal that asks a process to end: give SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH",
    ),
    (
        "{image: i, command: [a], workers: {incrementEnv: PORT}}",
        "cannot be counted up: give a variable of the app's own, such as DEBUG_PORT; all workers share spec.port",
    ),
    (
        "{image: i, command: [a], workers: {incrementEnv: A, instanceEnv: A}}",
        "already holds the worker's number: leave it out",
    ),
    (
        "{image: i, command: [a], workers: {instanceEnv: PORT}}",
        "cannot hold the worker's number: give a variable's name, such as INSTANCE",
    ),
    (
        "{image: i, command: [a], balancers: {replicas: 0}}",
        "0 balancers serve no client, and one DNS answer holds 8: give 1 to 8",
    ),
    (
        "{image: i, command: [a], balancers: {forwardedFrom: [10.0.0.0/8, proxy.example]}}",
        "contains something that is neither a network nor an address: give entries such as 10.0.0.0/8, fd00::/8 or 192.0.2.7; names are not looked up",
    ),
    (
        "{image: i, command: [a], balancers: {forwardedFrom: [10.0.0.0/33]}}",
        "contains something that is neither a network nor an address: give entries such as 10.0.0.0/8, fd00::/8 or 192.0.2.7; names are not looked up",
    ),
    (
        "{image: i, command: [a], balancers: {forwardedFrom: ['fd00::/129']}}",
        "contains something that is neither a network nor an address: give entries such as 10.0.0.0/8, fd00::/8 or 192.0.2.7; names are not looked up",
    ),
    (
        "{image: i, command: [a], dns: {hostname: Hello_world}}",
        "is not a DNS name with a zone: use labels of a-z, 0-9 and -, each at most 63 long, separated by dots, such as hello.apps.local",
    ),
    (
        "{image: i, command: [a], dns: {hostname: hello}}",
        "is not a DNS name with a zone: use labels of a-z, 0-9 and -, each at most 63 long, separated by dots, such as hello.apps.local",
    ),
    (
        "{image: i, command: [a], dns: {hostname: a.b, ttl: 500ms}}",
        "is out of range: give whole seconds from 1s to 24h",
    ),
    (
        "{image: i, command: [a], port: 9377}",
        "is the supervisor's admin port in each pod: let the app listen on another port, or set spec.adminPort to another one",
    ),
    (
        "{image: i, command: [a], adminPort: 3000}",
        "is the supervisor's admin port in each pod: let the app listen on another port, or set spec.adminPort to another one",
    ),
    (
        "{image: i, command: [a], adminPort: 0}",
        "is not a port: give one that the app does not use, 1 to 65535",
    ),
    (
        "{image: i, command: [a], workers: {share: [9377]}}",
        "contains the supervisor's admin port of each pod: share another port, or set spec.adminPort to another one",
    ),
    (
        "{image: i, command: [a], env: [{name: PORT, value: '80'}]}",
        "PORT is set from spec.port: change that field",
    ),
    (
        "{image: i, command: [a], env: [{name: SCALEDAPP_SLOT}]}",
        "is set by the supervisor: leave it out",
    ),
    (
        "{image: i, command: [a], env: [{name: A=B}]}",
        "is not a variable's name: it must not contain =",
    ),
    (
        "{image: i, command: [a], env: [{name: A, value: a, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}",
        "value and valueFrom exclude each other: leave one out",
    ),
    (
        "{image: i, command: [a], env: [{name: A, valueFrom: {}}]}",
        "give exactly one of secretKeyRef, configMapKeyRef and fieldRef",
    ),
    (
        "{image: i, command: [a], envFrom: [{prefix: A}]}",
        "give exactly one of configMapRef and secretRef",
    ),
];

#[test]
fn good_objects_meet_no_rule() {
    for spec in GOOD {
        assert_eq!(messages("hello", spec), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn each_bad_input_meets_the_rule_that_names_the_cure() {
    for (spec, message) in BAD {
        assert_eq!(messages("hello", spec), [*message], "{spec}");
    }
    for name in ["1st", "a.b", &"a".repeat(64)] {
        let found = messages(name, "{image: i, command: [a]}");
        assert!(
            found.len() == 1 && found[0].contains("begin with a letter"),
            "{found:?}"
        );
    }
}
