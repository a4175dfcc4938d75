//! h2spec (RFC 9113 and RFC 7541, case by case) against a balancer, with TLS and without.

use std::process::Command;

use scaledapp_tests::balancer::Launch;
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::{binaries, fixtures, process};

use crate::SOON;
use crate::authority::Authority;

/// Runs all cases. Returns the output, whose last line counts them.
fn h2spec(launch: Launch, options: &[&str]) -> Option<String> {
    if let Err(reason) = binaries::on_path("go") {
        println!("{reason}");
        return None;
    }
    let program = fixtures::edge("h2spec").unwrap();
    let balancer = launch.ready().unwrap();
    let mut command = Command::new(program);
    command
        .args(["-h", "127.0.0.1", "-p"])
        .arg(balancer.address().port().to_string())
        .args(["--timeout", "5"])
        .args(options);
    let ended = process::run(command, SOON * 4).unwrap();
    Some(ended.stdout)
}

fn launch(upstream: &Upstream) -> Launch {
    Launch::to(&[upstream.address()]).unwrap()
}

#[test]
fn every_case_passes_over_tls() {
    let upstream = Upstream::answering("hello").unwrap();
    let authority = Authority::new();
    let certificate = authority.issue("localhost");
    let launch = launch(&upstream).with(&["--tls", &certificate]);
    let Some(output) = h2spec(launch, &["-t", "-k"]) else {
        return;
    };
    let wanted = "145 tests, 145 passed, 0 skipped, 0 failed";
    assert!(output.contains(wanted), "{output}");
}

/// A port without TLS speaks both protocols, so a connection that does not begin with the HTTP/2
/// preface counts as an HTTP/1.1 connection and is answered in HTTP/1.1. This is the one case that
/// cannot pass.
#[test]
fn every_case_but_that_of_the_preface_passes_without_tls() {
    let upstream = Upstream::answering("hello").unwrap();
    let Some(output) = h2spec(launch(&upstream), &[]) else {
        return;
    };
    let wanted = "145 tests, 144 passed, 0 skipped, 1 failed";
    assert!(output.contains(wanted), "{output}");
    assert!(
        output.contains("Sends invalid connection preface"),
        "{output}"
    );
}
