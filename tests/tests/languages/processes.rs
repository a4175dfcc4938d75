//! Processes between the supervisor and the process that serves: wrappers, scripts, a parent that
//! forks, a daemon. Another test checks that many reloads leak nothing.

use std::collections::BTreeSet;

use rustix::process::Signal;
use scaledapp_tests::http::{self, Request};
use scaledapp_tests::process::send;
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{binaries, fixtures, proc, wait};

use crate::sockets::{shared, shared_over};
use crate::{DISPATCHES, SOON, answer, fixture, has, words};

/// Checks that after a reload no process of an old wrapper still runs.
fn wrapped(dispatches: &[&str], command: impl Fn(u16) -> Vec<String>) {
    shared_over(
        dispatches,
        || Launch::of(&command).unwrap(),
        |sidecar| {
            let before = proc::descendants(sidecar.process.pid());
            let old = sidecar.pids().unwrap();
            let theirs: BTreeSet<u32> =
                old.iter().flat_map(|pid| proc::descendants(*pid)).collect();
            sidecar.ctl_done(&["reload"]).unwrap();
            answer(sidecar.address());
            for pid in before
                .iter()
                .filter(|pid| old.contains(pid) || theirs.contains(pid))
            {
                wait::until_true(SOON, "the old ones are gone", || !proc::is_running(*pid))
                    .unwrap();
            }
        },
    );
}

#[test]
fn npm_start() {
    if has("npm") {
        let directory = fixture("npm");
        // The script uses PORT, which the supervisor sets to --port.
        wrapped(&["request"], |_| {
            words(&["npm", "--prefix", &directory, "--silent", "start"])
        });
    }
}

#[test]
fn a_shell_that_waits_for_the_server() {
    if has("node") {
        wrapped(&DISPATCHES, |port| {
            let app = fixtures::node("app.js", port).join(" ");
            words(&["sh", "-c", &format!("{app}; exit $?")])
        });
    }
}

#[test]
fn a_script_with_a_shebang() {
    if has("node") {
        wrapped(&["request"], |port| {
            words(&[&fixture("shebang.js"), &port.to_string()])
        });
    }
}

#[test]
fn env_before_the_program() {
    if has("node") {
        wrapped(&["connection"], |port| {
            [words(&["env", "A=1"]), fixtures::node("app.js", port)].concat()
        });
    }
}

#[test]
fn a_parent_that_binds_and_children_that_accept() {
    if !has("python3") {
        return;
    }
    let script = fixture("prefork.py");
    shared(
        || Launch::of(|port| words(&["python3", &script, &port.to_string()])).unwrap(),
        |sidecar| {
            let mut children = BTreeSet::new();
            wait::until(SOON, "several children of both parents answer", || {
                let asked: Vec<_> = (0..4)
                    .map(|_| {
                        let to = sidecar.address();
                        std::thread::spawn(move || http::one_shot(to, SOON, &Request::get("/")))
                    })
                    .collect();
                for answer in asked {
                    let answer = answer
                        .join()
                        .unwrap()
                        .map_err(|failure| failure.to_string())?;
                    children.insert(answer.json()["pid"].to_string());
                }
                if children.len() >= 3 {
                    Ok(())
                } else {
                    Err(format!("{children:?}"))
                }
            })
            .unwrap();
            sidecar.ctl_done(&["reload"]).unwrap();
            answer(sidecar.address());
        },
    );
}

/// This is a documented limit. A worker is the process that the supervisor started. If that process
/// exits after it has started a background process, the supervisor starts another worker, and gives
/// up after three starts. The background process is no longer in the worker's process group, so it
/// may survive.
#[test]
fn a_server_that_daemonises_is_not_supported() {
    if !has("python3") {
        return;
    }
    let script = fixture("daemon.py");
    for dispatch in DISPATCHES {
        let launch = Launch::of(|port| words(&["python3", &script, &port.to_string()])).unwrap();
        let daemons = format!("daemon.py {}", launch.port);
        let options = ["--workers", "1", "--dispatch", dispatch];
        let mut sidecar = launch.with(&options).start().unwrap();
        let address = sidecar.address();
        let ended = sidecar.process.wait(SOON);
        let survivors = proc::with_argument(&daemons);
        let answered = http::get(address, "/");
        for pid in &survivors {
            let _gone = send(*pid, Signal::KILL);
        }
        let ended = ended.unwrap();
        for said in [
            "exit code 0, before it was ready",
            "no worker ever became ready",
            "run the app in the foreground",
        ] {
            assert!(ended.stderr.contains(said), "{dispatch}: {}", ended.stderr);
        }
        assert_eq!(ended.code, 3, "{dispatch}: nothing was served");
        println!(
            "{dispatch}: {} survivors, asked: {answered:?}",
            survivors.len()
        );
    }
}

#[test]
fn three_hundred_reloaded_workers_leak_no_descriptor() {
    let Ok(hello) = binaries::path("scaledapp-hello-rust") else {
        println!("skipped: scaledapp-hello-rust is not built");
        return;
    };
    let hello = hello.to_string_lossy().into_owned();
    for dispatch in DISPATCHES {
        let launch = Launch::of(|_| words(&[&hello])).unwrap();
        let options = ["--workers", "30", "--dispatch", dispatch];
        let mut sidecar = launch.with(&options).ready(30).unwrap();
        let pid = sidecar.process.pid();
        sidecar.ctl_done(&["reload"]).unwrap();
        sidecar.wait_ready(30).unwrap();
        let before = proc::open_files(pid).unwrap();
        for _ in 0..5 {
            sidecar.ctl_done(&["reload"]).unwrap();
        }
        sidecar.wait_ready(30).unwrap();
        wait::until(SOON, "descriptors are closed", || {
            let now = proc::open_files(pid).unwrap();
            // The supervisor may not have closed the connection of the last `ctl` yet.
            if now <= before {
                Ok(())
            } else {
                Err(format!("{now} open, {before} before"))
            }
        })
        .unwrap();
        assert_eq!(proc::zombies(pid), Vec::<u32>::new(), "{dispatch}");
        answer(sidecar.address());
    }
}
