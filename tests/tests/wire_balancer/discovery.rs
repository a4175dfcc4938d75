//! Sources of endpoints, the reports of endpoints, and how the balancer itself stops.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scaledapp_tests::balancer::Launch;
use scaledapp_tests::http::{self, Connection, Request};
use scaledapp_tests::load::Load;
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::wait;
use serde_json::json;

use crate::SOON;

/// Replaces the endpoints file by renaming a new file to its path.
fn publish(file: &Path, endpoints: &[(&str, SocketAddr, Option<SocketAddr>)]) {
    let entries: Vec<serde_json::Value> = endpoints
        .iter()
        .map(|(name, address, admin)| match admin {
            Some(admin) => json!({"name": name, "address": address, "admin": admin}),
            None => json!({"name": name, "address": address}),
        })
        .collect();
    let next = file.with_extension("next");
    fs::write(&next, serde_json::to_vec(&entries).unwrap()).unwrap();
    fs::rename(&next, file).unwrap();
}

/// A pod's admin port, which sends the snapshots that the test gives it on `/watch`.
fn pod_admin() -> (Upstream, Sender<String>) {
    let (tell, told) = channel::<String>();
    let told = Arc::new(Mutex::new(told));
    let admin = Upstream::start(move |mut peer| {
        let Some(head) = peer.read_head() else { return };
        if !head.starts_with("GET /watch ") {
            peer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n");
        let told = told.lock().unwrap();
        let mut line = String::new();
        loop {
            // Like a real admin port, this one repeats the last snapshot as a heartbeat.
            match told.recv_timeout(Duration::from_millis(250)) {
                Ok(next) => line = next,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if !line.is_empty() && !peer.write(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes()) {
                return;
            }
        }
    })
    .unwrap();
    (admin, tell)
}

fn snapshot(ready: bool, draining: bool) -> String {
    json!({"ready": ready, "draining": draining, "capacity": 1, "inFlight": 0, "queued": 0, "workers": 1}).to_string()
}

/// Sends requests until `count` in a row were answered with `body`.
fn only(to: SocketAddr, body: &str, count: usize) -> anyhow::Result<()> {
    let mut row = 0;
    wait::until(SOON, &format!("only {body} answers"), || {
        let answer = http::get(to, "/")
            .map_err(|failure| failure.to_string())?
            .text();
        row = if answer == body { row + 1 } else { 0 };
        if row >= count { Ok(()) } else { Err(answer) }
    })
}

#[test]
fn a_new_endpoints_file_moves_the_load_and_fails_no_request() {
    let (one, two) = (
        Upstream::answering("one").unwrap(),
        Upstream::answering("two").unwrap(),
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("endpoints.json");
    publish(&file, &[("one", one.address(), None)]);
    let balancer = Launch::new(&["--endpoints-file", &file.to_string_lossy()])
        .unwrap()
        .ready()
        .unwrap();
    for keep_alive in [true, false] {
        let load = Load {
            clients: 4,
            keep_alive,
            post_every: 0,
            ..Load::on(&[balancer.address()])
        };
        let running = load.start().unwrap();
        for round in 0..6 {
            running.wait_more(100, SOON).unwrap();
            let (name, upstream) = if round % 2 == 0 {
                ("two", &two)
            } else {
                ("one", &one)
            };
            publish(&file, &[(name, upstream.address(), None)]);
            only(balancer.address(), name, 5).unwrap();
        }
        // A broken file changes nothing.
        fs::write(&file, "[{]").unwrap();
        running.wait_more(100, SOON).unwrap();
        let report = running.stop();
        println!("6 changes of the endpoints file, keep-alive {keep_alive}: {report}");
        assert_eq!(report.failed(), 0, "{report}");
    }
}

#[test]
fn a_pod_gets_requests_while_it_reports_that_it_is_ready() {
    let (one, two) = (
        Upstream::answering("one").unwrap(),
        Upstream::answering("two").unwrap(),
    );
    let (first, tell_first) = pod_admin();
    let (second, tell_second) = pod_admin();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("endpoints.json");
    publish(
        &file,
        &[
            ("pod-0", one.address(), Some(first.address())),
            ("pod-1", two.address(), Some(second.address())),
        ],
    );
    let balancer = Launch::new(&["--endpoints-file", &file.to_string_lossy()])
        .unwrap()
        .start()
        .unwrap();
    tell_first.send(snapshot(true, false)).unwrap();
    tell_second.send(snapshot(false, false)).unwrap();
    wait::until(SOON, "it serves", || http::get(balancer.address(), "/")).unwrap();
    only(balancer.address(), "one", 20).unwrap();
    tell_second.send(snapshot(true, false)).unwrap();
    let both = || {
        let answer = http::get(balancer.address(), "/")
            .map_err(|failure| failure.to_string())?
            .text();
        if answer == "two" { Ok(()) } else { Err(answer) }
    };
    wait::until(SOON, "the second gets its share", both).unwrap();
    let start = Instant::now();
    tell_first.send(snapshot(true, true)).unwrap();
    only(balancer.address(), "two", 20).unwrap();
    println!(
        "a draining pod was avoided within {:?} (20 requests included)",
        start.elapsed()
    );
}

#[test]
fn a_stop_under_load_fails_no_request() {
    let upstream = Upstream::answering("x").unwrap();
    for keep_alive in [true, false] {
        let launch = Launch::to(&[upstream.address()]).unwrap().with(&[
            "--drain-min",
            "1s",
            "--drain-timeout",
            "5s",
        ]);
        let mut balancer = launch.ready().unwrap();
        let load = Load {
            clients: 4,
            keep_alive,
            post_every: 0,
            rate: Some(400),
            ..Load::on(&[balancer.address()])
        };
        let running = load.start().unwrap();
        running.wait_more(100, SOON).unwrap();
        balancer.process.signal(Signal::TERM).unwrap();
        let unready = || {
            http::get(balancer.launch.admin, "/readyz").is_ok_and(|response| response.status == 503)
        };
        wait::until_true(SOON, "it is unready at once", unready).unwrap();
        // The balancer is unready, but still serves clients that have not noticed yet.
        running.wait_more(100, SOON).unwrap();
        assert_eq!(running.failed(), 0);
        assert_eq!(balancer.process.wait(SOON).unwrap().code, 0);
        let report = running.stop();
        println!("balancer stopped under load, keep-alive {keep_alive}: {report}");
        assert_eq!(report.lost(), 0, "{report}");
    }
}

#[test]
fn a_leaving_balancer_sends_connection_close_on_every_answer() {
    let upstream = Upstream::answering("x").unwrap();
    let launch = Launch::to(&[upstream.address()])
        .unwrap()
        .with(&["--drain-min", "2s"]);
    let balancer = launch.ready().unwrap();
    let mut connection = Connection::open(balancer.address(), SOON).unwrap();
    assert_eq!(
        connection
            .send(&Request::get("/"))
            .unwrap()
            .field("connection"),
        None
    );
    balancer.process.signal(Signal::TERM).unwrap();
    let unready =
        || http::get(balancer.launch.admin, "/readyz").is_ok_and(|response| response.status == 503);
    wait::until_true(SOON, "it is unready", unready).unwrap();
    let response = connection.send(&Request::get("/")).unwrap();
    assert_eq!(response.field("connection"), Some("close"));
    assert!(!connection.is_reusable());
}

#[test]
fn the_balancers_own_numbers_are_on_its_admin_port() {
    let upstream = Upstream::answering("x").unwrap();
    let balancer = Launch::to(&[upstream.address()]).unwrap().ready().unwrap();
    for _ in 0..5 {
        http::get(balancer.address(), "/").unwrap();
    }
    assert_eq!(
        http::get(balancer.launch.admin, "/livez").unwrap().status,
        200
    );
    let metrics = balancer.metrics().unwrap();
    assert!(metrics.contains("scaledapp_balancer_requests"), "{metrics}");
    let status = http::get(balancer.launch.admin, "/status").unwrap();
    assert!(
        status.text().contains(&upstream.address().to_string()),
        "{}",
        status.text()
    );
}

#[test]
fn a_balancer_that_cannot_start_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut launch = Launch::to(&["127.0.0.1:1".parse().unwrap()]).unwrap();
    launch.listen = taken.local_addr().unwrap();
    let ended = launch.start().unwrap().process.wait(SOON).unwrap();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains(&taken.local_addr().unwrap().to_string()),
        "{}",
        ended.stderr
    );
    let usage = Launch::new(&["--no-such-flag"])
        .unwrap()
        .start()
        .unwrap()
        .process
        .wait(SOON)
        .unwrap();
    assert_eq!(usage.code, 64, "{}", usage.stderr);
}
