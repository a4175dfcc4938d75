//! Signals that reach the supervisor, and the signal state that it was started with.

use std::fs;

use rustix::process::Signal;
use scaledapp_tests::process::send;
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{fixtures, proc, wait};

use crate::{SOON, has, pid_of};

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn every_stop_signal_stops_gracefully() {
    if !has("node") || !has("setsid") {
        return;
    }
    // Without a terminal, as in a container, WINCH cannot mean that a window was resized.
    for signal in [Signal::QUIT, Signal::POWER, Signal::WINCH] {
        let launch = Launch::of(|port| fixtures::node("signals.js", port)).unwrap();
        let mut launch = launch.with(&["--workers", "1", "--drain-quiet", "100ms"]);
        launch.wrapper = words("setsid --wait");
        let mut sidecar = launch.ready(1).unwrap();
        let supervisor = proc::children(sidecar.process.pid())[0];
        let worker = sidecar.pids().unwrap()[0];
        let asked = std::thread::spawn({
            let to = sidecar.address();
            move || scaledapp_tests::http::get(to, "/sleep?ms=500")
        });
        wait::until_true(SOON, "it is under way", || {
            sidecar
                .status()
                .is_ok_and(|status| status["workers"][0]["inFlight"] == 1)
        })
        .unwrap();
        send(supervisor, signal).unwrap();
        let ended = sidecar.process.wait(SOON * 2).unwrap();
        assert_eq!(ended.code, 0, "{signal:?}: {}", ended.stderr);
        let asked = asked.join().unwrap().unwrap();
        assert_eq!(asked.status, 200, "{signal:?}: it was answered");
        assert!(
            ended.stderr.contains(&format!("{worker} got SIGTERM")),
            "{signal:?}"
        );
    }
}

#[test]
fn a_signal_for_the_app_goes_to_the_processes_that_handle_it() {
    if !has("node") {
        return;
    }
    // The signal must not go to the shell in front of the app, because it would end the shell.
    let launch = Launch::of(|port| {
        let app = fixtures::node("signals.js", port).join(" ");
        vec!["sh".to_owned(), "-c".to_owned(), format!("{app}; exit 3")]
    })
    .unwrap();
    let sidecar = launch.with(&["--workers", "2"]).ready(2).unwrap();
    let shells = sidecar.pids().unwrap();
    sidecar.process.signal(Signal::USR2).unwrap();
    for shell in &shells {
        let app = proc::children(*shell)[0];
        let text = format!("{app} got SIGUSR2");
        sidecar.process.says(SOON, &text).unwrap();
    }
    sidecar
        .process
        .says(SOON, "a signal is passed on to the app")
        .unwrap();
    sidecar.process.signal(Signal::ALARM).unwrap();
    sidecar
        .process
        .says(SOON, "a signal had no effect")
        .unwrap();
    assert_eq!(sidecar.pids().unwrap(), shells);
}

#[test]
fn the_stop_signal_of_the_app_stops_the_supervisor_too() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("signals.js", port)).unwrap();
    let options = [
        "--workers",
        "1",
        "--stop-signal",
        "USR1",
        "--stop-grace",
        "1s",
    ];
    let mut sidecar = launch.with(&options).ready(1).unwrap();
    sidecar.process.signal(Signal::USR1).unwrap();
    assert_eq!(sidecar.process.wait(SOON * 2).unwrap().code, 0);
}

#[test]
fn signals_blocked_or_ignored_at_the_start_work_nevertheless() {
    if !has("node") {
        return;
    }
    for wrapper in [
        "env --block-signal",
        "env --ignore-signal=CHLD,TERM,INT,QUIT,TTIN,TTOU,USR1,USR2,ALRM",
        "env --block-signal=CHLD,TERM --ignore-signal=CHLD,TERM",
        "nohup",
    ] {
        let launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
        let mut launch = launch.with(&["--workers", "1", "--drain-quiet", "100ms"]);
        launch.wrapper = words(wrapper);
        let mut sidecar = launch.ready(1).unwrap();
        let before = sidecar.pids().unwrap();
        sidecar.process.signal(Signal::HUP).unwrap();
        wait::until_true(SOON, "HUP reloads", || {
            sidecar
                .workers()
                .is_ok_and(|workers| workers.len() == 1 && workers[0].generation == 2)
        })
        .unwrap();
        let victim = sidecar.pids().unwrap()[0];
        assert_ne!(before, [victim]);
        send(victim, Signal::KILL).unwrap();
        wait::until_true(SOON, "its end is seen", || {
            sidecar.pids().is_ok_and(|pids| !pids.contains(&victim))
        })
        .unwrap();
        sidecar.wait_ready(1).unwrap();
        assert_ne!(pid_of(sidecar.address()), victim);
        sidecar.process.signal(Signal::TERM).unwrap();
        assert_eq!(sidecar.process.wait(SOON * 2).unwrap().code, 0, "{wrapper}");
    }
}

#[test]
fn workers_start_with_default_signals_except_under_nohup() {
    let mask = |pid: u32, name: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        // Signals 32 and 33 are used by the C library itself.
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap() & !(0b11 << 31)
    };
    for (wrapper, ignored) in [
        (
            "env --default-signal=HUP --block-signal --ignore-signal=CHLD,INT,PIPE,TERM",
            0,
        ),
        ("nohup", 1),
    ] {
        let launch = Launch::of(|_| words("sleep 1000")).unwrap();
        let mut launch = launch.with(&["--workers", "1", "--port", "none"]);
        launch.wrapper = words(wrapper);
        let sidecar = launch.ready(1).unwrap();
        let worker = sidecar.pids().unwrap()[0];
        assert_eq!(mask(worker, "SigBlk:"), 0, "{wrapper}");
        assert_eq!(mask(worker, "SigIgn:"), ignored, "{wrapper}");
    }
}
