//! Endpoints files that come late, change or break, and admin ports that are silent,
//! unreachable or not those of a supervisor.

use std::fs;
use std::net::TcpListener;

use scaledapp_tests::process::Signal;

use crate::server::{Endpoints, Server, peer, wait};

const STREAM: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const SERVING: &str =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n{\"ready\":true}\n\r\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_balancer_is_unready_until_the_file_exists_and_then_ready_even_if_no_endpoint_serves() {
    let file = Endpoints::missing();
    let server = Server::start(&[&file.flag()]);
    let answer = server.get("/readyz").unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("No such file"), "{answer:?}");
    file.replace("[{]");
    wait("the new reason", || {
        let answer = server.get("/readyz").unwrap();
        answer.text().contains("not the JSON")
    });
    file.replace("[]");
    server.wait_ready().unwrap();
    assert_eq!(server.standings(), [""; 0]);
    // A file that is broken later is reported and changes nothing.
    file.replace(r#"[{"name":"a"}]"#);
    wait("the problem", || {
        server.status()["problems"][0]
            .as_str()
            .is_some_and(|problem| problem.contains("missing field `address`"))
    });
    assert_eq!(server.get("/readyz").unwrap().status, 200);
    let metrics = server.metrics();
    let failed = "scaledapp_balancer_endpoints_file_loads_total{result=\"error\"} 3";
    assert!(metrics.contains(failed), "{metrics}");
}

#[test]
fn a_file_written_in_place_and_a_sighup_are_noticed() {
    let file = Endpoints::missing();
    let entry = |name: &str| format!(r#"[{{"name":"{name}","address":"127.0.0.1:1"}}]"#);
    fs::write(file.path(), entry("a")).unwrap();
    let server = Server::start(&[&file.flag(), "--upstream=127.0.0.1:2"]);
    server.wait_ready().unwrap();
    server.wait_standings(&["127.0.0.1:2 serving", "a serving"]);
    for name in ["b", "c", "d"] {
        fs::write(file.path(), entry(name)).unwrap();
        server.wait_standings(&["127.0.0.1:2 serving", &format!("{name} serving")]);
    }
    let loads = || {
        let metrics = server.metrics();
        let name = "scaledapp_balancer_endpoints_file_loads_total{result=\"ok\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(name));
        count.unwrap().parse::<u32>().unwrap()
    };
    let before = loads();
    server.process.signal(Signal::HUP).unwrap();
    wait("another look", || loads() == before + 1);
}

#[test]
fn a_silent_supervisor_is_suspect_and_a_server_without_supervisor_serves() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let file = Endpoints::missing();
    let admins = [
        ("spoke-once", peer(SERVING)),
        ("says-nothing", peer(STREAM)),
        ("another-server", peer(NOT_FOUND)),
        ("gone", gone),
    ];
    let entries = admins.iter().enumerate().map(|(at, (name, admin))| {
        format!(
            r#"{{"name":"{name}","address":"127.0.0.1:{}","admin":"{admin}"}}"#,
            at + 1
        )
    });
    let entries: Vec<String> = entries.collect();
    file.replace(&format!("[{}]", entries.join(",")));
    let server = Server::start(&[&file.flag()]);
    server.wait_ready().unwrap();
    let standings = |first| {
        [
            first,
            "says-nothing suspect",
            "another-server serving",
            "gone suspect",
        ]
    };
    server.wait_standings(&standings("spoke-once serving"));
    // Three heartbeats later.
    server.wait_standings(&standings("spoke-once suspect"));
    let metrics = server.metrics();
    for line in [
        "scaledapp_balancer_endpoints{standing=\"suspect\"} 3",
        "scaledapp_balancer_watch_reconnects_total{cause=\"unreachable\"}",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    file.replace("[]");
    server.wait_standings(&[]);
}
