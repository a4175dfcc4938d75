//! A second fixed port: only one worker can bind it, and the others get EADDRINUSE.

use std::collections::BTreeMap;

use scaledapp_tests::{ports, wait};

use crate::{DISPATCHES, SOON, answer, has, sockets};

#[test]
fn a_second_fixed_port_belongs_to_one_worker_only() {
    if !has("node") {
        return;
    }
    for dispatch in DISPATCHES {
        let second = ports::local().unwrap().port().to_string();
        let options = ["--workers", "2", "--dispatch", dispatch];
        let sidecar = sockets("second", &[&second], &options).ready(2).unwrap();
        let mut seen = BTreeMap::new();
        wait::until(SOON, "both workers answer", || {
            let answer = answer(sidecar.address());
            seen.insert(answer["pid"].to_string(), answer["second"].clone());
            if seen.len() == 2 { Ok(()) } else { Err("one") }
        })
        .unwrap();
        let mut seen: Vec<_> = seen.into_values().collect();
        seen.sort_by_key(ToString::to_string);
        assert_eq!(seen, ["EADDRINUSE", "listening"], "{dispatch}");
    }
}

#[test]
fn an_app_that_exits_when_its_second_port_is_taken_keeps_one_worker() {
    if !has("node") {
        return;
    }
    let second = ports::local().unwrap().port().to_string();
    let launch = sockets("second-or-die", &[&second], &["--workers", "2"]);
    let sidecar = launch.start().unwrap();
    // The app's own error message is in the log.
    sidecar.process.says(SOON, "EADDRINUSE").unwrap();
    wait::until(SOON, "one worker is ready, the other keeps exiting", || {
        let status = sidecar.status().map_err(|error| error.to_string())?;
        let restarts = sidecar.workers().map_err(|error| error.to_string())?;
        let restarts: u64 = restarts.iter().map(|worker| worker.restarts).sum();
        if status["ready"] == 1 && restarts >= 2 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .unwrap();
    answer(sidecar.address());
}
