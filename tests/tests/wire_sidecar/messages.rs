//! Node's message channel: `process.send('ready')`, the message `shutdown`, and apps that use the
//! channel for other messages or not at all.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_tests::http::{self, Request};
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{fixtures, proc, wait};
use serde_json::Value;

use crate::{SOON, has};

fn app(words: &[&str], options: &[&str]) -> Launch {
    Launch::of(|port| {
        let mut command = fixtures::node("messages.js", port);
        command.extend(words.iter().map(|&word| word.to_owned()));
        command
    })
    .unwrap()
    .with(options)
}

fn answer(to: SocketAddr) -> Value {
    let response = http::get(to, "/").unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

/// Whether a process has this environment variable.
fn has_variable(pid: u32, name: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let begin = format!("{name}=");
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| variable.starts_with(begin.as_bytes()))
}

#[test]
fn no_request_reaches_a_worker_before_it_has_sent_ready() {
    if !has("node") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("go");
    let word = format!("ready={}", file.display());
    let mut sidecar = app(&[&word], &["--workers", "2", "--wait-ready"])
        .start()
        .unwrap();
    let address = sidecar.address();
    let listening = || {
        let pids = sidecar.pids().unwrap_or_default();
        let is_listening = |pid: &u32| sockets(*pid) >= 1;
        pids.len() == 2 && pids.iter().all(is_listening)
    };
    wait::until_true(SOON, "both listen", listening).unwrap();
    // Requests are queued while no worker is ready.
    let asked: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(move || http::one_shot(address, SOON, &Request::get("/"))))
        .collect();
    let ready = http::get(sidecar.launch.admin, "/readyz").unwrap();
    assert_eq!(ready.status, 503);
    fs::write(&file, "").unwrap();
    for response in asked {
        let response = response.join().unwrap().unwrap();
        assert_eq!(response.json()["said"], true, "{}", response.text());
    }
    sidecar.wait_ready(2).unwrap();
}

#[test]
fn a_reload_switches_to_the_new_workers_once_they_have_sent_ready() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("go");
        fs::write(&file, "").unwrap();
        let word = format!("ready={}", file.display());
        let options = ["--workers", "2", "--wait-ready", "--dispatch", dispatch];
        let sidecar = app(&[&word], &options).ready(2).unwrap();
        let address = sidecar.address();
        fs::remove_file(&file).unwrap();
        let before = sidecar.pids().unwrap();
        let admin = sidecar.launch.admin;
        let reload =
            std::thread::spawn(move || scaledapp_tests::sidecar::ctl(admin, &["reload"]).unwrap());
        wait::until_true(SOON, "the canary listens", || {
            let pids = sidecar.pids().unwrap_or_default();
            let mut new = pids.iter().filter(|pid| !before.contains(pid));
            new.any(|pid| sockets(*pid) >= 1)
        })
        .unwrap();
        for _ in 0..50 {
            let pid = answer(address)["pid"].as_u64().unwrap() as u32;
            assert!(before.contains(&pid), "{dispatch}");
        }
        fs::write(&file, "").unwrap();
        assert_eq!(reload.join().unwrap().code, 0);
        let pid = answer(address)["pid"].as_u64().unwrap() as u32;
        assert!(!before.contains(&pid), "{dispatch}");
    }
}

/// Number of listening TCP sockets of a process, from the kernel's table.
fn sockets(pid: u32) -> usize {
    let table = ["tcp", "tcp6"]
        .map(|name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default())
        .concat();
    let listening: Vec<&str> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.get(3) == Some(&"0A")).then(|| fields.get(9).copied())?
        })
        .collect();
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return 0;
    };
    let links = descriptors
        .flatten()
        .flat_map(|entry| fs::read_link(entry.path()));
    links
        .filter(|link| {
            let text = link.to_string_lossy();
            let inode = text
                .strip_prefix("socket:[")
                .and_then(|text| text.strip_suffix(']'));
            inode.is_some_and(|inode| listening.contains(&inode))
        })
        .count()
}

#[test]
fn without_the_flag_requests_do_not_wait_for_the_message_ready() {
    if !has("node") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let word = format!("ready={}", directory.path().join("go").display());
    let sidecar = app(&[&word], &["--workers", "1"]).ready(1).unwrap();
    let answered = answer(sidecar.address());
    assert_eq!(answered["said"], false);
    assert_eq!(answered["sends"], "undefined");
}

#[test]
fn at_the_boot_timeout_the_log_says_what_is_missing() {
    if !has("node") {
        return;
    }
    let options = [
        "--workers",
        "1",
        "--wait-ready",
        "--boot-timeout",
        "4s",
        "--stop-grace",
        "1s",
    ];
    // This app sends ready, but never listens; an interval keeps it alive.
    let silent = Launch::of(|_| {
        let script = "process.send('ready'); setInterval(() => {}, 1000)".to_owned();
        vec!["node".to_owned(), "-e".to_owned(), script]
    });
    for (launch, said) in [
        (
            silent.unwrap(),
            "it has sent \"ready\", but it does not listen on port",
        ),
        (
            app(&["forever"], &[]),
            "it has not sent the message \"ready\" (--wait-ready",
        ),
    ] {
        let sidecar = launch.with(&options).start().unwrap();
        sidecar.process.says(SOON, said).unwrap();
    }
}

#[test]
fn an_app_that_sends_many_messages_neither_blocks_nor_makes_the_supervisor_grow() {
    if !has("node") {
        return;
    }
    let mut sidecar = app(
        &["flood=10000"],
        &["--workers", "1", "--wait-ready", "--boot-timeout", "5m"],
    )
    .start()
    .unwrap();
    let supervisor = sidecar.process.pid();
    wait::until_true(SOON, "the worker runs", || {
        sidecar.pids().is_ok_and(|pids| pids.len() == 1)
    })
    .unwrap();
    let before = proc::resident_bytes(supervisor).unwrap();
    let admin = sidecar.launch.admin;
    let mut most = before;
    wait::until(Duration::from_mins(3), "all is sent", || {
        most = most.max(proc::resident_bytes(supervisor).unwrap());
        // The supervisor must keep answering during this time.
        let status = scaledapp_tests::sidecar::status(admin).map_err(|error| error.to_string())?;
        if status["ready"] == 1 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .unwrap();
    sidecar.wait_ready(1).unwrap();
    assert_eq!(answer(sidecar.address())["sent"], 10_000);
    println!("10,000 messages of 64 KiB: supervisor {before} bytes before, {most} at most");
    assert!(most < before + 8 * 1024 * 1024, "{before} → {most}");
}

#[test]
fn the_message_shutdown_asks_a_worker_to_end() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let options = [
            "--workers",
            "1",
            "--shutdown-message",
            "--dispatch",
            dispatch,
            "--drain-quiet",
            "200ms",
        ];
        let mut sidecar = app(&["exit=7"], &options).ready(1).unwrap();
        sidecar.ctl_done(&["restart", "0"]).unwrap();
        sidecar.wait_ready(1).unwrap();
        sidecar.process.says(SOON, "message: shutdown").unwrap();
        let last = &sidecar.status().unwrap()["workers"][0]["lastExit"];
        assert!(last["text"].as_str().unwrap().contains('7'), "{last}");
        sidecar.process.signal(Signal::TERM).unwrap();
        let ended = sidecar.process.wait(SOON).unwrap();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let told = ended.stderr.matches("message: shutdown").count();
        assert_eq!(told, 2, "{}", ended.stderr);
        assert!(
            !ended.stderr.contains("signal: SIGTERM"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn a_worker_that_ignores_the_message_is_killed_and_one_without_channel_gets_the_signal() {
    if !has("node") {
        return;
    }
    let options = [
        "--workers",
        "1",
        "--shutdown-message",
        "--stop-grace",
        "300ms",
    ];
    let mut heedless = app(&[], &options).ready(1).unwrap();
    heedless.process.signal(Signal::TERM).unwrap();
    let ended = heedless.process.wait(SOON).unwrap();
    assert!(ended.stderr.contains("is killed"), "{}", ended.stderr);

    let mut gone = app(
        &["ready", "disconnect"],
        &["--workers", "1", "--shutdown-message", "--wait-ready"],
    )
    .ready(1)
    .unwrap();
    let address = gone.address();
    wait::until_true(SOON, "it has closed the channel", || {
        answer(address)["connected"] == false
    })
    .unwrap();
    gone.process.signal(Signal::TERM).unwrap();
    let ended = gone.process.wait(SOON).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("stop signal instead"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("is killed"), "{}", ended.stderr);
}

#[test]
fn only_the_worker_gets_the_channel() {
    if !has("node") {
        return;
    }
    let sidecar = app(&["ready", "child"], &["--workers", "2", "--wait-ready"])
        .ready(2)
        .unwrap();
    let answered = answer(sidecar.address());
    let worker = answered["pid"].as_u64().unwrap() as u32;
    let child = answered["child"].as_u64().unwrap() as u32;
    assert!(has_variable(worker, "NODE_CHANNEL_FD"));
    assert!(has_variable(worker, "NODE_APP_INSTANCE"));
    assert!(!has_variable(child, "NODE_CHANNEL_FD"));
    let open = |pid: u32| {
        let mut links: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .map(|link| link.to_string_lossy().into_owned())
            .filter(|link| link.starts_with("socket:"))
            .collect();
        links.sort();
        links
    };
    assert_eq!(open(child), Vec::<String>::new());
    // Each end of the channel is open in only one process.
    let pids = sidecar.pids().unwrap();
    let of_both = [open(pids[0]), open(pids[1])];
    assert!(of_both[0].iter().all(|link| !of_both[1].contains(link)));
}

#[test]
fn without_the_flags_no_channel_is_passed_on() {
    if !has("node") {
        return;
    }
    // The supervisor itself is started with a channel, as Node would start it.
    let mut launch = app(&[], &["--workers", "1"]);
    let variable = ("NODE_CHANNEL_FD".to_owned(), "3".to_owned());
    launch.environment.push(variable);
    let sidecar = launch.ready(1).unwrap();
    let answered = answer(sidecar.address());
    assert_eq!(answered["sends"], "undefined");
    let worker = answered["pid"].as_u64().unwrap() as u32;
    assert!(!has_variable(worker, "NODE_CHANNEL_FD"));
}

#[test]
fn a_consumer_is_ready_when_it_says_so_and_ends_when_it_has_nothing_to_do() {
    if !has("node") {
        return;
    }
    let says = "process.send('ready');";
    let launch = |script: &str| {
        let script = script.to_owned();
        let command = |_| vec!["node".to_owned(), "-e".to_owned(), script];
        let options = ["--port", "none", "--workers", "1", "--wait-ready"];
        Launch::of(command).unwrap().with(&options)
    };
    let stays = launch(&format!("{says} setInterval(() => {{}}, 1000)"));
    drop(stays.ready(1).unwrap());
    // The channel alone does not keep a Node process alive.
    let leaves = launch(says).start().unwrap();
    leaves
        .process
        .says(SOON, "ended unexpectedly: exit code 0")
        .unwrap();
    // A process that listens to messages stays alive, as with PM2.
    let listens = launch(&format!("process.on('message', () => {{}}); {says}"));
    let listens = listens.ready(1).unwrap();
    assert!(!listens.process.stderr().contains("ended unexpectedly"));
}

#[test]
fn a_shell_passes_the_channel_on() {
    if !has("node") || !has("sh") {
        return;
    }
    let launch = Launch::of(|port| {
        let script = fixtures::app("messages.js");
        let line = format!("node {script} {port} ready; exit $?");
        vec!["sh".to_owned(), "-c".to_owned(), line]
    });
    let options = ["--workers", "1", "--wait-ready"];
    let sidecar = launch.unwrap().with(&options).ready(1).unwrap();
    assert_eq!(answer(sidecar.address())["said"], true);
}

#[test]
fn increment_env_adds_the_slot_to_the_value_in_the_supervisors_environment() {
    if !has("node") {
        return;
    }
    let mut launch = app(&[], &["--workers", "3", "--increment-env", "COUNTED"]);
    launch
        .environment
        .push(("COUNTED".to_owned(), "9229".to_owned()));
    let sidecar = launch.ready(3).unwrap();
    let address = sidecar.address();
    for _ in 0..12 {
        let answered = answer(address);
        let slot: u64 = answered["slot"].as_str().unwrap().parse().unwrap();
        assert_eq!(answered["counted"], (9229 + slot).to_string());
    }
}
