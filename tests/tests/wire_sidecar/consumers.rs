//! Apps that never listen (`--port none`): when they are ready, and that everything else works as
//! for other apps.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_tests::process::send;
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{fixtures, http, proc, wait};

use crate::{SOON, has};

/// A consumer whose release is the content of `file`.
fn consumer(file: &Path, options: &[&str]) -> Launch {
    let release = file.to_string_lossy().into_owned();
    let command = |_| vec!["node".to_owned(), fixtures::app("consumer.js"), release];
    Launch::of(command)
        .unwrap()
        .with(&["--port", "none"])
        .with(options)
}

fn released(release: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("release");
    fs::write(&file, release).unwrap();
    (directory, file)
}

fn generations(sidecar: &Sidecar) -> Vec<u64> {
    let workers = sidecar.workers().unwrap();
    workers.iter().map(|worker| worker.generation).collect()
}

#[test]
fn a_consumer_is_ready_after_a_time_and_is_managed_like_any_app() {
    if !has("node") {
        return;
    }
    let (_directory, file) = released("good");
    let options = ["--workers", "2", "--ready-after", "300ms"];
    let mut sidecar = consumer(&file, &options).ready(2).unwrap();
    let status = sidecar.status().unwrap();
    assert_eq!(status["mechanism"], "none");
    assert_eq!(status["dispatch"], "none");
    let ready = http::get(sidecar.launch.admin, "/readyz").unwrap();
    assert_eq!(ready.status, 200);
    sidecar.process.says(SOON, "ready after").unwrap();
    let victim = sidecar.pids().unwrap()[0];
    let environment = fs::read(format!("/proc/{victim}/environ")).unwrap();
    let mut variables = environment.split(|byte| *byte == 0);
    assert!(!variables.any(|variable| variable.starts_with(b"PORT=")));
    let status = fs::read_to_string(format!("/proc/{victim}/status")).unwrap();
    assert!(status.contains("Seccomp:\t0"), "no filter is needed");

    sidecar.ctl_done(&["scale", "3"]).unwrap();
    sidecar.wait_ready(3).unwrap();
    send(victim, Signal::KILL).unwrap();
    wait::until_true(SOON, "it is replaced", || {
        sidecar.pids().is_ok_and(|pids| !pids.contains(&victim))
    })
    .unwrap();
    sidecar.wait_ready(3).unwrap();
    sidecar.ctl_done(&["restart", "1"]).unwrap();
    sidecar.ctl_done(&["reload"]).unwrap();
    sidecar.wait_ready(3).unwrap();
    assert_eq!(generations(&sidecar), [2, 2, 2]);
    // Consumers have no requests in flight, so they get the stop signal immediately.
    sidecar.process.says(SOON, "asked to end: good").unwrap();
    let shown = sidecar.ctl_done(&["status"]).unwrap();
    assert!(
        shown.starts_with("3 of 3 workers ready, generation 2, no port\n"),
        "{shown}"
    );
    let shown = sidecar.ctl_done(&["describe"]).unwrap();
    assert!(!shown.contains("3000"), "{shown}");

    sidecar.process.signal(Signal::TERM).unwrap();
    let ended = sidecar.process.wait(SOON).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        !ended
            .stderr
            .contains("did not end in time after the stop signal")
    );
}

#[test]
fn a_release_that_does_not_come_up_does_not_replace_the_old_consumers() {
    if !has("node") {
        return;
    }
    let (_directory, file) = released("good");
    // This time is longer than Node takes to run and exit on a busy machine.
    let options = ["--workers", "2", "--ready-after", "5s"];
    let mut sidecar = consumer(&file, &options).ready(2).unwrap();
    let before = sidecar.pids().unwrap();
    for (release, said) in [
        ("broken", "broken cannot start"),
        // This release starts, but ends before it counts as ready.
        ("brief", "the queue is gone"),
    ] {
        fs::write(&file, release).unwrap();
        let ended = sidecar.ctl(&["reload"]).unwrap();
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        let all = ended.stdout + &ended.stderr;
        assert!(all.contains("ended before it took over"), "{all}");
        assert!(all.contains(said), "{all}");
        sidecar.wait_ready(2).unwrap();
        assert_eq!(sidecar.pids().unwrap(), before, "{release}");
    }
}

#[test]
fn a_new_consumer_is_ready_before_an_old_one_is_asked_to_end() {
    if !has("node") {
        return;
    }
    let (_directory, file) = released("good");
    let options = ["--workers", "2", "--ready-after", "500ms"];
    let sidecar = consumer(&file, &options).ready(2).unwrap();
    let before = sidecar.pids().unwrap();
    let admin = sidecar.launch.admin;
    let reload =
        std::thread::spawn(move || scaledapp_tests::sidecar::ctl(admin, &["reload"]).unwrap());
    let mut least = u64::MAX;
    while !reload.is_finished() {
        let ready = sidecar.status().unwrap()["ready"].as_u64().unwrap();
        least = least.min(ready);
    }
    assert_eq!(reload.join().unwrap().code, 0);
    assert_eq!(least, 2);
    let after = sidecar.pids().unwrap();
    assert!(before.iter().all(|pid| !after.contains(pid)));
}

#[test]
fn a_consumer_that_ends_before_it_is_ready_has_failed_to_boot() {
    if !has("node") {
        return;
    }
    let (_directory, file) = released("brief");
    let options = ["--workers", "1", "--ready-after", "10s"];
    let launch = consumer(&file, &options);
    let ended = launch.run(Duration::from_secs(30)).unwrap();
    // After three attempts, the exit code is the app's.
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("no worker ever became ready"));
}

#[test]
fn a_consumer_that_ignores_the_stop_signal_is_killed_after_the_grace() {
    if !has("node") {
        return;
    }
    let (_directory, file) = released("deaf");
    let options = [
        "--workers",
        "1",
        "--ready-after",
        "300ms",
        "--stop-grace",
        "300ms",
    ];
    let mut sidecar = consumer(&file, &options).ready(1).unwrap();
    let worker = sidecar.pids().unwrap()[0];
    sidecar.process.says(SOON, "up: deaf").unwrap();
    sidecar.process.signal(Signal::TERM).unwrap();
    let ended = sidecar.process.wait(SOON).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("asked to end: deaf"));
    assert!(
        ended
            .stderr
            .contains("did not end in time after the stop signal")
    );
    assert!(!proc::is_running(worker));
}

#[test]
fn metrics_of_consumers_are_gathered_from_a_port_of_their_own() {
    if !has("node") {
        return;
    }
    let port = scaledapp_tests::ports::local().unwrap().port();
    let launch = Launch::of(|_| {
        let script = format!(
            "require('http').createServer((q, r) => r.end('jobs_total 2\\n')).listen({port})"
        );
        vec!["node".to_owned(), "-e".to_owned(), script]
    });
    let from = format!("{port}/metrics");
    let options = ["--port", "none", "--workers", "2", "--metrics-from", &from];
    let sidecar = launch.unwrap().with(&options).ready(2).unwrap();
    assert_eq!(sidecar.status().unwrap()["dispatch"], "none");
    wait::until_true(SOON, "both are on the page", || {
        let page = http::get(sidecar.launch.admin, "/metrics/app").unwrap();
        page.text().matches("jobs_total{worker=").count() == 2
    })
    .unwrap();
}

#[test]
fn flags_that_need_a_port_are_refused_with_port_none() {
    let (_directory, file) = released("good");
    let launch = consumer(&file, &["--readiness-path", "/healthz"]);
    let ended = launch.run(SOON).unwrap();
    assert_eq!(ended.code, 64);
    assert!(ended.stderr.contains("--ready-after"), "{}", ended.stderr);
}
