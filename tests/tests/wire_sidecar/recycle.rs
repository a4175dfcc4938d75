//! Workers that grow, have served enough requests, hang, fork or listen on a second port, and how
//! the supervisor reacts. The module `limits` decides when it reacts, and has unit tests.

use std::collections::BTreeSet;

use scaledapp_tests::http::{self, Request};
use scaledapp_tests::load::{Load, Method};
use scaledapp_tests::memory_limit::Limited;
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{fixtures, ports, wait};

use crate::{SOON, all_answer, has};

fn greedy(options: &[&str]) -> Launch {
    Launch::of(|port| fixtures::node("greedy.js", port))
        .unwrap()
        .with(options)
}

fn ask(sidecar: &Sidecar, path: &str) {
    let response = http::one_shot(sidecar.address(), SOON, &Request::get(path)).unwrap();
    assert_eq!(response.status, 200, "{path}");
}

#[test]
fn a_worker_that_grows_is_replaced_and_no_request_is_lost() {
    if !has("node") {
        return;
    }
    for keep_alive in [true, false] {
        let mut sidecar = greedy(&["--workers", "2", "--max-memory", "150M"])
            .ready(2)
            .unwrap();
        let before: BTreeSet<u32> = sidecar.pids().unwrap().into_iter().collect();
        let load = Load {
            keep_alive,
            clients: 4,
            ..Load::on(&[sidecar.address()])
        };
        let grow = || {
            for _ in 0..2 {
                ask(&sidecar, "/grow?n=200");
            }
            wait::until(SOON, "the grown workers are gone", || {
                let now = sidecar.pids().map_err(|error| format!("{error:#}"))?;
                let left = now.iter().filter(|pid| before.contains(pid)).count();
                // Both requests may have reached the same worker.
                if left < 2 {
                    Ok(())
                } else {
                    Err(format!("{now:?}"))
                }
            })
            .unwrap();
            sidecar.wait_ready(2).unwrap();
        };
        let report = load.around(200, SOON, grow).unwrap();
        println!("growth over --max-memory, keep-alive {keep_alive}: {report}");
        assert_eq!(report.failed(), 0, "{report}");
        assert!(sidecar.process.stderr().contains("more than 150 MiB"));
        // The supervisor stopped the grown workers; they did not crash.
        assert!(
            sidecar
                .workers()
                .unwrap()
                .iter()
                .all(|worker| worker.restarts == 0)
        );
    }
}

#[test]
fn a_worker_that_has_served_enough_is_replaced_and_no_request_is_lost() {
    if !has("node") {
        return;
    }
    let mut sidecar = greedy(&["--workers", "2", "--max-requests", "400"])
        .ready(2)
        .unwrap();
    let before: BTreeSet<u32> = sidecar.pids().unwrap().into_iter().collect();
    let running = Load::on(&[sidecar.address()]).start().unwrap();
    wait::until(SOON * 3, "both are replaced", || {
        let now = sidecar.pids().map_err(|error| format!("{error:#}"))?;
        if now.iter().any(|pid| before.contains(pid)) {
            return Err(format!("{now:?}"));
        }
        Ok(())
    })
    .unwrap();
    let report = running.stop();
    sidecar.wait_ready(2).unwrap();
    println!("--max-requests: {report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(sidecar.process.stderr().contains("it has answered"));
}

#[test]
fn a_hung_worker_is_killed_while_a_slow_one_is_left_alone() {
    if !has("node") {
        return;
    }
    let mut launch = greedy(&["--workers", "2", "--hang-timeout", "1s"]);
    launch.command = fixtures::node("app.js", launch.port);
    let slow = launch.ready(2).unwrap();
    // The worker sends nothing for three times the hang timeout, but its event loop runs.
    let pids = slow.pids().unwrap();
    ask(&slow, "/sleep?ms=3000");
    assert_eq!(slow.pids().unwrap(), pids);

    let mut sidecar = greedy(&["--workers", "2", "--hang-timeout", "1s"])
        .ready(2)
        .unwrap();
    let address = sidecar.address();
    let before = sidecar.pids().unwrap();
    let hung = std::thread::spawn(move || {
        http::one_shot(address, SOON * 3, &Request::post("/block", b"x"))
    });
    // GETs that the hung worker does not answer must be answered by the other worker.
    let load = Load {
        timeout: SOON * 2,
        ..Load::on(&[address])
    };
    let running = load.start().unwrap();
    wait::until(SOON * 2, "it is replaced", || {
        let now = sidecar.pids().map_err(|error| format!("{error:#}"))?;
        let left = now.iter().filter(|pid| before.contains(pid)).count();
        if left == 1 {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .unwrap();
    sidecar.wait_ready(2).unwrap();
    let report = running.stop();
    println!("one of two workers hangs: {report}");
    assert_eq!(report.failed_of(Method::Get), 0, "{report}");
    assert!(sidecar.process.stderr().contains("no sign of life"));
    // The client whose POST made the worker hang gets an answer, too.
    assert_eq!(
        hung.join().unwrap().map(|response| response.status),
        Ok(502)
    );
}

/// Tests a leak of buffers, which have no limit, and a leak of the heap, which has a limit at which
/// Node ends.
#[test]
fn a_leak_never_lets_the_kernel_kill_the_container() {
    for path in ["/leak?n=50", "/leak-heap?n=50"] {
        leak(path);
    }
}

fn leak(path: &str) {
    if !has("node") {
        return;
    }
    let Some(limited) = Limited::new(512) else {
        return;
    };
    let mut launch = greedy(&["--workers", "2"]);
    launch.wrapper = limited.wrapper();
    let mut sidecar = launch.ready(2).unwrap();
    let load = Load {
        clients: 4,
        keep_alive: false,
        ..Load::on(&[sidecar.address()])
    };
    let running = load.start().unwrap();
    for _ in 0..3 {
        let before = sidecar.pids().unwrap();
        ask(&sidecar, path);
        wait::until(SOON * 4, "the leaking workers are replaced", || {
            let now = sidecar.pids().map_err(|error| format!("{error:#}"))?;
            let new = now.iter().any(|pid| !before.contains(pid));
            if new { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .unwrap();
        sidecar.wait_ready(2).unwrap();
    }
    let report = running.stop();
    println!("three leaks of 50 MB/s in 512 MiB, {path}: {report}");
    let crashes: u64 = sidecar
        .workers()
        .unwrap()
        .iter()
        .map(|worker| worker.restarts)
        .sum();
    println!("  workers that ended before they were recycled: {crashes}");
    assert_eq!(limited.kills(), 0, "the kernel was first");
    assert_eq!(report.failed_of(Method::Get), 0, "{report}");
    drop(sidecar);
}

#[test]
fn without_a_supervisor_the_same_leak_is_killed_by_the_kernel() {
    if !has("node") {
        return;
    }
    let Some(limited) = Limited::new(256) else {
        return;
    };
    // This is the negative control.
    let address = ports::local().unwrap();
    let mut words = limited.wrapper();
    words.extend(fixtures::node("greedy.js", address.port()));
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]);
    let mut bare = scaledapp_tests::process::Process::spawn(command).unwrap();
    wait::until(SOON, "it serves", || http::get(address, "/leak?n=200")).unwrap();
    let ended = bare.wait(SOON * 2).unwrap();
    assert!(limited.kills() > 0, "{ended:?}");
}

#[test]
fn a_second_port_is_served_by_all_workers_if_it_is_shared() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let second = ports::local().unwrap();
        let share = second.port().to_string();
        let mut launch = greedy(&["--workers", "2", "--dispatch", dispatch, "--share", &share]);
        launch.command.push(share.clone());
        let sidecar = launch.ready(2).unwrap();
        all_answer(sidecar.address(), &sidecar.pids().unwrap());
        let mut seen = BTreeSet::new();
        wait::until(SOON, "both serve the second port", || {
            let asked: Vec<_> = (0..4)
                .map(|_| {
                    std::thread::spawn(move || http::one_shot(second, SOON, &Request::get("/")))
                })
                .collect();
            for response in asked {
                let response = response
                    .join()
                    .unwrap()
                    .map_err(|error| format!("{error:?}"))?;
                seen.insert(response.text());
            }
            if seen.len() == 2 {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .unwrap();
        // A reload also loses nothing on the second port.
        let load = Load {
            keep_alive: false,
            clients: 2,
            ..Load::on(&[second])
        };
        let reload = || drop(sidecar.ctl_done(&["reload"]).unwrap());
        let report = load.around(100, SOON, reload).unwrap();
        println!("reload, second port, {dispatch}: {report}");
        assert_eq!(report.failed(), 0, "{report}");
    }
}

#[test]
fn the_log_has_the_cure_for_an_app_that_forks_by_itself() {
    if !has("node") {
        return;
    }
    let sidecar = greedy(&["--workers", "1"]).ready(1).unwrap();
    ask(&sidecar, "/fork");
    sidecar
        .process
        .says(SOON, "remove cluster.fork from the app")
        .unwrap();
}

#[test]
fn workers_get_their_share_of_the_cores() {
    if !has("node") {
        return;
    }
    let mut launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    launch
        .environment
        .push(("OMP_NUM_THREADS".into(), "7".into()));
    // With as many workers as cores, each worker gets one thread.
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    let workers = cores.to_string();
    let sidecar = launch
        .with(&["--workers", &workers, "--max-memory", "200M"])
        .ready(cores)
        .unwrap();
    let answer = http::get(sidecar.address(), "/environment").unwrap().json();
    let environment = &answer["environment"];
    assert_eq!(environment["GOMAXPROCS"], "1", "{environment}");
    assert_eq!(environment["OMP_NUM_THREADS"], "7");
    assert_eq!(environment["NODE_OPTIONS"], "--max-old-space-size=250");
}
