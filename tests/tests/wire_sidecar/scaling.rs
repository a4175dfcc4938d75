//! Ranges of `--workers`: workers start and stop with the load. `scaling/decide.rs` has unit tests of
//! the decisions; these tests need processes, CPU time and sockets.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use scaledapp_tests::http::{self, Request};
use scaledapp_tests::load::{Load, Running};
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{fixtures, wait};
use serde_json::Value;

use crate::recycle::Limited;
use crate::{SOON, has};

fn app(options: &[&str]) -> Launch {
    Launch::of(|port| fixtures::node("app.js", port))
        .unwrap()
        .with(options)
}

/// An app that works in slot 0; in the other slots it exits, or boots for `ms` milliseconds.
fn unlike(ms: Option<&str>, options: &[&str]) -> Launch {
    let launch = Launch::of(|port| {
        let mut words = fixtures::node("unlike.js", port);
        words.extend(ms.map(str::to_owned));
        words
    });
    launch.unwrap().with(options)
}

/// Clients that each wait 40 ms for an answer.
fn load(sidecar: &Sidecar, clients: usize) -> Load {
    Load {
        clients,
        path: "/sleep?ms=40".to_owned(),
        post_every: 0,
        ..Load::on(&[sidecar.address()])
    }
}

fn desired(sidecar: &Sidecar) -> u64 {
    sidecar.status().unwrap()["desired"].as_u64().unwrap()
}

fn events(sidecar: &Sidecar) -> Vec<Value> {
    let text = sidecar.ctl_done(&["events", "-o", "json"]).unwrap();
    let events: Value = serde_json::from_str(&text).unwrap();
    events["events"].as_array().unwrap().clone()
}

fn reasons(sidecar: &Sidecar) -> Vec<String> {
    let events = events(sidecar);
    let reasons = events.iter().map(|event| event["reason"].as_str().unwrap());
    reasons.map(str::to_owned).collect()
}

fn until_desired(sidecar: &Sidecar, workers: u64) {
    wait::until(SOON * 2, &format!("{workers} workers are wanted"), || {
        let status = sidecar.status().map_err(|error| format!("{error:#}"))?;
        if status["desired"] == workers {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .unwrap();
}

/// The time of day in a text such as `2026-11-30T18:47:26.297Z`, in milliseconds.
fn millis_of_day(text: &str) -> u64 {
    let number = |from: usize, to: usize| text[from..to].parse::<u64>().unwrap();
    ((number(11, 13) * 60 + number(14, 16)) * 60 + number(17, 19)) * 1000 + number(20, 23)
}

/// Milliseconds from `then` until the first event with this reason.
fn millis_until(sidecar: &Sidecar, then: SystemTime, reason: &str) -> u64 {
    const DAY: u64 = 86_400_000;
    let began = then
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
        % DAY;
    let events = events(sidecar);
    let event = events
        .iter()
        .find(|event| event["reason"] == reason)
        .unwrap();
    let at = millis_of_day(event["time"].as_str().unwrap());
    (at + DAY - began) % DAY
}

#[test]
fn a_load_that_grows_fivefold_starts_all_workers_in_one_step() {
    if !has("node") {
        return;
    }
    let options = [
        "--workers",
        "1..5",
        "--max-in-flight",
        "1",
        "--utilization",
        "100",
    ];
    let mut sidecar = app(&options).ready(1).unwrap();
    // One request after the other: nobody waits.
    let one = load(&sidecar, 1).start().unwrap();
    one.wait_more(20, SOON).unwrap();
    assert_eq!(desired(&sidecar), 1, "{:?}", events(&sidecar));
    let began = SystemTime::now();
    let more = load(&sidecar, 4).start().unwrap();
    sidecar.wait_ready(5).unwrap();
    println!(
        "a load grows fivefold: four more workers are started after {} ms",
        millis_until(&sidecar, began, "ScaledUp")
    );
    more.wait_more(100, SOON).unwrap();
    let reports = [one.stop(), more.stop()];
    assert!(
        reports.iter().all(|report| report.failed() == 0),
        "{reports:?}"
    );
    let reasons = reasons(&sidecar);
    let ups = reasons
        .iter()
        .filter(|reason| *reason == "ScaledUp")
        .count();
    assert_eq!(
        (reasons[0].as_str(), reasons[1].as_str(), ups),
        ("Ready", "ScaledUp", 1)
    );
    let status = sidecar.status().unwrap();
    let scaling = &status["scaling"];
    assert_eq!((&scaling["min"], &scaling["max"]), (&1.into(), &5.into()));
    let last = &scaling["last"];
    assert_eq!(
        (&last["from"], &last["to"]),
        (&1.into(), &5.into()),
        "{status}"
    );
    assert_eq!(last["reason"], "Waiting");
    let text = last["text"].as_str().unwrap();
    assert!(text.contains("the queue has not been empty for"), "{text}");
    let table = sidecar.ctl_done(&["status"]).unwrap();
    assert!(table.contains("1 to 5 workers, by load; "), "{table}");
    let metrics = http::get(sidecar.launch.admin, "/metrics").unwrap().text();
    for line in [
        "scaledapp_workers_min 1",
        "scaledapp_workers_max 5",
        "scaledapp_scalings_total{direction=\"up\",reason=\"Waiting\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[test]
fn a_worker_that_computes_all_the_time_gets_help() {
    if !has("node") {
        return;
    }
    let mut sidecar = app(&["--workers", "1..2"]).ready(1).unwrap();
    let burning = Load {
        path: "/burn?ms=10".to_owned(),
        ..load(&sidecar, 4)
    };
    let began = SystemTime::now();
    let running = burning.start().unwrap();
    sidecar.wait_ready(2).unwrap();
    println!(
        "a worker computes all the time: another one is started after {} ms",
        millis_until(&sidecar, began, "ScaledUp")
    );
    running.wait_more(50, SOON).unwrap();
    let report = running.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

#[test]
fn workers_without_need_stop_under_a_trickle_of_requests_and_none_fails() {
    if !has("node") {
        return;
    }
    for keep_alive in [true, false] {
        let options = ["--workers", "1..4", "--scale-down-after", "2s"];
        let mut sidecar = app(&options).ready(1).unwrap();
        sidecar.ctl_done(&["scale", "4"]).unwrap();
        let trickle = Load {
            rate: Some(60),
            keep_alive,
            ..load(&sidecar, 4)
        };
        let running = trickle.start().unwrap();
        running.wait_more(30, SOON).unwrap();
        sidecar.ctl_done(&["scale", "reset"]).unwrap();
        assert_eq!(
            desired(&sidecar),
            4,
            "a range keeps the number that is within it"
        );
        // 60 requests of 40 ms a second: Node works on several of them at the same time.
        wait::until(SOON * 3, "workers have stopped", || {
            match desired(&sidecar) {
                now @ (3 | 4) => Err(now),
                _ => Ok(()),
            }
        })
        .unwrap();
        let report = running.stop();
        println!("workers stop under a trickle of requests, keep-alive {keep_alive}: {report}");
        assert_eq!(report.failed(), 0, "{report}");
        sidecar.wait_ready(1).unwrap();
        let slots: Vec<u64> = sidecar
            .workers()
            .unwrap()
            .iter()
            .map(|one| one.slot)
            .collect();
        assert_eq!(slots, [0], "the highest slots have stopped");
        let downs = reasons(&sidecar)
            .iter()
            .filter(|it| *it == "ScaledDown")
            .count();
        assert_eq!(downs, 3, "one by one");
        assert!(!sidecar.process.stderr().contains("unexpectedly"));
    }
}

#[test]
fn a_few_fast_requests_start_no_worker() {
    if !has("node") {
        return;
    }
    let sidecar = app(&["--workers", "1..4"]).ready(1).unwrap();
    let few = Load {
        rate: Some(20),
        path: "/".to_owned(),
        keep_alive: false,
        ..load(&sidecar, 2)
    };
    let running = few.start().unwrap();
    running.wait_more(60, SOON).unwrap();
    assert_eq!(desired(&sidecar), 1, "{:?}", events(&sidecar));
    assert_eq!(running.stop().failed(), 0);
}

/// Sends more than one worker can do, until `seen` says that it has seen enough.
fn overload(sidecar: &Sidecar, seen: impl Fn(&Value) -> bool) -> Running {
    let running = load(sidecar, 8).start().unwrap();
    wait::until(SOON * 2, "the status is as expected", || {
        let status = sidecar.status().map_err(|error| format!("{error:#}"))?;
        if seen(&status) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .unwrap();
    running
}

#[test]
fn no_worker_starts_that_does_not_fit_into_the_memory() {
    if !has("node") {
        return;
    }
    let Some(limited) = Limited::new(96) else {
        return;
    };
    let mut launch = app(&["--workers", "1..8", "--max-in-flight", "1"]);
    launch.wrapper = limited.wrapper();
    let sidecar = launch.ready(1).unwrap();
    let running = overload(&sidecar, |status| status["scaling"]["held"] == "Memory");
    running.wait_more(100, SOON).unwrap();
    let status = sidecar.status().unwrap();
    println!("96 MiB are enough for {} workers", status["desired"]);
    let workers = status["desired"].as_u64().unwrap();
    assert!((1..=6).contains(&workers), "{status}");
    let report = running.stop();
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(limited.kills(), 0);
    sidecar
        .process
        .says(SOON, "there is no memory for one more worker")
        .unwrap();
    assert!(
        reasons(&sidecar)
            .iter()
            .any(|reason| reason == "ScalingHeld")
    );
    drop(sidecar);
}

#[test]
fn an_app_that_starts_only_once_is_not_started_again_and_again() {
    if !has("node") {
        return;
    }
    let options = [
        "--workers",
        "1..8",
        "--max-in-flight",
        "1",
        "--scale-down-after",
        "1s",
    ];
    let sidecar = unlike(None, &options).ready(1).unwrap();
    let few = load(&sidecar, 2).start().unwrap();
    until_desired(&sidecar, 2);
    let running = overload(&sidecar, |status| status["scaling"]["held"] == "Crashing");
    running.wait_more(40, SOON).unwrap();
    // Some may have been started before the first one had failed; one is left to try.
    until_desired(&sidecar, 2);
    assert_eq!((running.stop().failed(), few.stop().failed()), (0, 0));
    // The slot goes when it is not needed, so the crash loop ends.
    until_desired(&sidecar, 1);
}

#[test]
fn a_worker_that_boots_for_longer_than_usual_holds_back_the_next() {
    if !has("node") {
        return;
    }
    let options = ["--workers", "1..8", "--max-in-flight", "1"];
    let sidecar = unlike(Some("15000"), &options).ready(1).unwrap();
    let few = load(&sidecar, 2).start().unwrap();
    until_desired(&sidecar, 2);
    // More than twice as long as the boot of slot 0, even on a busy machine.
    std::thread::sleep(Duration::from_secs(5));
    let running = overload(&sidecar, |status| status["scaling"]["held"] == "SlowBoot");
    assert_eq!(desired(&sidecar), 2);
    assert_eq!((running.stop().failed(), few.stop().failed()), (0, 0));
}

#[test]
fn requests_that_end_their_worker_start_no_further_workers() {
    if !has("node") {
        return;
    }
    let sidecar = app(&["--workers", "1..8"]).ready(1).unwrap();
    let deadly = Load {
        path: "/exit".to_owned(),
        timeout: Duration::from_secs(3),
        ..load(&sidecar, 4)
    };
    let running = deadly.start().unwrap();
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(100));
        assert!(desired(&sidecar) <= 2, "{:?}", events(&sidecar));
    }
    drop(running);
}

#[test]
fn ctl_sets_a_number_or_a_range_and_brings_back_what_is_configured() {
    if !has("node") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("desired.json");
    let name = file.to_string_lossy().into_owned();
    let options = [
        "--workers",
        "1..3",
        "--scale-down-after",
        "1s",
        "--desired-file",
        &name,
    ];
    let mut sidecar = app(&options).ready(1).unwrap();
    sidecar.ctl_done(&["scale", "3"]).unwrap();
    sidecar.wait_ready(3).unwrap();
    assert!(
        sidecar.status().unwrap().get("scaling").is_none(),
        "the number is fixed"
    );
    // Without load a range would stop one after a second.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(desired(&sidecar), 3);
    sidecar.ctl_done(&["scale", "2..4"]).unwrap();
    assert_eq!(sidecar.status().unwrap()["scaling"]["max"], 4);
    sidecar.wait_ready(2).unwrap();
    sidecar.ctl_done(&["scale", "+1"]).unwrap();
    sidecar.wait_ready(3).unwrap();
    sidecar.ctl_done(&["scale", "reset"]).unwrap();
    assert_eq!(sidecar.status().unwrap()["scaling"]["min"], 1);
    sidecar.wait_ready(1).unwrap();
    for (word, cure) in [
        ("0..2", "give 1..2"),
        ("3..1", "1..3"),
        ("some", "reset"),
        ("-9", "or 0 to run none"),
    ] {
        let ended = sidecar.ctl(&["scale", word]).unwrap();
        assert!(
            ended.code != 0 && ended.stderr.contains(cure),
            "{}",
            ended.stderr
        );
    }
    // The desired-state file has a number or a range, too.
    fs::write(&file, r#"{"workers": "2..5"}"#).unwrap();
    until_desired(&sidecar, 2);
    assert_eq!(sidecar.status().unwrap()["scaling"]["max"], 5);
    fs::write(&file, r#"{"workers": 3}"#).unwrap();
    sidecar.wait_ready(3).unwrap();
    assert!(sidecar.status().unwrap().get("scaling").is_none());
    sidecar.ctl_done(&["scale", "1..2"]).unwrap();
    sidecar.ctl_done(&["scale", "reset"]).unwrap();
    sidecar.wait_ready(3).unwrap();
}

#[test]
fn a_reload_in_the_middle_of_a_step_loses_no_request_and_keeps_the_number() {
    if !has("node") {
        return;
    }
    let options = ["--workers", "1..4", "--max-in-flight", "1"];
    let mut sidecar = app(&options).ready(1).unwrap();
    let running = load(&sidecar, 4).start().unwrap();
    until_desired(&sidecar, 4);
    // The new workers are still booting.
    sidecar.ctl_done(&["reload"]).unwrap();
    sidecar.wait_ready(4).unwrap();
    running.wait_more(50, SOON).unwrap();
    sidecar.ctl_done(&["reload"]).unwrap();
    sidecar.wait_ready(4).unwrap();
    let report = running.stop();
    println!("two reloads, one in the middle of a step: {report}");
    assert_eq!(report.failed(), 0, "{report}");
    let workers = sidecar.workers().unwrap();
    assert!(
        workers.iter().all(|worker| worker.generation == 3),
        "{workers:?}"
    );
}

#[test]
fn a_load_during_a_reload_starts_workers_after_it() {
    if !has("node") {
        return;
    }
    let options = ["--workers", "1..3", "--max-in-flight", "1"];
    let mut launch = app(&options);
    launch.command = fixtures::node("slow-boot.js", launch.port);
    launch.command.push("1500".to_owned());
    let mut sidecar = launch.ready(1).unwrap();
    let reload = std::thread::spawn({
        let admin = sidecar.launch.admin;
        move || scaledapp_tests::sidecar::ctl(admin, &["reload"])
    });
    wait::until_true(SOON, "the reload has begun", || {
        reasons(&sidecar)
            .iter()
            .any(|reason| reason == "ReloadBegan")
    })
    .unwrap();
    let running = overload(&sidecar, |status| status["scaling"]["held"] == "Replacing");
    assert_eq!(desired(&sidecar), 1);
    assert_eq!(reload.join().unwrap().unwrap().code, 0);
    sidecar.wait_ready(3).unwrap();
    let report = running.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

#[test]
fn balancers_see_the_capacity_change_at_once_and_workers_see_the_upper_end() {
    if !has("node") {
        return;
    }
    let options = ["--workers", "1..3", "--max-in-flight", "1"];
    let mut sidecar = app(&options).ready(1).unwrap();
    let mut watch = TcpStream::connect(sidecar.launch.admin).unwrap();
    watch.set_read_timeout(Some(SOON)).unwrap();
    watch
        .write_all(b"GET /watch HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let running = load(&sidecar, 3).start().unwrap();
    let lines = BufReader::new(watch).lines().map_while(Result::ok);
    let lines = lines.filter(|line| line.starts_with('{'));
    let mut seen = Vec::new();
    for line in lines.take(200) {
        let line: Value = serde_json::from_str(&line).unwrap();
        let pair = (
            line["scaling"]["wanted"].as_u64(),
            line["capacity"].as_u64(),
        );
        if seen.last() != Some(&pair) {
            seen.push(pair);
        }
        if pair.1 == Some(3) {
            let reason = line["scaling"]["reason"].as_str();
            assert!(
                matches!(reason, Some("Waiting" | "Busy")),
                "requests waited, or workers were busy: {line}"
            );
            break;
        }
    }
    // First more workers are wanted, then they serve. How many steps there are depends on how fast
    // the clients' connections come.
    assert_eq!(seen[0], (Some(1), Some(1)), "{seen:?}");
    assert!(
        seen[1].0 > Some(1) && seen[1].1 == Some(1),
        "more are wanted before they serve: {seen:?}"
    );
    assert!(
        seen.is_sorted() && seen.iter().all(|(wanted, capacity)| wanted >= capacity),
        "{seen:?}"
    );
    assert_eq!(seen.last(), Some(&(Some(3), Some(3))));
    assert_eq!(running.stop().failed(), 0);
    sidecar.wait_ready(3).unwrap();
    let answer = http::one_shot(sidecar.address(), SOON, &Request::get("/environment")).unwrap();
    let environment = &answer.json()["environment"];
    assert_eq!(environment["SCALEDAPP_WORKERS"], "3");
    assert_eq!(environment["WEB_CONCURRENCY"], "1");
}

#[test]
fn a_range_is_refused_where_the_load_is_not_known() {
    for (options, cure) in [
        (
            &["--workers", "1..4", "--dispatch", "connection"][..],
            "needs --dispatch request",
        ),
        (&["--workers", "1..4", "--port", "none"], "needs a port"),
        (&["--workers", "0..4"], "give 1..4"),
        (
            &["--workers", "1..4", "--scale-down-after", "0s"],
            "from 1s to 24h",
        ),
    ] {
        let ended = app(options).run(SOON).unwrap();
        assert_ne!(ended.code, 0);
        assert!(ended.stderr.contains(cure), "{options:?}: {}", ended.stderr);
    }
}

#[test]
fn only_a_plain_0_stops_the_last_worker_and_ctl_says_what_that_means() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    let sidecar = launch.with(&["--workers", "1"]).ready(1).unwrap();
    sidecar.process.signal(Signal::TTOU).unwrap();
    sidecar
        .process
        .says(Duration::from_secs(5), "the last worker stays")
        .unwrap();
    assert_eq!(desired(&sidecar), 1);
    let one = sidecar.ctl(&["scale", "1"]).unwrap();
    assert_eq!((one.code, one.stderr.as_str()), (0, ""));
    let none = sidecar.ctl(&["scale", "0"]).unwrap();
    assert_eq!(none.code, 0);
    assert!(none.stderr.contains("503"), "{}", none.stderr);
    assert_eq!(desired(&sidecar), 0);
}
