//! Tests of validation: the defaults, and every rule with its message.

#![allow(
    clippy::unwrap_used,
    reason = "all of this target is test code, helpers included"
)]

use std::time::Duration;

use proptest::prelude::*;
use scaledapp_crds::ScaledApp;
use scaledapp_crds::v1alpha1::{Algorithm, Dispatch};
use scaledapp_plan::{Pods, Protocol, WorkerCount, validate};

const HEAD: &str =
    "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {name: hello}\nspec:\n";
const SHORTEST: &str = "  image: example/hello:1.0\n  command: [node, server.js]\n";

fn object(lines: &str) -> ScaledApp {
    scaledapp_crds::read(&format!("{HEAD}{SHORTEST}{lines}\n")).unwrap()
}

/// All violations of the shortest object after `lines` were added to its spec.
fn violations(lines: &str) -> Vec<String> {
    match validate(&object(lines)) {
        Ok(_) => Vec::new(),
        Err(violations) => violations.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn absence_means_one_pod_per_node_one_worker_per_core_and_two_balancers() {
    let app = validate(&object("")).unwrap();
    assert_eq!(app.port.get(), 3000);
    assert_eq!(app.pods, Pods::PerNode(1.try_into().unwrap()));
    assert_eq!(
        app.workers.count,
        WorkerCount::PerCore(1.try_into().unwrap())
    );
    assert_eq!(app.workers.dispatch, Dispatch::Request);
    assert_eq!(app.workers.drain_timeout, Duration::from_secs(30));
    assert_eq!(app.workers.readiness.timeout, Duration::from_mins(1));
    assert_eq!(app.workers.stop_signal, "SIGTERM");
    assert_eq!(app.workers.instance_env, "NODE_APP_INSTANCE");
    let Protocol::Http(balancers) = app.protocol else {
        unreachable!("http is the default")
    };
    assert_eq!(
        (balancers.slots.get(), balancers.algorithm),
        (2, Algorithm::LeastRequest)
    );
    assert_eq!(
        (app.dns.hostname, app.dns.ttl),
        (None, Duration::from_secs(30))
    );
}

#[test]
fn limits_become_flags_and_absent_ones_do_not() {
    let flags = |lines: &str| {
        let app = validate(&object(lines)).unwrap();
        app.workers.optional_flags()
    };
    assert!(flags("").is_empty());
    let all = "  workers: {maxMemory: 300Mi, maxRequests: 10000, maxAge: 6h, hangTimeout: 0s, \
               maxInFlight: 8, share: [8081, 9000], metricsFrom: 9464/metrics, incrementEnv: DEBUG_PORT}";
    let expected = [
        ("--max-memory", "314572800"),
        ("--max-requests", "10000"),
        ("--max-age", "6h"),
        ("--hang-timeout", "none"),
        ("--max-in-flight", "8"),
        ("--share", "8081,9000"),
        ("--metrics-from", "9464/metrics"),
        ("--increment-env", "DEBUG_PORT"),
    ];
    let expected = expected.map(|(flag, value)| (flag, value.to_owned()));
    assert_eq!(flags(all), expected);
}

#[test]
fn slow_start_becomes_a_flag_of_balancers_alone_and_is_bounded() {
    let app = validate(&object("  balancers: {slowStart: 1m}")).unwrap();
    let Protocol::Http(balancers) = app.protocol else {
        unreachable!("http is the default")
    };
    let expected = [("--slow-start", "1m".to_owned())];
    assert_eq!(balancers.optional_flags(), expected);
    assert_eq!(app.supervisor_flags(), []);
    assert!(!balancers.prefers_zone);
    let violations = violations("  balancers: {slowStart: 16m}");
    assert!(violations[0].contains("give at most 15m"), "{violations:?}");
}

#[test]
fn timeouts_and_limits_of_balancers_become_flags_of_balancers_and_dispatchers() {
    let app = validate(&object(
        "  workers: {stopGrace: 90s}\n  balancers: {timeouts: {head: 5s, body: 1h, answer: 10m, \
         stall: 20m, stream: 6h, upgrade: 12h, idle: 30s, halfClose: 0s}, \
         limits: {connections: 4000, connectionsPerAddress: 100, bodyRate: 0, \
         requestsPerSecondPerAddress: 50, requestBurstPerAddress: 200, bodySize: 10Mi, \
         headBytes: 131072, headFields: 200}, \
         accessLog: {format: Combined, sample: 5, query: false}}",
    ))
    .unwrap();
    let Protocol::Http(balancers) = app.protocol else {
        unreachable!("http is the default")
    };
    let owned = |flags: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        let flags = flags.iter();
        flags
            .map(|(flag, value)| (*flag, (*value).to_owned()))
            .collect()
    };
    let expected = [
        ("--head-time", "5s"),
        ("--body-time", "1h"),
        ("--answer-time", "10m"),
        ("--stall-time", "20m"),
        ("--stream-time", "6h"),
        ("--upgrade-time", "12h"),
        ("--idle-time", "30s"),
        ("--half-close-time", "0s"),
        ("--connections", "4000"),
        ("--connections-per-address", "100"),
        ("--requests-per-second-per-address", "50"),
        ("--request-burst-per-address", "200"),
        ("--body-size", "10485760"),
        ("--access-log", "combined"),
        ("--access-log-sample", "5"),
        ("--access-log-query", "false"),
        ("--body-rate", "0"),
        ("--head-bytes", "131072"),
        ("--head-fields", "200"),
    ];
    assert_eq!(balancers.optional_flags(), owned(&expected));
    let expected = [
        ("--stop-grace", "90s"),
        ("--body-timeout", "1h"),
        ("--answer-timeout", "10m"),
        ("--stall-timeout", "20m"),
        ("--stream-timeout", "6h"),
        ("--upgrade-timeout", "12h"),
        ("--body-rate", "0"),
        ("--head-bytes", "131072"),
        ("--head-fields", "200"),
    ];
    assert_eq!(app.supervisor_flags(), owned(&expected));
    let silent = validate(&object("  balancers: {replicas: 3}")).unwrap();
    assert_eq!(silent.supervisor_flags(), []);
}

#[test]
fn messages_become_flags_if_they_are_asked_for() {
    for (lines, expected) in [
        ("", &[][..]),
        (
            "  workers: {readiness: {waitReady: false}, shutdownMessage: false}",
            &[],
        ),
        (
            "  workers: {readiness: {waitReady: true, path: /h}, shutdownMessage: true}",
            &["--wait-ready", "--shutdown-message"],
        ),
        (
            "  workers: {readiness: {waitReady: true}, dispatch: Connection}",
            &["--wait-ready"],
        ),
    ] {
        let app = validate(&object(lines)).unwrap();
        assert_eq!(app.workers.switches(), expected, "{lines}");
    }
}

#[test]
fn tcp_means_connection_dispatch_and_balancers_that_relay() {
    let app = validate(&object("  appProtocol: tcp")).unwrap();
    assert_eq!(app.workers.dispatch, Dispatch::Connection);
    let Protocol::Tcp(balancers) = app.protocol else {
        panic!("{app:?}");
    };
    let flag = ("--protocol", "tcp".to_owned());
    assert_eq!(balancers.optional_flags(), [flag]);
    assert_eq!(app.supervisor_flags(), []);
    let lines = "  appProtocol: tcp\n  balancers: {stickiness: {clientAddress: true}, \
                 proxyProtocol: {from: [10.0.0.0/8], toPods: true}, timeouts: {upgrade: 8h}}";
    let app = validate(&object(lines)).unwrap();
    assert_eq!(app.sticky.as_deref(), Some("address"));
    let expected = [
        ("--proxy-protocol-from", "10.0.0.0/8"),
        ("--proxy-protocol-to-servers", "true"),
    ];
    let expected = expected.map(|(flag, value)| (flag, value.to_owned()));
    assert_eq!(app.proxy_protocol_flags(), expected);
}

#[test]
fn balancer_and_dispatcher_know_that_an_app_speaks_http2() {
    let flag = ("--protocol", "h2c".to_owned());
    let app = validate(&object("  appProtocol: h2c")).unwrap();
    assert_eq!(app.workers.dispatch, Dispatch::Request);
    let Protocol::Http(balancers) = app.protocol else {
        panic!("{app:?}");
    };
    assert!(balancers.optional_flags().contains(&flag));
    assert!(app.supervisor_flags().contains(&flag));
    // Without a dispatcher, workers and balancers speak to each other directly.
    let lines = "  appProtocol: h2c\n  workers: {dispatch: Connection}";
    let app = validate(&object(lines)).unwrap();
    assert_eq!(app.supervisor_flags(), []);
    let app = validate(&object("  appProtocol: http")).unwrap();
    assert_eq!(app.supervisor_flags(), []);
}

#[test]
fn a_client_comes_back_in_one_of_three_ways() {
    for (stickiness, flag) in [
        ("{cookie: S_1}", "cookie:S_1"),
        ("{header: X-User}", "header:X-User"),
        ("{clientAddress: true}", "address"),
    ] {
        let lines = format!("  balancers: {{stickiness: {stickiness}}}");
        let app = validate(&object(&lines)).unwrap();
        assert_eq!(app.sticky.as_deref(), Some(flag));
        let expected = [("--sticky", flag.to_owned())];
        assert_eq!(app.supervisor_flags(), expected);
    }
}

#[test]
fn arguments_follow_the_command_and_references_are_resolved() {
    let app = validate(&object(
        "  args: [--greet, $(GREETING)]\n  env: [{name: WHO, value: world}, {name: GREETING, value: hello $(WHO)}, {name: EMPTY}, {name: PORT, value: '3000'}]",
    ))
    .unwrap();
    assert_eq!(app.command, ["node", "server.js", "--greet", "hello world"]);
    assert_eq!(
        app.env[1],
        ("GREETING".to_owned(), "hello world".to_owned())
    );
    assert_eq!(app.env[2].1, "");
}

/// Lines of a spec, and the one violation in them.
const RULES: &[(&str, &str)] = &[
    (
        "  port: 0",
        "spec.port: 0 is not a port: give the one that the app listens on, 1 to 65535",
    ),
    (
        "  port: 70000",
        "spec.port: 70000 is not a port: give the one that the app listens on, 1 to 65535",
    ),
    (
        "  port: -1",
        "spec.port: -1 is not a port: give the one that the app listens on, 1 to 65535",
    ),
    (
        "  port: 9377",
        "spec.port: 9377 is the supervisor's admin port in each pod: let the app listen on another port, or set spec.adminPort to another one",
    ),
    (
        "  adminPort: 3000",
        "spec.port: 3000 is the supervisor's admin port in each pod: let the app listen on another port, or set spec.adminPort to another one",
    ),
    (
        "  adminPort: 0",
        "spec.adminPort: 0 is not a port: give one that the app does not use, 1 to 65535",
    ),
    (
        "  workers: {share: [8081, 9377]}",
        "spec.workers.share[1]: 9377 is the supervisor's admin port in each pod: share another port, or set spec.adminPort to another one",
    ),
    (
        "  replicas: {perNode: 1, total: 2}",
        "spec.replicas: perNode and total exclude each other: leave one out",
    ),
    (
        "  replicas: {}",
        "spec.replicas: is empty: give perNode or total, or leave it out (perNode: 1)",
    ),
    (
        "  replicas: {total: 0}",
        "spec.replicas.total: 0 pods serve nothing: give 1 to 5000",
    ),
    (
        "  replicas: {perNode: -2}",
        "spec.replicas.perNode: -2 pods serve nothing: give 1 to 5000",
    ),
    (
        "  replicas: {total: 5001}",
        "spec.replicas.total: 5001 is too many: give at most 5000",
    ),
    (
        "  workers: {perCore: 0}",
        "spec.workers.perCore: 0 workers serve nothing: give 1 to 1024",
    ),
    (
        "  workers: {count: 0}",
        "spec.workers.count: 0 workers serve nothing: give 1 to 1024",
    ),
    (
        "  workers: {perCore: 1, count: 1}",
        "spec.workers: perCore and count exclude each other: leave one out",
    ),
    (
        "  workers: {drainTimeout: 61m}",
        "spec.workers.drainTimeout: is longer than 1h, and a stop could take that long: give at most 1h",
    ),
    (
        "  workers: {maxMemory: 300m}",
        "spec.workers.maxMemory: is less than any worker needs, or too large to count: give 16Mi or more, such as 300Mi",
    ),
    (
        "  workers: {maxRequests: 0}",
        "spec.workers.maxRequests: 0 requests would replace workers without end: give 1 or more, or leave it out",
    ),
    (
        "  workers: {maxRequests: 5, dispatch: Connection}",
        "spec.workers.maxRequests: needs dispatch Request: connections that workers accept for themselves are not counted; use maxAge or maxMemory",
    ),
    (
        "  workers: {maxInFlight: 0}",
        "spec.workers.maxInFlight: a worker with 0 requests serves nothing: give 1 or more, or leave it out",
    ),
    (
        "  workers: {maxInFlight: 2, dispatch: Connection}",
        "spec.workers.maxInFlight: needs dispatch Request: with Connection, workers accept connections themselves; leave it out",
    ),
    (
        "  workers: {share: [3000]}",
        "spec.workers.share[0]: 3000 is shared already: name each further port once, without spec.port",
    ),
    (
        "  workers: {metricsFrom: metrics}",
        "spec.workers.metricsFrom: is not a source of metrics: give a path such as /metrics, or a port and a path such as 9464/metrics",
    ),
    (
        "  workers: {maxAge: 10ms}",
        "spec.workers.maxAge: would replace workers without end: give 1s or more, or leave it out",
    ),
    (
        "  workers: {stopSignal: KILL}",
        "spec.workers.stopSignal: \"KILL\" is not a signal that asks a process to end: give SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH",
    ),
    (
        "  workers: {instanceEnv: 'A=B'}",
        "spec.workers.instanceEnv: \"A=B\" cannot hold the worker's number: give a variable's name, such as INSTANCE",
    ),
    (
        "  workers: {incrementEnv: PORT}",
        "spec.workers.incrementEnv: \"PORT\" cannot be counted up: give a variable of the app's own, such as DEBUG_PORT; all workers share spec.port",
    ),
    (
        "  workers: {incrementEnv: NODE_APP_INSTANCE}",
        "spec.workers.incrementEnv: NODE_APP_INSTANCE already holds the worker's number: leave it out",
    ),
    (
        "  env: [{name: A, value: word}]\n  workers: {incrementEnv: A}",
        "spec.workers.incrementEnv: A is \"word\" in spec.env: give it a whole number to count from, or leave it out to begin at 0",
    ),
    (
        "  workers: {readiness: {path: healthz}}",
        "spec.workers.readiness.path: \"healthz\" must start with / and contain no spaces, such as /healthz",
    ),
    (
        "  workers: {readiness: {timeout: 0s}}",
        "spec.workers.readiness.timeout: is out of range: give 1ms to 1h",
    ),
    (
        "  workers: {dispatch: Connection, readiness: {path: /h}}",
        "spec.workers.readiness.path: needs dispatch Request: with Connection, all workers share one queue, so no single one can be probed; leave the path out",
    ),
    (
        "  appProtocol: tcp\n  workers: {dispatch: Request}",
        "spec.workers.dispatch: Request needs HTTP, but spec.appProtocol is tcp: write Connection or leave it out",
    ),
    (
        "  balancers: {stickiness: {cookie: S}}\n  workers: {dispatch: Connection}",
        "spec.balancers.stickiness: needs dispatch Request: with Connection, workers accept connections themselves, so a client cannot be led to one of them; leave it out, or leave workers.dispatch out",
    ),
    (
        "  balancers: {stickiness: {cookie: S, header: X}}",
        "spec.balancers.stickiness: needs exactly one of cookie, header and clientAddress, such as {cookie: SCALEDAPP}",
    ),
    (
        "  balancers: {stickiness: {cookie: a b}}",
        "spec.balancers.stickiness.cookie: is no name: use at most 64 letters, digits, - and _",
    ),
    (
        "  balancers: {stickiness: {clientAddress: false}}",
        "spec.balancers.stickiness.clientAddress: is false: leave stickiness out",
    ),
    (
        "  appProtocol: tcp\n  balancers: {stickiness: {cookie: A}}",
        "spec.balancers.stickiness: needs a request that has a cookie or a header, and spec.appProtocol is tcp: use clientAddress: true, or leave it out",
    ),
    (
        "  appProtocol: tcp\n  balancers: {timeouts: {halfClose: 1s}}",
        "spec.balancers.timeouts.halfClose: is for HTTP, and spec.appProtocol is tcp: leave it out",
    ),
    (
        "  balancers: {proxyProtocol: {toPods: true}}",
        "spec.balancers.proxyProtocol.toPods: needs appProtocol tcp: apps that speak HTTP learn their client from X-Forwarded-For; leave it out",
    ),
    (
        "  balancers: {proxyProtocol: {from: [10/8]}}",
        "spec.balancers.proxyProtocol.from[0]: \"10/8\" is neither a network, such as 10.0.0.0/8 or fd00::/8, nor an address; names are not looked up",
    ),
    (
        "  balancers: {proxyProtocol: {}}",
        "spec.balancers.proxyProtocol: is empty: give from or toPods, or leave it out",
    ),
    (
        "  balancers: {replicas: 0}",
        "spec.balancers.replicas: 0 balancers serve no client: give 1 to 8",
    ),
    (
        "  balancers: {replicas: 9}",
        "spec.balancers.replicas: 9 is too many: give at most 8",
    ),
    (
        "  dns: {hostname: Hello.local}",
        "spec.dns.hostname: \"Hello.local\" is not a DNS name: use labels of a-z, 0-9 and -, each at most 63 long, separated by dots, such as hello.apps.local",
    ),
    (
        "  dns: {hostname: hello}",
        "spec.dns.hostname: \"hello\" has only one label: add a zone, such as hello.apps.local",
    ),
    (
        "  dns: {hostname: a.b, ttl: 500ms}",
        "spec.dns.ttl: is out of range: give whole seconds from 1s to 24h",
    ),
    (
        "  env: [{name: PORT, value: '80'}]",
        "spec.env[0]: PORT is set from spec.port, which is 3000: change that field",
    ),
    (
        "  env: [{name: SCALEDAPP_SLOT, value: '1'}]",
        "spec.env[0]: SCALEDAPP_SLOT is set by the supervisor: leave it out",
    ),
    (
        "  env: [{name: A}, {name: A}]",
        "spec.env[1]: A occurs twice: leave one out",
    ),
    (
        "  env: [{name: A=B}]",
        "spec.env[0]: \"A=B\" is not a valid variable: its name must not be empty or contain =, and its value must not contain NUL",
    ),
    (
        "  env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]",
        "spec.env[0].valueFrom: needs a cluster: give the value itself in `value`",
    ),
    (
        "  envFrom: [{configMapRef: {name: c}}]",
        "spec.envFrom: needs a cluster: write the variables under `env`",
    ),
    (
        "  workingDir: ''",
        "spec.workingDir: is empty: name a directory or leave it out",
    ),
];

#[test]
fn each_rule_has_a_message_that_names_field_and_cure() {
    for (lines, expected) in RULES {
        assert_eq!(violations(lines), [*expected], "{lines}");
    }
}

#[test]
fn a_command_must_be_words() {
    for (command, part) in [
        ("[]", "is empty: say what one worker runs"),
        ("['']", "begin with the program"),
        ("['node server.js']", "write each word separately"),
    ] {
        let yaml = format!("{HEAD}  image: i\n  command: {command}\n");
        let violations = validate(&scaledapp_crds::read(&yaml).unwrap()).unwrap_err();
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert!(violations[0].message.contains(part), "{violations:?}");
    }
}

#[test]
fn proxies_are_named_by_network() {
    let lines = "  balancers: {forwardedFrom: [10.0.0.0/8, '::ffff:192.0.2.7', 'fd00::/8']}";
    let app = validate(&object(lines)).unwrap();
    let flag = app.forwarded_from();
    assert_eq!(flag.as_deref(), Some("10.0.0.0/8,192.0.2.7/32,fd00::/8"));
    assert_eq!(validate(&object("")).unwrap().forwarded_from(), None);
    let lines = "  balancers: {forwardedFrom: [10.0.0.0/8, 10.1.2.3/8, proxy.example]}";
    let violations = validate(&object(lines)).unwrap_err();
    let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[0].starts_with("spec.balancers.forwardedFrom[1]")
            && texts[0].contains("give 10.0.0.0/8 for the whole network, or 10.1.2.3"),
        "{texts:?}"
    );
    assert!(texts[1].contains("names are not looked up"), "{texts:?}");
}

#[test]
fn tls_names_secrets_and_redirects_unless_told_otherwise() {
    let of = |lines: &str| validate(&object(&format!("  balancers: {{tls: {lines}}}")));
    let tls = of("{secretName: a}").unwrap().tls.unwrap();
    assert!(tls.redirect && !tls.is_13_only && tls.clients.is_none());
    assert_eq!(tls.secrets, ["a"]);
    let all = "{secretName: a, additionalSecretNames: [b.c], minVersion: '1.3', redirect: false, \
               hsts: 1h, clientCertificates: {secretName: ca}}";
    let tls = of(all).unwrap().tls.unwrap();
    assert_eq!(tls.secrets, ["a", "b.c"]);
    assert!(tls.is_13_only && !tls.redirect);
    assert!(!tls.clients.as_ref().unwrap().is_optional);
    let wrong = "{secretName: A_b, additionalSecretNames: [''], hsts: 0s, clientCertificates: {secretName: a/b}}";
    let violations = of(wrong).unwrap_err();
    let paths: Vec<&str> = violations.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "spec.balancers.tls.secretName",
            "spec.balancers.tls.additionalSecretNames[0]",
            "spec.balancers.tls.hsts",
            "spec.balancers.tls.clientCertificates.secretName",
        ]
    );
}

#[test]
fn all_violations_are_reported_in_the_order_of_the_fields() {
    let yaml = format!(
        "{}  image: ''\n  command: []\n  port: 0\n  workers: {{count: 0}}\n  dns: {{hostname: x}}\n",
        HEAD.replace("hello", "Hello")
    );
    let violations = validate(&scaledapp_crds::read(&yaml).unwrap()).unwrap_err();
    let paths: Vec<&str> = violations
        .iter()
        .map(|violation| violation.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "metadata.name",
            "spec.image",
            "spec.port",
            "spec.command",
            "spec.workers.count",
            "spec.dns.hostname"
        ]
    );
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_in_range(
        port in any::<i32>(),
        total in proptest::option::of(-2_i32..6000),
        per_node in proptest::option::of(-2_i32..6000),
        count in proptest::option::of(-2_i32..2000),
        slots in -2_i32..12,
    ) {
        let mut app = object("");
        app.spec.port = Some(port);
        app.spec.replicas = Some(scaledapp_crds::v1alpha1::Replicas { per_node, total });
        app.spec.workers = Some(scaledapp_crds::v1alpha1::Workers { count, ..Default::default() });
        app.spec.balancers = Some(scaledapp_crds::v1alpha1::Balancers { replicas: Some(slots), ..Default::default() });
        let in_range = (1..=65535).contains(&port)
            && per_node.is_some() != total.is_some()
            && per_node.or(total).is_some_and(|pods| (1..=5000).contains(&pods))
            && count.is_none_or(|count| (1..=1024).contains(&count))
            && (1..=8).contains(&slots);
        prop_assert_eq!(validate(&app).is_ok(), in_range);
    }
}
