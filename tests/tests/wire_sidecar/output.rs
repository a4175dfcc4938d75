//! The output of workers, and an output stream that no process reads.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_tests::sidecar::{self, BOOT, Launch};
use scaledapp_tests::{fixtures, http, process, wait};
use serde_json::Value;

use crate::{SOON, has};

fn talkative(options: &[&str]) -> Launch {
    let launch = Launch::of(|port| fixtures::node("ops.js", port)).unwrap();
    launch.with(options)
}

#[test]
fn lines_of_both_streams_are_marked_with_their_slot() {
    if !has("node") {
        return;
    }
    let sidecar = talkative(&["--workers", "1", "--logs", "prefix"])
        .ready(1)
        .unwrap();
    http::get(sidecar.address(), "/say?text=hello").unwrap();
    sidecar.process.says(SOON, "[0] err hello\n").unwrap();
    let out = || sidecar.process.stdout().contains("[0] out hello\n");
    wait::until_true(SOON, "stdout is marked too", out).unwrap();
    // An unfinished line is shown when its worker ends.
    http::get(sidecar.address(), "/half").unwrap();
    sidecar.ctl_done(&["reload"]).unwrap();
    let half = || sidecar.process.stdout().contains("[0] half a line\n");
    wait::until_true(SOON, "half a line is shown", half).unwrap();
    assert!(
        sidecar
            .ctl_done(&["logs", "0"])
            .unwrap()
            .contains("0 | err hello")
    );
}

#[test]
fn lines_become_json_records() {
    if !has("node") {
        return;
    }
    let sidecar = talkative(&["--workers", "1", "--logs", "json"])
        .ready(1)
        .unwrap();
    let pid = sidecar.pids().unwrap()[0];
    http::get(sidecar.address(), "/say?text=%22quoted%22").unwrap();
    let said = || sidecar.process.stdout().contains("quoted");
    wait::until_true(SOON, "the line is there", said).unwrap();
    let record: Value = serde_json::from_str(sidecar.process.stdout().trim()).unwrap();
    assert_eq!(record["message"], "out \"quoted\"");
    assert_eq!((&record["slot"], &record["pid"]), (&0.into(), &pid.into()));
    assert_eq!(record["stream"], "stdout");
    assert!(record["time"].as_str().unwrap().ends_with('Z'), "{record}");
}

/// The read end and the write end of a full pipe.
fn full_pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer.into())
}

/// A child that is killed when the value is dropped, also if a test fails.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn supervision_goes_on_when_nobody_reads_stderr() {
    if !has("node") {
        return;
    }
    let launch = talkative(&["--workers", "2", "--logs-full", "drop"]);
    let (mut reader, writer) = full_pipe();
    let mut command = launch.command().unwrap();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer);
    let mut child = Child(command.spawn().unwrap());
    drop(command);
    let admin = launch.admin;
    let ready = |without: &[u32]| {
        wait::until(BOOT, "two workers are ready", || {
            let workers = sidecar::workers(admin).map_err(|error| format!("{error:#}"))?;
            let fresh = |worker: &&sidecar::Worker| {
                worker.state == "Ready" && !without.contains(&worker.pid)
            };
            let pids: Vec<u32> = workers.iter().filter(fresh).map(|w| w.pid).collect();
            if pids.len() == 2 {
                Ok(pids)
            } else {
                Err(format!("{workers:?}"))
            }
        })
        .unwrap()
    };
    let mut dead = Vec::new();
    for _ in 0..3 {
        let pids = ready(&dead);
        for pid in &pids {
            process::send(*pid, Signal::KILL).unwrap();
        }
        dead.extend(pids);
    }
    ready(&dead);
    // A worker that keeps writing is not blocked.
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], launch.port));
    http::get(address, "/fill").unwrap();
    sidecar::ctl(admin, &["reload"]).unwrap();
    let metrics = http::get(admin, "/metrics").unwrap().text();
    let dropped = metrics
        .lines()
        .find_map(|line| line.strip_prefix("scaledapp_log_lines_dropped_total "))
        .unwrap();
    assert!(dropped.parse::<u64>().unwrap() > 0, "{metrics}");
    process::send(child.0.id(), Signal::TERM).unwrap();
    wait::until_true(Duration::from_mins(1), "it ends", || {
        child.0.try_wait().unwrap().is_some()
    })
    .unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    // Only now does the test read from the pipe, which is still full.
    let mut rest = [0; 16];
    assert!(reader.read(&mut rest).unwrap() > 0);
}

#[test]
fn a_supervisor_that_cannot_start_its_app_exits_even_if_nobody_reads_stderr() {
    let mut launch = Launch::of(|_| vec!["/nonexistent/app".to_owned()]).unwrap();
    launch.options = vec!["--workers".to_owned(), "1".to_owned()];
    let (_reader, writer) = full_pipe();
    let mut command = launch.command().unwrap();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer);
    let mut child = Child(command.spawn().unwrap());
    wait::until_true(Duration::from_secs(30), "it ends", || {
        child.0.try_wait().unwrap().is_some()
    })
    .unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(127));
}

#[test]
fn lines_wait_for_a_slow_reader_by_default() {
    if !has("node") {
        return;
    }
    let sidecar = talkative(&["--workers", "1"]).ready(1).unwrap();
    http::get(sidecar.address(), "/fill").unwrap();
    // The harness reads all the time, so nothing may be lost.
    sidecar.process.says(SOON, "\n9999 xxx").unwrap();
    let metrics = http::get(sidecar.launch.admin, "/metrics").unwrap().text();
    assert!(
        metrics.contains("scaledapp_log_lines_dropped_total 0"),
        "{metrics}"
    );
}
