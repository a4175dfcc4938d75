//! The names of `ScaledApp`s, read from an API server that fails in several ways.

use hickory_proto::op::ResponseCode;
use scaledapp_watch::testing::ApiServer;
use scaledapp_watch::testing::rights::granted;
use serde_json::{Value, json};

use crate::server::{A, Server, ask, binary, query, wait};

fn app(namespace: &str, name: &str, hostname: &Value, addresses: &[&str]) -> Value {
    let balancers = addresses.iter().enumerate();
    let balancers =
        balancers.map(|(slot, address)| json!({"slot": slot, "address": address, "serving": true}));
    json!({
        "apiVersion": "scaledapp.io/v1alpha1",
        "kind": "ScaledApp",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"image": "x", "command": ["x"], "dns": {"hostname": hostname, "ttl": "7s"}},
        "status": {"balancers": balancers.collect::<Vec<_>>()},
    })
}

fn code(server: &Server, name: &str) -> ResponseCode {
    ask(server.address, &query(1, name, A))
        .metadata
        .response_code
}

/// The addresses that are probed for a name.
fn listed(server: &Server, name: &str) -> Value {
    let status = server.get("/status").unwrap().json();
    let entry = &status["names"][format!("{name}.apps.local.")];
    let addresses = entry["addresses"].as_array().map(Vec::as_slice);
    let addresses = addresses.unwrap_or_default().iter();
    addresses
        .map(|address| address["address"].clone())
        .collect()
}

fn wait_listed(server: &Server, name: &str, expected: &[&str]) {
    wait(&format!("{name} at {expected:?}"), || {
        listed(server, name) == json!(expected)
    });
}

#[test]
fn names_follow_the_objects_through_failures_of_the_watch() {
    let api = ApiServer::start();
    api.put(app(
        "default",
        "hello",
        &json!("hello.apps.local"),
        &["127.0.79.1"],
    ));
    api.put(app("default", "broken", &json!(7), &[]));
    api.put(app("other", "far", &json!("far.example.com"), &[]));
    let server = Server::start_in_cluster(&api.kubeconfig(), &[]);
    server
        .wait_log("other/far: far.example.com is outside of apps.local")
        .unwrap();
    server.wait_ready().unwrap();
    wait_listed(&server, "hello", &["127.0.79.1"]);
    let asked = api.requests().remove(0);
    assert!(
        asked.starts_with("/apis/scaledapp.io/v1alpha1/scaledapps?"),
        "{asked}"
    );
    // The name of an app exists even before its addresses are probed.
    assert_eq!(code(&server, "hello"), ResponseCode::NoError);
    assert_eq!(code(&server, "new"), ResponseCode::NXDomain);
    api.put(app(
        "other",
        "new",
        &json!("new.apps.local"),
        &["127.0.79.2"],
    ));
    wait_listed(&server, "new", &["127.0.79.2"]);
    // An object that can no longer be read keeps its last version.
    api.put(app("other", "new", &json!(7), &["127.0.79.3"]));
    server.wait_log("other/new cannot be read").unwrap();
    wait_listed(&server, "new", &["127.0.79.2"]);
    // No event shows this deletion. The watch ends with 410, and the server lists again.
    api.delete_unseen("other", "new");
    api.expire();
    wait("the end of a name", || {
        code(&server, "new") == ResponseCode::NXDomain
    });
    api.cut();
    api.put(app(
        "default",
        "hello",
        &json!("hello.apps.local"),
        &["127.0.79.4"],
    ));
    wait_listed(&server, "hello", &["127.0.79.4"]);
    // The chart grants exactly the rights that the server has used here.
    let rights = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../charts/scaledapp/files/rights.yaml"
    );
    let rights: Value = serde_saphyr::from_str(&std::fs::read_to_string(rights).unwrap()).unwrap();
    assert_eq!(api.used(), granted(&rights["dns"], None));
    let metrics = server.metrics();
    let name = "scaledapp_dns_scaledapps_lists_total{result=\"ok\"}";
    assert!(metrics.contains(name), "{metrics}");
}

#[test]
fn queries_get_servfail_before_the_first_list_and_the_last_list_outlives_the_api_server() {
    let api = ApiServer::start();
    api.set_away(true);
    api.put(app(
        "default",
        "hello",
        &json!("hello.apps.local"),
        &["127.0.79.1"],
    ));
    let server = Server::start_in_cluster(&api.kubeconfig(), &[]);
    server
        .wait_log("until that succeeds, queries get SERVFAIL")
        .unwrap();
    assert_eq!(code(&server, "hello"), ResponseCode::ServFail);
    let answer = server.get("/readyz").unwrap();
    assert_eq!(answer.status, 503);
    let text = answer.text();
    assert!(
        text.contains("no records are loaded yet: ScaledApps: "),
        "{text}"
    );
    api.set_away(false);
    server.wait_ready().unwrap();
    assert_eq!(code(&server, "hello"), ResponseCode::NoError);
    api.set_away(true);
    server
        .wait_log("the names that were read last stay")
        .unwrap();
    assert_eq!(code(&server, "hello"), ResponseCode::NoError);
    assert_eq!(listed(&server, "hello"), json!(["127.0.79.1"]));
    assert_eq!(server.get("/readyz").unwrap().status, 200);
    api.set_away(false);
    api.put(app(
        "default",
        "hello",
        &json!("hello.apps.local"),
        &["127.0.79.2"],
    ));
    wait_listed(&server, "hello", &["127.0.79.2"]);
}

#[test]
fn a_file_and_a_cluster_are_one_zone_that_waits_for_both() {
    let api = ApiServer::start();
    api.set_away(true);
    api.put(app(
        "default",
        "hello",
        &json!("hello.apps.local"),
        &["127.0.79.1"],
    ));
    api.put(app("default", "more", &json!("more.apps.local"), &[]));
    let records = r#"{"hello.apps.local":{"addresses":["10.0.0.1"]}}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), records).unwrap();
    let flag = format!("--records-file={}", file.path().display());
    let server = Server::start_in_cluster(&api.kubeconfig(), &[&flag]);
    server.wait_log("records loaded").unwrap();
    assert_eq!(code(&server, "hello"), ResponseCode::ServFail);
    api.set_away(false);
    server.wait_addresses("hello", &["10.0.0.1"]);
    server
        .wait_log("ScaledApps have names that the records file has too")
        .unwrap();
    assert_eq!(code(&server, "more"), ResponseCode::NoError);
}

#[test]
fn without_a_cluster_the_server_does_not_start() {
    let arguments = [
        "run",
        "--listen=127.0.0.1:0",
        "--zone=apps.local",
        "--scaledapps",
    ];
    let mut command = binary(&arguments);
    command.env("KUBECONFIG", "/no/such");
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("set KUBECONFIG, or run in a pod"),
        "{message}"
    );
}

#[test]
fn a_namespace_that_cannot_be_read_does_not_hold_back_the_others() {
    let api = ApiServer::start();
    api.set_forbidden("late", true);
    for (namespace, name, address) in [
        ("team", "hello", "127.0.79.1"),
        ("late", "late", "127.0.79.2"),
        ("theirs", "theirs", "127.0.79.3"),
    ] {
        let hostname = json!(format!("{name}.apps.local"));
        api.put(app(namespace, name, &hostname, &[address]));
    }
    let flags = [
        "--watch-namespace=team,late",
        "--zone-namespaces=own.apps.local=late",
    ];
    let server = Server::start_in_cluster(&api.kubeconfig(), &flags);
    server.wait_ready().unwrap();
    wait_listed(&server, "hello", &["127.0.79.1"]);
    assert_eq!(code(&server, "theirs"), ResponseCode::NXDomain);
    let status = server.get("/status").unwrap().json();
    assert_eq!(
        status["problem"],
        "in namespace late: nothing in late may be read"
    );
    // Changes in the other namespaces are still taken in.
    let hostname = json!("hello.apps.local");
    api.put(app("team", "hello", &hostname, &["127.0.79.4"]));
    wait_listed(&server, "hello", &["127.0.79.4"]);
    api.set_forbidden("late", false);
    wait_listed(&server, "late", &["127.0.79.2"]);
    wait("the end of the problem", || {
        server.get("/status").unwrap().json()["problem"].is_null()
    });
    // Another namespace gets no name in a bound zone, and no app gets the apex.
    for (name, hostname) in [("hello", "own.apps.local"), ("late", "x.own.apps.local")] {
        let namespace = if name == "hello" { "team" } else { name };
        api.put(app(namespace, name, &json!(hostname), &["127.0.79.5"]));
    }
    wait_listed(&server, "x.own", &["127.0.79.5"]);
    server
        .wait_log("team/hello: names in own.apps.local belong to other namespaces")
        .unwrap();
    wait("the old name's end", || {
        code(&server, "hello") == ResponseCode::NXDomain
    });
    assert_eq!(listed(&server, "own"), json!([]));
    for path in api.requests() {
        assert!(path.contains("/namespaces/"), "{path}");
    }
}
