//! The endpoints of a Service, read from an API server that first works and then fails; and
//! which endpoints belong to the app.

use std::net::{SocketAddr, TcpListener};

use scaledapp_tests::http;
use scaledapp_tests::upstream::Upstream;
use scaledapp_watch::testing::ApiServer;
use scaledapp_watch::testing::rights::granted;
use serde_json::{Value, json};

use crate::server::{Server, binary, peer, wait};

fn start(api: &ApiServer) -> Server {
    let mut command = binary(&["run", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"]);
    command.arg("--waiting-time=300ms");
    command.env("KUBECONFIG", api.kubeconfig());
    command.env("SCALEDAPP_ENDPOINTS_SERVICE", "default/hello-pods");
    Server::spawn(command)
}

/// A slice with a pod for each name and N, at 127.0.78.N.
fn slice(name: &str, pods: &[(&str, u8)]) -> Value {
    let endpoints = pods.iter().map(|(name, at)| {
        json!({
            "addresses": [format!("127.0.78.{at}")],
            "conditions": {"ready": true, "serving": true},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": name},
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": name,
            "labels": {"kubernetes.io/service-name": "hello-pods"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 3000, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

#[test]
fn endpoints_follow_the_slices_even_if_the_watch_breaks() {
    let api = ApiServer::start();
    api.put(slice("hello-pods-x", &[("a", 1)]));
    let server = start(&api);
    server.wait_ready().unwrap();
    server.wait_standings(&["a serving"]);
    let asked = api.requests().remove(0);
    let list = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?";
    assert!(asked.starts_with(list), "{asked}");
    assert!(
        asked.contains("kubernetes.io%2Fservice-name%3Dhello-pods"),
        "{asked}"
    );
    api.put(slice("hello-pods-y", &[("c", 3), ("b", 2)]));
    server.wait_standings(&["a serving", "b serving", "c serving"]);
    api.put(slice("hello-pods-x", &[]));
    server.wait_standings(&["b serving", "c serving"]);
    api.put(slice("hello-pods-x", &[("a", 1)]));
    server.wait_standings(&["a serving", "b serving", "c serving"]);
    // 410 Gone: no event reports the change.
    api.delete_unseen("default", "hello-pods-y");
    api.expire();
    server.wait_standings(&["a serving"]);
    api.cut();
    api.put(slice("hello-pods-x", &[("a", 1), ("d", 4)]));
    server.wait_standings(&["a serving", "d serving"]);
    // The operator makes a Role that grants what was used above. `get` has been in it since
    // the first version, and an older Role cannot be changed later; a subject that may list
    // objects may read them anyway.
    let role = include_str!("../../../operator/tests/api/snapshots/api__render__hello.snap");
    let (_, role) = role.split_once("kind: Role\n").unwrap();
    let (_, rules) = role.split_once("rules:\n").unwrap();
    let (rules, _) = rules.split_once("---").unwrap();
    let rules: Value = serde_saphyr::from_str(rules).unwrap();
    let mut used = api.used();
    let group = "discovery.k8s.io".to_owned();
    used.insert(("get".to_owned(), group, "endpointslices".to_owned()));
    assert_eq!(used, granted(&rules, None));
    let metrics = server.metrics();
    let name = "scaledapp_balancer_endpoints_service_lists_total{result=\"ok\"}";
    assert!(metrics.contains(name), "{metrics}");
}

/// A slice with one pod, which answers requests at `http` and has its admin port at
/// `admin`.
fn pod(name: &str, http: SocketAddr, admin: SocketAddr) -> Value {
    let mut slice = slice(name, &[(name, 1)]);
    slice["endpoints"][0]["addresses"] = json!(["127.0.0.1"]);
    slice["ports"] = json!([
        {"name": "http", "port": http.port(), "protocol": "TCP"},
        {"name": "admin", "port": admin.port(), "protocol": "TCP"},
    ]);
    slice
}

/// Any pod can carry the app's labels, so labels do not show that a pod belongs to the app.
#[test]
fn a_pod_without_a_supervisor_gets_nothing_once_another_pods_supervisor_has_answered() {
    const SERVING: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n{\"ready\":true}\n\r\n";
    const UNREADY: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"ready\":false}\n\r\n";
    const OTHER: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let none = TcpListener::bind("127.0.0.1:0").unwrap();
    let none = none.local_addr().unwrap();
    let [theirs, also_theirs, ours] =
        ["theirs", "theirs", "ours"].map(|text| Upstream::answering(text).unwrap());
    let api = ApiServer::start();
    api.put(pod("theirs-a", theirs.address(), none));
    api.put(pod("theirs-b", also_theirs.address(), peer(OTHER)));
    let server = start(&api);
    server.wait_ready().unwrap();
    let listen = server.status()["listen"].as_str().unwrap().parse().unwrap();
    let answers = |count: usize| {
        let mut answers: Vec<String> = (0..count)
            .map(|_| http::get(listen, "/").unwrap().text())
            .collect();
        answers.sort();
        answers.dedup();
        answers
    };
    // No supervisor has answered, as behind a NetworkPolicy: requests go to all pods.
    server.wait_standings(&["theirs-a unknown", "theirs-b unknown"]);
    assert_eq!(answers(20), ["theirs"]);
    api.put(pod("ours", ours.address(), peer(SERVING)));
    let spoke = |standing: &str| {
        let found = server.standings();
        found == [standing, "theirs-a unknown", "theirs-b unknown"]
    };
    wait("it has spoken", || spoke("ours serving"));
    assert_eq!(answers(50), ["ours"]);
    // The supervisor of `ours` has answered once, and is silent now.
    wait("it is silent", || spoke("ours suspect"));
    assert_eq!(answers(50), ["ours"]);
    let metrics = server.metrics();
    let unknown = "scaledapp_balancer_endpoints{standing=\"unknown\"} 2";
    assert!(metrics.contains(unknown), "{metrics}");
    // The app cannot serve: the other pods' answers are no better than a refusal.
    api.put(pod("ours", ours.address(), peer(UNREADY)));
    wait("it cannot serve", || spoke("ours unready"));
    assert_eq!(http::get(listen, "/").unwrap().status, 503);
}

#[test]
fn the_last_list_outlives_the_api_server() {
    let api = ApiServer::start();
    api.put(slice("hello-pods-x", &[("a", 1)]));
    let server = start(&api);
    server.wait_standings(&["a serving"]);
    api.set_away(true);
    wait("the problem", || {
        let problem = &server.status()["problems"][0];
        problem
            .as_str()
            .is_some_and(|problem| problem.starts_with("endpoints of default/hello-pods: "))
    });
    server.wait_log("the last good list stays").unwrap();
    assert_eq!(server.standings(), ["a serving"]);
    assert_eq!(server.get("/readyz").unwrap().status, 200);
    api.set_away(false);
    wait("the end of it", || server.status()["problems"] == json!([]));
    api.put(slice("hello-pods-x", &[("a", 1), ("b", 2)]));
    server.wait_standings(&["a serving", "b serving"]);
}

#[test]
fn a_balancer_is_unready_until_the_first_list_and_ready_with_an_empty_one() {
    let api = ApiServer::start();
    api.set_away(true);
    let server = start(&api);
    server.wait_log("not ready until there is a list").unwrap();
    let answer = server.get("/readyz").unwrap();
    assert_eq!(answer.status, 503);
    let text = answer.text();
    assert!(text.contains("no list of endpoints yet: endpoints of default/hello-pods: "));
    api.set_away(false);
    server.wait_ready().unwrap();
    assert_eq!(server.standings(), [""; 0]);
}

#[test]
fn a_slice_that_cannot_be_used_is_logged_with_the_cure() {
    let api = ApiServer::start();
    let mut web = slice("hello-pods-x", &[("a", 1)]);
    web["ports"][0]["name"] = json!("web");
    api.put(web);
    let server = start(&api);
    server
        .wait_log("give the Service's port one of these names")
        .unwrap();
    server.wait_ready().unwrap();
    api.put(slice("hello-pods-x", &[("a", 1)]));
    server.wait_standings(&["a serving"]);
    assert_eq!(server.status()["problems"], json!([]));
}

#[test]
fn a_balancer_that_finds_no_cluster_does_not_start() {
    let mut command = binary(&["run", "--listen=127.0.0.1:0", "--admin=none"]);
    command.arg("--endpoints-service=default/hello-pods");
    command.env("KUBECONFIG", "/no/such");
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("set KUBECONFIG, or run in a pod"),
        "{message}"
    );
}
