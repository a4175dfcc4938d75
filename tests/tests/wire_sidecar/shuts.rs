//! A running worker that shuts down its listening socket. A shared socket would be closed for all
//! workers; a worker with a socket of its own can no longer serve.

use std::time::Duration;

use scaledapp_tests::fixtures::app;
use scaledapp_tests::http;
use scaledapp_tests::sidecar::{Launch, Sidecar};

use crate::{has, pid_of};

/// Time for a reaction on a busy machine; less than the second between two full checks.
const AT_ONCE: Duration = Duration::from_millis(300);

fn start(options: &[&str]) -> Sidecar {
    let launch = Launch::of(|port| {
        let command = ["python3", &app("shuts.py"), &port.to_string()];
        command.map(str::to_owned).to_vec()
    });
    let launch = launch.unwrap();
    launch.with(options).ready(1).unwrap()
}

#[test]
fn a_shared_socket_is_made_to_listen_again_at_once() {
    if !has("python3") {
        return;
    }
    let sidecar = start(&["--workers", "1", "--dispatch", "connection"]);
    let before = pid_of(sidecar.address());
    for _ in 0..3 {
        let answer = http::get(sidecar.address(), "/shutdown").unwrap();
        assert_eq!(answer.status, 200);
        // The app shuts the socket down after its answer.
        std::thread::sleep(AT_ONCE);
    }
    assert_eq!(pid_of(sidecar.address()), before);
    let log = sidecar.process.stderr();
    assert!(
        log.contains("has shut down the socket that all workers share"),
        "{log}"
    );
}

#[test]
fn a_worker_that_listens_no_more_gets_no_request_and_is_replaced() {
    if !has("python3") {
        return;
    }
    for (dispatch, path) in [
        ("request", "/shutdown"),
        ("request", "/close"),
        ("connection", "/close"),
    ] {
        let sidecar = start(&["--workers", "1", "--dispatch", dispatch]);
        let before = pid_of(sidecar.address());
        let answer = http::get(sidecar.address(), path).unwrap();
        assert_eq!(answer.status, 200);
        // The app shuts the socket down, or closes it, after its answer.
        std::thread::sleep(AT_ONCE);
        // This request waits for the next worker instead of failing.
        let after = pid_of(sidecar.address());
        assert_ne!(after, before, "{dispatch} {path}");
        let events = sidecar.ctl_done(&["events"]).unwrap();
        assert!(
            events.contains("worker 0 is replaced: it no longer listens"),
            "{events}"
        );
    }
}
