//! Real gRPC implementations through both hops: balancer and dispatcher, in front of two workers
//! that know nothing of each other.
//!
//! The server is that of grpc-go's interoperability tests, unchanged. The clients are those of
//! grpc-go, grpcio (Python) and grpc-js (Node). `wire_balancer` tests servers that shut down,
//! refuse calls or break off.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use ::http::{HeaderMap, Request};
use anyhow::{Context, ensure};
use bytes::Bytes;
use scaledapp_tests::balancer::{self, Balancer};
use scaledapp_tests::sidecar::{Launch, Sidecar, ctl};
use scaledapp_tests::{binaries, fixtures, http, process};

use crate::authority::Authority;
use crate::{SOON, fixture, installed, words};

/// The cases that depend on a proxy. The others need services on the internet, or extensions that
/// the server does not have.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

/// A balancer in front of a supervisor with two workers.
struct Stack {
    sidecar: Sidecar,
    balancer: Balancer,
}

impl Stack {
    /// Starts both. If Go is not installed, prints that and returns `None`.
    fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// As [`Stack::start`], with `options` for the balancer.
    fn start_with(options: &[&str]) -> Option<Self> {
        if let Err(reason) = binaries::on_path("go") {
            println!("{reason}");
            return None;
        }
        let server = fixtures::edge("interop-server").unwrap();
        let launch = Launch::of(|port| {
            let port = format!("-port={port}");
            words(&[&server.to_string_lossy(), &port])
        });
        let launch = launch
            .unwrap()
            .with(&["--workers", "2", "--protocol", "h2c"]);
        let sidecar = launch.ready(2).unwrap();
        let launch = balancer::Launch::to(&[sidecar.address()]).unwrap();
        let launch = launch.with(&["--protocol", "h2c"]).with(options);
        let balancer = launch.ready().unwrap();
        Some(Self { sidecar, balancer })
    }

    fn address(&self) -> SocketAddr {
        self.balancer.address()
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let ended = process::run(command, SOON)?;
    let (output, errors) = (&ended.stdout, &ended.stderr);
    ensure!(ended.code == 0, "{output}\n{errors}");
    Ok(())
}

/// Runs all cases with the client of grpc-go, to which `options` are given.
fn pass_all_cases(stack: &Stack, options: &[String]) {
    let client = fixtures::edge("interop-client").unwrap();
    let mut failed = Vec::new();
    for case in CASES {
        let mut command = Command::new(&client);
        command.arg(format!("-server_host={}", stack.address().ip()));
        command.arg(format!("-server_port={}", stack.address().port()));
        command.arg(format!("-test_case={case}")).args(options);
        if let Err(error) = run(command) {
            failed.push(format!("{case}: {error:#}"));
        }
    }
    let log = stack.sidecar.process.stderr() + &stack.balancer.process.stderr();
    assert!(failed.is_empty(), "{}\n{log}", failed.join("\n"));
}

#[test]
fn the_interoperability_cases_pass_through_both_hops() {
    let Some(stack) = Stack::start() else { return };
    pass_all_cases(&stack, &[]);
}

#[test]
fn the_interoperability_cases_pass_over_tls() {
    let authority = Authority::new();
    let certificate = authority.issue("localhost");
    let Some(stack) = Stack::start_with(&["--tls", &certificate]) else {
        return;
    };
    let options = [
        "-use_tls".to_owned(),
        "-use_test_ca".to_owned(),
        format!("-ca_file={}", authority.root()),
        "-server_host_override=localhost".to_owned(),
    ];
    pass_all_cases(&stack, &options);
}

/// Makes one empty call on a connection. Returns the fields with its status.
async fn empty_call(sender: &mut h2::client::SendRequest<Bytes>) -> anyhow::Result<HeaderMap> {
    poll_fn(|context| sender.poll_ready(context)).await?;
    let request = Request::post("http://a.test/grpc.testing.TestService/EmptyCall")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (answer, mut send) = sender.send_request(request, false)?;
    send.send_data(Bytes::from_static(&[0; 5]), true)?;
    let (head, mut body) = answer.await?.into_parts();
    while let Some(piece) = body.data().await {
        body.flow_control().release_capacity(piece?.len())?;
    }
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    let status = trailers.get("grpc-status").context("no status")?;
    ensure!(status == "0", "{trailers:?}");
    Ok(trailers)
}

/// Makes calls while `act` runs. Returns their number; none may fail.
fn under_calls(to: SocketAddr, act: impl FnOnce() + Send + 'static) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let acting = tokio::task::spawn_blocking(act);
        let socket = tokio::net::TcpStream::connect(to).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        let driver = tokio::spawn(connection);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (mut sender, stopped) = (sender.clone(), stopped.clone());
            clients.spawn(async move {
                let mut calls = 0;
                while !*stopped.borrow() {
                    empty_call(&mut sender).await.unwrap();
                    calls += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                calls
            });
        }
        acting.await.unwrap();
        stop.send(true).unwrap();
        let mut calls = 0;
        while let Some(done) = clients.join_next().await {
            calls += done.unwrap();
        }
        driver.abort();
        calls
    })
}

#[test]
fn a_reload_of_all_workers_loses_no_call_and_calls_go_to_all_workers() {
    let Some(stack) = Stack::start() else { return };
    let before = stack.sidecar.pids().unwrap();
    let admin = stack.sidecar.launch.admin;
    let calls = under_calls(stack.address(), move || {
        std::thread::sleep(Duration::from_millis(500));
        for words in [&["reload"][..], &["scale", "3"], &["scale", "2"]] {
            let ended = ctl(admin, words).unwrap();
            assert_eq!(ended.code, 0, "{}", ended.stderr);
        }
        std::thread::sleep(Duration::from_millis(500));
    });
    assert!(calls > 100, "{calls}");
    let after = stack.sidecar.pids().unwrap();
    assert!(after.iter().all(|pid| !before.contains(pid)));
    let metrics = http::get(admin, "/metrics").unwrap().text();
    let of_workers = metrics
        .lines()
        .filter(|line| line.starts_with("scaledapp_dispatch_worker_responses_total{"))
        .filter(|line| line.contains("code=\"2xx\"") && !line.ends_with(" 0"));
    assert!(of_workers.count() >= 2, "{metrics}");
}

/// Runs a client in another language. Its script gets the address as an argument.
fn client_of(program: &std::path::Path, script: &str) {
    if !program.exists() {
        println!(
            "skipped: {} is not installed: run `cargo xtask test`",
            program.display()
        );
        return;
    }
    let Some(stack) = Stack::start() else { return };
    let mut command = Command::new(program);
    command
        .arg(fixture(script))
        .arg(stack.address().to_string());
    command.env("NODE_PATH", installed("grpc-js/node_modules"));
    run(command).unwrap_or_else(|error| {
        let log = stack.sidecar.process.stderr() + &stack.balancer.process.stderr();
        panic!("{error:#}\n{log}")
    });
}

#[test]
fn python_with_grpcio() {
    client_of(&installed("grpcio/bin/python3"), "grpc_client.py");
}

#[test]
fn node_with_grpc_js() {
    let is_there = installed("grpc-js/node_modules").exists();
    let node = binaries::on_path("node").ok().filter(|_| is_there);
    client_of(&node.unwrap_or_default(), "grpc_client.js");
}
