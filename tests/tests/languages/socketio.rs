//! socket.io with its default transports over two balancers, two pods and two workers in each: a
//! session begins with long polling, so all of its requests must reach the worker where it began,
//! although its client returns no cookies.

use std::process::Command;
use std::time::Duration;

use scaledapp_tests::balancer::{self, Balancer};
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{binaries, process};
use tempfile::NamedTempFile;

use crate::{SOON, fixture, installed, words};

const MODULES: &str = "socketio/node_modules";

/// The path of Node. If Node or the packages are not installed, prints that and returns `None`.
fn node() -> Option<String> {
    match binaries::on_path("node") {
        Ok(node) if installed(MODULES).exists() => Some(node.to_string_lossy().into_owned()),
        _ => {
            println!("skipped: socket.io is not installed: run `cargo xtask test`");
            None
        }
    }
}

fn pod(node: &str, options: &[&str]) -> Sidecar {
    let app = fixture("socketio_app.js");
    let launch = Launch::of(|port| words(&[node, &app, &port.to_string()]));
    let mut launch = launch.unwrap().with(&["--workers", "2"]).with(options);
    let modules = installed(MODULES).to_string_lossy().into_owned();
    launch.environment.push(("NODE_PATH".to_owned(), modules));
    launch.ready(2).unwrap()
}

/// Runs the clients for some seconds. Returns how many workers have answered; no session may fail.
fn clients(node: &str, balancers: &[Balancer], seconds: u32) -> usize {
    let mut command = Command::new(node);
    command.arg(fixture("socketio_client.js"));
    command.arg(seconds.to_string());
    for balancer in balancers {
        command.arg(balancer.address().port().to_string());
    }
    command.env("NODE_PATH", installed(MODULES));
    let ended = process::run(command, SOON).unwrap();
    assert_eq!(ended.code, 0, "{}\n{}", ended.stdout, ended.stderr);
    ended.stdout.trim().parse().unwrap()
}

#[test]
fn sessions_stay_where_they_are_through_scaling_and_new_ones_work_after_a_reload() {
    let Some(node) = node() else { return };
    let token = NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "0123456789abcdef0123456789abcdef").unwrap();
    let token = token.path().to_string_lossy().into_owned();
    let token = ["--trust-token-file", &token, "--sticky", "cookie"];
    let pods = [(); 2].map(|()| pod(&node, &[&token[..], &["--trust", "behind"]].concat()));
    let addresses = pods.each_ref().map(Sidecar::address);
    let balancers = [(); 2].map(|()| {
        let launch = balancer::Launch::to(&addresses).unwrap();
        launch.with(&token).ready().unwrap()
    });
    assert!(
        clients(&node, &balancers, 3) >= 3,
        "workers without a session"
    );
    std::thread::scope(|scope| {
        let running = scope.spawn(|| clients(&node, &balancers, 8));
        std::thread::sleep(Duration::from_secs(2));
        for pod in &pods {
            pod.ctl_done(&["scale", "3"]).unwrap();
        }
        running.join().unwrap();
    });
    for pod in &pods {
        pod.ctl_done(&["reload"]).unwrap();
    }
    assert!(clients(&node, &balancers, 3) >= 3);
}
