//! The fields about the client that an app gets, from a supervisor alone and with a balancer in
//! front of it. `scaledapp-http1` tests each field.

use std::net::SocketAddr;
use std::path::Path;

use scaledapp_tests::fixtures::node;
use scaledapp_tests::http::{self, Request};
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{balancer, wait};
use serde_json::Value;

use crate::SOON;

const FORGED: &[(&str, &str)] = &[
    ("X-Forwarded-For", "6.6.6.6"),
    ("x-forwarded-for", "203.0.113.7"),
    ("X-FORWARDED-PROTO", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Port", "443"),
    ("X_Forwarded_Proto", "gopher"),
    ("Forwarded", "for=\"[2001:db8::7]:4711\";proto=https"),
    ("X-Real-IP", "6.6.6.6"),
    ("X-Request-Id", "chosen"),
    ("X-Forwarded-Client-Cert", "Subject=root"),
    ("Scaledapp-Token", "0123456789abcdef-guessed"),
    (
        "Connection",
        "X-Forwarded-For, X-Forwarded-Proto, X-Real-IP",
    ),
    (
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
];

/// Sends a request with the fields of [`FORGED`]. Returns the fields that the app gets.
fn seen(to: SocketAddr) -> Value {
    let response = http::one_shot(to, SOON, &Request::get("/").with(FORGED)).unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let headers = response.json()["headers"].clone();
    // No hop passes on a field that could mislead the app or that is only meant for hops.
    for name in ["x_forwarded_proto", "scaledapp-token"] {
        assert_eq!(headers[name], Value::Null, "{headers}");
    }
    assert_ne!(headers["x-real-ip"], "6.6.6.6", "{headers}");
    assert_eq!(
        headers["traceparent"],
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    );
    headers
}

fn is_replaced(headers: &Value, addresses: &str) {
    assert_eq!(headers["x-forwarded-for"], addresses, "{headers}");
    assert_eq!(headers["x-forwarded-proto"], "http", "{headers}");
    assert_eq!(headers["x-forwarded-host"], headers["host"], "{headers}");
    assert_eq!(headers["x-real-ip"], "127.0.0.1", "{headers}");
    for name in ["x-forwarded-port", "x-forwarded-client-cert", "forwarded"] {
        assert_eq!(headers[name], Value::Null, "{headers}");
    }
    let id = headers["x-request-id"].as_str().unwrap();
    assert_eq!(id.len(), 32, "{headers}");
}

fn is_believed(headers: &Value, addresses: &str) {
    assert_eq!(headers["x-forwarded-for"], addresses, "{headers}");
    for (name, wanted) in [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-port", "443"),
        ("forwarded", "for=\"[2001:db8::7]:4711\";proto=https"),
        ("x-real-ip", "203.0.113.7"),
        ("x-request-id", "chosen"),
    ] {
        assert_eq!(headers[name], wanted, "{headers}");
    }
}

fn supervisor(options: &[&str]) -> Sidecar {
    let launch = Launch::of(|port| node("app.js", port)).unwrap();
    let launch = launch.with(&["--workers", "1"]).with(options);
    launch.ready(1).unwrap()
}

#[test]
fn a_supervisor_alone_believes_only_named_proxies() {
    let sidecar = supervisor(&[]);
    is_replaced(&seen(sidecar.address()), "6.6.6.6, 203.0.113.7, 127.0.0.1");
    let sidecar = supervisor(&["--forwarded-from", "fd00::/8,::ffff:127.0.0.0/104"]);
    is_believed(&seen(sidecar.address()), "6.6.6.6, 203.0.113.7, 127.0.0.1");
    let sidecar = supervisor(&["--forwarded-from", "10.0.0.0/8"]);
    is_replaced(&seen(sidecar.address()), "6.6.6.6, 203.0.113.7, 127.0.0.1");
}

#[test]
fn in_a_pod_only_balancers_of_the_app_are_believed() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let write = |path: &Path, text: &str| {
        let next = path.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, path).unwrap();
    };
    let (of_pod, of_balancer) = (file("pod"), file("balancer"));
    let (one, two) = ("1".repeat(64), "2".repeat(64));
    write(&of_pod, &one);
    write(&of_balancer, &one);
    let flag = |path: &Path| ["--trust-token-file".to_owned(), path.display().to_string()];
    let [name, path] = flag(&of_pod);
    let pod = supervisor(&["--trust", "behind", &name, &path]);
    // A caller without the token is treated like a client.
    is_replaced(&seen(pod.address()), "6.6.6.6, 203.0.113.7, 127.0.0.1");

    let in_front = |options: &[&str]| {
        let launch = balancer::Launch::to(&[pod.address()]).unwrap();
        let [name, path] = flag(&of_balancer);
        let launch = launch.with(&[&name, &path]).with(options);
        launch.ready().unwrap()
    };
    let edge = in_front(&[]);
    let through = "6.6.6.6, 203.0.113.7, 127.0.0.1, 127.0.0.1";
    is_replaced(&seen(edge.address()), through);
    let behind_a_terminator = in_front(&["--forwarded-from", "127.0.0.1"]);
    is_believed(&seen(behind_a_terminator.address()), through);

    // With a token that the pod does not know yet, the balancer is an unknown sender.
    write(&of_balancer, &format!("{two}\n{one}\n"));
    wait::until_true(SOON, "the balancer shows the new token", || {
        seen(behind_a_terminator.address())["x-forwarded-proto"] == "http"
    })
    .unwrap();
    write(&of_pod, &format!("{one}\n{two}\n"));
    wait::until_true(SOON, "the pod takes both tokens", || {
        seen(behind_a_terminator.address())["x-forwarded-proto"] == "https"
    })
    .unwrap();
}

/// A dispatcher that knows nothing of tokens drops the field too, because `Connection` names it. This
/// also protects apps behind a dispatcher of an older version.
#[test]
fn a_dispatcher_without_a_token_file_does_not_pass_a_token_on() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&token, "1".repeat(64)).unwrap();
    for trust in ["behind", "edge"] {
        let pod = supervisor(&["--trust", trust]);
        let launch = balancer::Launch::to(&[pod.address()]).unwrap();
        let path = token.path().display().to_string();
        let balancer = launch.with(&["--trust-token-file", &path]).ready().unwrap();
        let response = http::get(balancer.address(), "/").unwrap();
        let headers = &response.json()["headers"];
        assert_eq!(headers["scaledapp-token"], Value::Null, "{headers}");
    }
}
