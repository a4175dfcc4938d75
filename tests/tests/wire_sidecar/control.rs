//! `ctl`, the desired-state file, signals, and the read-only admin port.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_tests::http::{self, Connection, Failure, Request};
use scaledapp_tests::load::{Load, Report};
use scaledapp_tests::sidecar::{self, Launch, Sidecar};
use scaledapp_tests::{fixtures, ports, wait};

use crate::{SOON, has};

fn app(options: &[&str]) -> Launch {
    Launch::of(|port| fixtures::node("app.js", port))
        .unwrap()
        .with(options)
}

/// An app whose release is the content of a file.
fn released(directory: &Path, options: &[&str]) -> (Launch, PathBuf) {
    let release = directory.join("release");
    fs::write(&release, "good-1").unwrap();
    let launch = Launch::of(|port| {
        let mut words = fixtures::node("release.js", port);
        words.push(release.to_string_lossy().into_owned());
        words
    });
    (launch.unwrap().with(options), release)
}

fn under_load(sidecar: &Sidecar, keep_alive: bool, act: impl FnOnce()) -> Report {
    let load = Load {
        keep_alive,
        clients: 4,
        path: "/sleep?ms=5".to_owned(),
        tally: Some("pid"),
        ..Load::on(&[sidecar.address()])
    };
    load.around(100, SOON, act).unwrap()
}

fn assert_all_replaced(before: &[u32], sidecar: &Sidecar) {
    let after = sidecar.pids().unwrap();
    assert!(
        before.iter().all(|pid| !after.contains(pid)),
        "{before:?} {after:?}"
    );
}

#[test]
fn status_has_its_fixed_keys_by_ctl_and_by_http() {
    if !has("node") {
        return;
    }
    let sidecar = app(&["--workers", "2"]).ready(2).unwrap();
    let over_ctl: serde_json::Value =
        serde_json::from_str(&sidecar.ctl_done(&["status", "-o", "json"]).unwrap()).unwrap();
    for status in [over_ctl, sidecar.status().unwrap()] {
        assert_eq!(status["mechanism"], "notify");
        assert_eq!(status["dispatch"], "request");
        assert_eq!(status["generation"], 1);
        assert_eq!(
            (&status["desired"], &status["ready"]),
            (&2.into(), &2.into())
        );
        let workers = status["workers"].as_array().unwrap();
        assert_eq!(workers.len(), 2);
        for (slot, worker) in workers.iter().enumerate() {
            assert_eq!(worker["slot"], slot);
            assert_eq!(worker["state"], "Ready");
            assert_eq!(
                (&worker["generation"], &worker["restarts"]),
                (&1.into(), &0.into())
            );
            assert_eq!(worker["inFlight"], 0);
            assert!(
                worker["rssBytes"].as_u64().unwrap() > 10_000_000,
                "{worker}"
            );
            assert!(worker["pid"].as_u64().unwrap() > 1, "{worker}");
        }
    }
    let table = sidecar.ctl_done(&["status"]).unwrap();
    assert!(table.starts_with("2 of 2 workers ready"), "{table}");
}

#[test]
fn reload_and_scale_fail_no_request_under_request_dispatch() {
    if !has("node") {
        return;
    }
    for keep_alive in [true, false] {
        let mut sidecar = app(&["--workers", "2"]).ready(2).unwrap();
        let before = sidecar.pids().unwrap();
        let report = under_load(&sidecar, keep_alive, || {
            for _ in 0..3 {
                sidecar.ctl_done(&["reload"]).unwrap();
            }
            sidecar.ctl_done(&["scale", "4"]).unwrap();
            sidecar.ctl_done(&["scale", "1"]).unwrap();
            sidecar.ctl_done(&["scale", "+1"]).unwrap();
        });
        println!("3 reloads, scale 2→4→1→2, request dispatch, keep-alive {keep_alive}: {report}");
        assert_eq!(report.failed(), 0, "{report}");
        sidecar.wait_ready(2).unwrap();
        assert_all_replaced(&before, &sidecar);
        assert_eq!(sidecar.status().unwrap()["generation"], 4);
    }
}

#[test]
fn reload_fails_no_one_shot_connection_under_connection_dispatch() {
    if !has("node") {
        return;
    }
    let mut sidecar = app(&["--workers", "2", "--dispatch", "connection"])
        .ready(2)
        .unwrap();
    let before = sidecar.pids().unwrap();
    let report = under_load(&sidecar, false, || {
        for _ in 0..3 {
            sidecar.ctl_done(&["reload"]).unwrap();
        }
    });
    println!("3 reloads, connection dispatch, one-shot: {report}");
    assert_eq!(report.failed(), 0, "{report}");
    sidecar.wait_ready(2).unwrap();
    assert_all_replaced(&before, &sidecar);
}

#[test]
fn scale_and_restart_fail_no_one_shot_connection_under_connection_dispatch() {
    if !has("node") {
        return;
    }
    let mut sidecar = app(&["--workers", "3", "--dispatch", "connection"])
        .ready(3)
        .unwrap();
    let before = sidecar.pids().unwrap();
    let report = under_load(&sidecar, false, || {
        for _ in 0..2 {
            sidecar.ctl_done(&["scale", "1"]).unwrap();
            sidecar.ctl_done(&["scale", "3"]).unwrap();
            sidecar.ctl_done(&["restart", "0"]).unwrap();
        }
    });
    println!("2 × scale 3→1→3 and restart, connection dispatch, one-shot: {report}");
    assert_eq!(report.failed(), 0, "{report}");
    sidecar.wait_ready(3).unwrap();
    assert_all_replaced(&before, &sidecar);
}

#[test]
fn without_reload_a_restart_by_signal_fails_requests() {
    if !has("node") {
        return;
    }
    // The negative control: the same load and app, but TERM ends each worker.
    let sidecar = app(&["--workers", "2", "--dispatch", "connection"])
        .ready(2)
        .unwrap();
    let report = under_load(&sidecar, true, || {
        for pid in sidecar.pids().unwrap() {
            scaledapp_tests::process::send(pid, Signal::TERM).unwrap();
        }
    });
    println!("control, workers ended by TERM: {report}");
    assert!(
        report.failed() > 0,
        "the load would not have noticed a lossy reload: {report}"
    );
}

#[test]
fn a_broken_release_fails_the_reload_and_nothing_else() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let directory = tempfile::tempdir().unwrap();
        let (launch, release) = released(
            directory.path(),
            &["--workers", "2", "--dispatch", dispatch],
        );
        let sidecar = launch.ready(2).unwrap();
        let before = sidecar.pids().unwrap();
        fs::write(&release, "broken-2").unwrap();
        let report = under_load(&sidecar, false, || {
            let ended = sidecar.ctl(&["reload"]).unwrap();
            assert_eq!(ended.code, 1, "{ended:?}");
            assert!(
                ended.stderr.contains("Error: broken-2 cannot start"),
                "{}",
                ended.stderr
            );
        });
        assert_eq!(report.failed(), 0, "{report}");
        assert_eq!(sidecar.pids().unwrap(), before);
        fs::write(&release, "good-3").unwrap();
        sidecar.ctl_done(&["reload"]).unwrap();
        assert_ne!(sidecar.pids().unwrap(), before);
    }
}

#[test]
fn restart_replaces_one_slot_only() {
    if !has("node") {
        return;
    }
    let mut sidecar = app(&["--workers", "2"]).ready(2).unwrap();
    let before = sidecar.pids().unwrap();
    let report = under_load(&sidecar, true, || {
        sidecar.ctl_done(&["restart", "1"]).unwrap();
    });
    assert_eq!(report.failed(), 0, "{report}");
    sidecar.wait_ready(2).unwrap();
    let after = sidecar.pids().unwrap();
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    let ended = sidecar.ctl(&["restart", "7"]).unwrap();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains('7'), "{}", ended.stderr);
}

#[test]
fn too_many_workers_are_refused() {
    if !has("node") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("desired.json");
    let name = file.to_string_lossy().into_owned();
    let sidecar = app(&["--workers", "1", "--desired-file", &name])
        .ready(1)
        .unwrap();
    for words in [["scale", "1025"], ["scale", "+1024"]] {
        let ended = sidecar.ctl(&words).unwrap();
        assert_eq!(ended.code, 1, "{ended:?}");
        let said = "1025 workers are too many: give at most 1024";
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
    }
    fs::write(&file, r#"{"workers": 2000}"#).unwrap();
    sidecar.process.says(SOON, "at most 1024").unwrap();
    for words in [["scale", "many"], ["signal", "40"], ["signal", "NOPE"]] {
        let ended = sidecar.ctl(&words).unwrap();
        assert_eq!(ended.code, 64, "{ended:?}");
    }
    assert_eq!(sidecar.status().unwrap()["desired"], 1);
}

#[test]
fn signals_and_logs_reach_every_worker() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("signals.js", port)).unwrap();
    let sidecar = launch.with(&["--workers", "2"]).ready(2).unwrap();
    sidecar.ctl_done(&["signal", "USR2"]).unwrap();
    for pid in sidecar.pids().unwrap() {
        let line = format!("{pid} got SIGUSR2");
        sidecar.process.says(SOON, &line).unwrap();
        let logged = || {
            let logs = sidecar
                .ctl_done(&["logs"])
                .map_err(|error| error.to_string())?;
            if logs.contains(&line) {
                Ok(())
            } else {
                Err(logs)
            }
        };
        wait::until(SOON, "the line is in the logs", logged).unwrap();
    }
}

#[test]
fn a_hangup_reloads() {
    if !has("node") {
        return;
    }
    let mut sidecar = app(&["--workers", "1"]).ready(1).unwrap();
    let before = sidecar.pids().unwrap();
    sidecar.process.signal(Signal::HUP).unwrap();
    wait::until_true(SOON, "the worker has been replaced", || {
        sidecar
            .workers()
            .is_ok_and(|workers| workers.iter().all(|worker| !before.contains(&worker.pid)))
    })
    .unwrap();
    sidecar.wait_ready(1).unwrap();
    assert_eq!(sidecar.workers().unwrap()[0].generation, 2);
}

#[test]
fn ctl_says_that_no_supervisor_is_at_the_address() {
    let nobody = ports::local().unwrap();
    let ended = sidecar::ctl(nobody, &["status"]).unwrap();
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains(&nobody.to_string()),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_supervisor_on_all_addresses_is_found_by_any() {
    if !has("node") {
        return;
    }
    let mut launch = app(&["--workers", "1"]);
    let local = launch.admin;
    launch.admin = (std::net::Ipv4Addr::UNSPECIFIED, local.port()).into();
    let sidecar = launch.ready(1).unwrap();
    for admin in [local, sidecar.launch.admin] {
        let ended = sidecar::ctl(admin, &["status"]).unwrap();
        assert_eq!(ended.code, 0, "{ended:?}");
    }
}

#[test]
fn the_desired_state_file_scales_and_reloads() {
    if !has("node") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("desired.json");
    // A rename replaces the file, as the kubelet does it.
    let write = |text: &str| {
        let next = directory.path().join("next");
        fs::write(&next, text).unwrap();
        fs::rename(&next, &file).unwrap();
    };
    write(r#"{"workers": "2", "reload": "a"}"#);
    let name = file.to_string_lossy().into_owned();
    let mut sidecar = app(&["--workers", "1", "--desired-file", &name])
        .start()
        .unwrap();
    sidecar.wait_ready(2).unwrap();
    let before = sidecar.pids().unwrap();
    // The workers were started after the token was set.
    assert_eq!(sidecar.status().unwrap()["reloaded"], "a");
    write(r#"{"workers": "1", "reload": "a"}"#);
    sidecar.wait_ready(1).unwrap();
    assert_eq!(
        sidecar.pids().unwrap(),
        before[..1],
        "the highest slot goes"
    );
    // The number of workers may also be a JSON number.
    write(r#"{"workers": 1, "reload": "b"}"#);
    wait::until_true(SOON, "the worker has been replaced", || {
        sidecar.pids().is_ok_and(|pids| !pids.contains(&before[0]))
    })
    .unwrap();
    sidecar.wait_ready(1).unwrap();
    wait::until_true(SOON, "it says which reload it was", || {
        sidecar
            .status()
            .is_ok_and(|status| status["reloaded"] == "b")
    })
    .unwrap();
    // A broken file is named in the log and changes nothing.
    write("workers: 7");
    sidecar.process.says(SOON, "desired.json").unwrap();
    assert_eq!(sidecar.status().unwrap()["desired"], 1);
}

#[test]
fn the_admin_port_shows_and_never_changes() {
    if !has("node") {
        return;
    }
    let sidecar = app(&["--workers", "1"]).ready(1).unwrap();
    let admin = sidecar.launch.admin;
    for path in ["/livez", "/readyz", "/status", "/metrics"] {
        assert_eq!(http::get(admin, path).unwrap().status, 200, "{path}");
    }
    let metrics = http::get(admin, "/metrics").unwrap().text();
    for name in [
        "scaledapp_workers_desired 1",
        "scaledapp_workers_ready 1",
        "scaledapp_dispatch_worker_responses_total{worker=\"0\",code=\"2xx\"} ",
        "scaledapp_dispatch_worker_broken_total{worker=\"0\"} 0",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    for path in ["/reload", "/scale", "/status"] {
        let status = http::one_shot(admin, SOON, &Request::post(path, b"{}"))
            .unwrap()
            .status;
        assert!(matches!(status, 404 | 405), "POST {path}: {status}");
    }
    let shown = http::get(admin, "/status").unwrap().text();
    assert!(
        !shown.contains("app.js"),
        "arguments of the app must not be shown: {shown}"
    );
}

#[test]
fn watch_reports_changes_at_once_and_heartbeats_in_between() {
    if !has("node") {
        return;
    }
    let mut sidecar = app(&["--workers", "1"]).ready(1).unwrap();
    let mut watch = Connection::open(sidecar.launch.admin, Duration::from_secs(3)).unwrap();
    let host = sidecar.launch.admin;
    watch
        .write(format!("GET /watch HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
        .unwrap();
    let mut seen = String::new();
    let mut until = |watch: &mut Connection, what: &str, times: usize| {
        while seen.matches(what).count() < times {
            match watch.read_bytes(1) {
                Ok(byte) => seen.push(char::from(byte[0])),
                Err(failure) => panic!("{failure} while waiting for {what:?} in {seen}"),
            }
        }
    };
    let keys = [
        "\"ready\":true",
        "\"draining\":false",
        "\"capacity\":1",
        "\"inFlight\":0",
        "\"queued\":0",
    ];
    for key in keys {
        // The first line and two heartbeats, within the client's deadline of 3 s.
        until(&mut watch, key, 3);
    }
    sidecar.ctl_done(&["scale", "2"]).unwrap();
    until(&mut watch, "\"workers\":2", 1);
    sidecar.process.signal(Signal::TERM).unwrap();
    until(&mut watch, "\"draining\":true", 1);
    assert_eq!(sidecar.process.wait(SOON).unwrap().code, 0);
    assert!(matches!(http::get(host, "/livez"), Err(Failure::Refused)));
}
