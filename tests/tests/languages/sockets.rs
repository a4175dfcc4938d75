//! Unusual ways to get a socket: options that have no effect in a worker, other sockets besides the
//! shared one, the same port number for UDP, close and listen again. Address families are in
//! `family`.

use std::io::Read;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{binaries, fixtures, process};

use crate::story::every_worker_answers;
use crate::{DISPATCHES, SOON, answer, fixture, has, installed, sockets, words};

/// Starts two workers with each kind of dispatch, checks that they share the port by hand-over, and
/// calls `look`.
pub(crate) fn shared(launch: impl Fn() -> Launch, look: impl Fn(&Sidecar)) {
    shared_over(&DISPATCHES, launch, look);
}

/// As [`shared`], with only these kinds of dispatch.
pub(crate) fn shared_over(
    dispatches: &[&str],
    launch: impl Fn() -> Launch,
    look: impl Fn(&Sidecar),
) {
    for dispatch in dispatches {
        let launch = launch().with(&["--workers", "2", "--dispatch", dispatch]);
        let sidecar = launch.ready(2).unwrap();
        assert_eq!(sidecar.status().unwrap()["mechanism"], "notify");
        every_worker_answers(&sidecar).unwrap();
        look(&sidecar);
    }
}

/// Sends requests until both workers have answered. Returns their values of `key`.
fn of_both(sidecar: &Sidecar, key: &str) -> Vec<String> {
    let mut seen = std::collections::BTreeMap::new();
    scaledapp_tests::wait::until(SOON, "both workers answer", || {
        let answer = answer(sidecar.address());
        seen.insert(answer["pid"].to_string(), answer[key].clone());
        if seen.len() == 2 { Ok(()) } else { Err("one") }
    })
    .unwrap();
    seen.into_values()
        .map(|value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        })
        .collect()
}

fn line(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text.trim().to_owned()
}

#[test]
fn an_exclusive_socket_of_node_is_shared_like_any_other() {
    if has("node") {
        // The option is for Node's own cluster module, which is not used here.
        shared(|| sockets("exclusive", &[], &[]), |_| {});
    }
}

#[test]
fn reuse_port_of_node_is_shared_like_any_other() {
    let version = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version");
        let ended = process::run(command, SOON).ok()?;
        let (major, _) = ended.stdout.trim_start_matches('v').split_once('.')?;
        major.parse::<u32>().ok()
    };
    let newer = installed("node-24/bin/node").to_string_lossy().into_owned();
    let Some(node) = ["node".to_owned(), newer]
        .into_iter()
        .find(|program| version(program).is_some_and(|major| major >= 23))
    else {
        println!("skipped: no Node of 23 or newer, which has reusePort");
        return;
    };
    let launch = || {
        let mut launch = sockets("reuseport", &[], &[]);
        launch.command[0].clone_from(&node);
        launch
    };
    shared(launch, |_| {});
}

#[test]
fn a_go_server_that_sets_so_reuseport_itself_is_shared() {
    if !has("go") {
        return;
    }
    let output = binaries::workspace().join("target/scaledapp-fixture-reuseport");
    let partial = output.with_extension(std::process::id().to_string());
    let mut build = Command::new("go");
    build
        .current_dir(fixture("reuseport"))
        .env("CGO_ENABLED", "0");
    build
        .args(["build", "-trimpath", "-o"])
        .arg(&partial)
        .arg(".");
    let built = process::run(build, Duration::from_mins(2)).unwrap();
    assert_eq!(built.code, 0, "{}", built.stderr);
    std::fs::rename(&partial, &output).unwrap();
    let program = output.to_string_lossy().into_owned();
    let launch = || Launch::of(|port| words(&[&program, &port.to_string()])).unwrap();
    // The app's own option would share the port even without a supervisor, but also with other
    // programs, and each worker that ends would lose connections.
    shared(launch, |_| {});
}

#[test]
fn a_free_port_beside_the_shared_one_belongs_to_its_worker() {
    if !has("node") {
        return;
    }
    shared(
        || sockets("zero", &[], &[]),
        |sidecar| {
            let ports = of_both(sidecar, "own");
            assert_ne!(ports[0], ports[1]);
            let pids = sidecar.pids().unwrap();
            for port in ports {
                let port: u16 = port.parse().unwrap();
                let own = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
                assert!(pids.contains(&line(own).parse().unwrap()));
            }
        },
    );
}

#[test]
fn a_unix_socket_beside_the_shared_port_is_left_alone() {
    if !has("node") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_string_lossy().into_owned();
    shared(
        || sockets("unix", &[&directory], &[]),
        |sidecar| {
            let pids = sidecar.pids().unwrap();
            for path in of_both(sidecar, "path") {
                let own = UnixStream::connect(path).unwrap();
                assert!(pids.contains(&line(own).parse().unwrap()));
            }
        },
    );
}

#[test]
fn udp_on_the_same_number_is_left_alone() {
    if !has("node") {
        return;
    }
    shared(
        || sockets("udp", &[], &[]),
        |sidecar| {
            let port = sidecar.address().port();
            assert_eq!(
                of_both(sidecar, "udp"),
                [port.to_string(), port.to_string()]
            );
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            client.set_read_timeout(Some(SOON)).unwrap();
            client
                .send_to(b"ping", (Ipv4Addr::LOCALHOST, port))
                .unwrap();
            let mut bytes = [0; 16];
            let (length, _) = client.recv_from(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"ping");
        },
    );
}

#[test]
fn both_of_two_workers_may_close_and_listen_again() {
    if !has("node") {
        return;
    }
    shared(
        || Launch::of(|port| fixtures::node("relisten.js", port)).unwrap(),
        |sidecar| {
            let relisten = |round: u32| {
                let mut done = std::collections::BTreeSet::new();
                scaledapp_tests::wait::until(SOON, "both listen again", || {
                    let response = scaledapp_tests::http::get(sidecar.address(), "/relisten");
                    if let Ok(response) = response
                        && response.json()["round"] == round
                    {
                        done.insert(response.json()["pid"].to_string());
                    }
                    if done.len() == 2 {
                        Ok(())
                    } else {
                        Err(format!("{done:?}"))
                    }
                })
                .unwrap();
            };
            relisten(1);
            every_worker_answers(sidecar).unwrap();
        },
    );
}
