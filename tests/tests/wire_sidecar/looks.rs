//! What `ctl` and the admin port of a running supervisor show and hide, and how `ctl` refuses an
//! unknown slot.

use rustix::process::Signal;
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{fixtures, http, process, wait};
use serde_json::Value;

use crate::{SOON, has};

fn launched(options: &[&str]) -> Sidecar {
    let launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    launch.with(options).ready(2).unwrap()
}

fn json(sidecar: &Sidecar, words: &[&str]) -> Value {
    let text = sidecar
        .ctl_done(&[words, &["-o", "json"]].concat())
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Kills the worker of slot 1 and waits for its successor. Returns the pid of the killed worker.
fn replaced(sidecar: &mut Sidecar) -> u32 {
    let dead = sidecar.workers().unwrap()[1].pid;
    process::send(dead, Signal::KILL).unwrap();
    wait::until_true(SOON, "the worker is replaced", || {
        !sidecar.pids().unwrap().contains(&dead)
    })
    .unwrap();
    sidecar.wait_ready(2).unwrap();
    dead
}

#[test]
fn a_killed_worker_is_found_in_status_description_and_events() {
    if !has("node") {
        return;
    }
    let mut sidecar = launched(&["--workers", "2"]);
    let dead = replaced(&mut sidecar);
    let status = sidecar.status().unwrap();
    let worker = &status["workers"][1];
    assert_eq!(worker["lastExit"]["signal"], "SIGKILL", "{worker}");
    assert_eq!(worker["lastExit"]["pid"], dead);
    assert!(worker["uptimeSeconds"].is_f64() && worker["cpuSeconds"].is_f64());
    assert_eq!(status["workers"][0]["lastExit"], Value::Null);

    let described = json(&sidecar, &["describe", "1"]);
    let slots = described["slots"].as_array().unwrap();
    assert_eq!((slots.len(), &slots[0]["slot"]), (1, &1.into()));
    assert_eq!(slots[0]["endsByCause"]["Signalled"], 1);
    assert_eq!(slots[0]["workers"][0]["state"], "Ready");
    let address = slots[0]["workers"][0]["address"].as_str().unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    assert_eq!(described["command"][0], "node");
    let text = sidecar.ctl_done(&["describe"]).unwrap();
    assert!(text.contains("ended by SIGKILL (Signalled)"), "{text}");

    let events = json(&sidecar, &["events"]);
    let reasons: Vec<(&str, Option<u64>)> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["reason"].as_str().unwrap(), event["slot"].as_u64()))
        .collect();
    assert!(reasons.contains(&("Exited", Some(1))), "{reasons:?}");
    assert_eq!(reasons.last(), Some(&("Ready", Some(1))), "{reasons:?}");

    let metrics = http::get(sidecar.launch.admin, "/metrics").unwrap().text();
    let line = "scaledapp_worker_exits_total{reason=\"Signalled\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn tables_have_a_row_for_each_slot() {
    if !has("node") {
        return;
    }
    let sidecar = launched(&["--workers", "2"]);
    for words in [&["status"][..], &["ls"], &["top", "--once"], &["top"]] {
        let table = sidecar.ctl_done(words).unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{words:?}: {table}");
        assert!(lines[0].starts_with("2 of 2 workers ready"), "{table}");
        let header: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(header[..4], ["SLOT", "PID", "STATE", "GEN"], "{table}");
        assert_eq!(header.len(), lines[2].split_whitespace().count(), "{table}");
    }
}

#[test]
fn neither_command_nor_lines_are_on_the_admin_port() {
    if !has("node") {
        return;
    }
    let mut sidecar = launched(&["--workers", "2"]);
    let response = http::get(sidecar.address(), "/exit");
    assert!(response.is_err() || response.unwrap().status >= 500);
    sidecar.process.says(SOON, "leaving as asked").unwrap();
    sidecar.wait_ready(2).unwrap();
    let described = sidecar.ctl_done(&["describe", "-o", "json"]).unwrap();
    assert!(described.contains("leaving as asked") && described.contains("app.js"));
    for path in ["/status", "/metrics", "/watch"] {
        if path == "/watch" {
            // This answer does not end; /status has the same data.
            continue;
        }
        let shown = http::get(sidecar.launch.admin, path).unwrap().text();
        assert!(
            !shown.contains("leaving") && !shown.contains("app.js"),
            "{shown}"
        );
    }
}

#[test]
fn a_signal_goes_to_one_slot_and_an_unknown_slot_is_refused() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("signals.js", port)).unwrap();
    let sidecar = launch.with(&["--workers", "2"]).ready(2).unwrap();
    let pids = sidecar.pids().unwrap();
    sidecar.ctl_done(&["signal", "USR2", "1"]).unwrap();
    sidecar
        .process
        .says(SOON, &format!("{} got SIGUSR2", pids[1]))
        .unwrap();
    let said = sidecar.process.stderr();
    assert!(
        !said.contains(&format!("{} got SIGUSR2", pids[0])),
        "{said}"
    );
    for words in [
        &["signal", "USR2", "7"][..],
        &["describe", "7"],
        &["logs", "7"],
        &["restart", "7"],
    ] {
        let ended = sidecar.ctl(words).unwrap();
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("slot 7"), "{}", ended.stderr);
    }
}

#[test]
fn a_booting_worker_listens_at_nothing_and_a_restart_of_an_unknown_slot_fails_at_once() {
    let launch = Launch::of(|_| vec!["sleep".to_owned(), "1000".to_owned()]).unwrap();
    let sidecar = launch.with(&["--workers", "1"]).start().unwrap();
    let described = || sidecar.ctl(&["describe"]).map(|ended| ended.stdout);
    let says_so = || described().is_ok_and(|text| text.contains("listens at   nothing yet"));
    wait::until_true(SOON, "it is described", says_so).unwrap();
    // `ctl restart` waits until the new worker is ready, which never happens here. For an unknown
    // slot it fails immediately.
    let _waits = sidecar.ctl(&["--timeout", "1ms", "restart", "0"]).unwrap();
    let ended = sidecar.ctl(&["restart", "7"]).unwrap();
    assert!(ended.stderr.contains("no slot 7"), "{}", ended.stderr);
}
