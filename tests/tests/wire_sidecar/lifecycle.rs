//! Workers that crash, fail to boot or leave children behind, and a supervisor that is stopped or
//! killed.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scaledapp_tests::http::{self, Connection, Failure, Request};
use scaledapp_tests::load::{Load, Method};
use scaledapp_tests::process::{Process, send};
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{fixtures, proc, wait};

use crate::{SOON, has, pid_of};

fn app(options: &[&str]) -> Launch {
    Launch::of(|port| fixtures::node("app.js", port))
        .unwrap()
        .with(options)
}

#[test]
fn a_killed_worker_costs_only_what_it_was_executing() {
    if !has("node") {
        return;
    }
    for keep_alive in [true, false] {
        let mut sidecar = app(&["--workers", "2"]).ready(2).unwrap();
        let load = Load {
            keep_alive,
            clients: 4,
            path: "/sleep?ms=5".to_owned(),
            ..Load::on(&[sidecar.address()])
        };
        let running = load.start().unwrap();
        let kills = 4;
        for _ in 0..kills {
            running.wait_more(100, SOON).unwrap();
            let victim = sidecar.pids().unwrap()[0];
            send(victim, Signal::KILL).unwrap();
            wait::until_true(SOON, "it is replaced", || {
                sidecar.pids().is_ok_and(|pids| !pids.contains(&victim))
            })
            .unwrap();
            sidecar.wait_ready(2).unwrap();
        }
        running.wait_more(100, SOON).unwrap();
        let report = running.stop();
        println!("{kills} × kill -9 of one of two workers, keep-alive {keep_alive}: {report}");
        assert_eq!(report.failed_of(Method::Get), 0, "{report}");
        // At each kill, every client can have had one POST in the worker.
        assert!(report.failed_of(Method::Post) <= kills * 4, "{report}");
        assert_eq!(report.failed_with(&Failure::Refused), 0, "{report}");
    }
}

#[test]
fn without_a_supervisor_a_killed_worker_refuses_connections() {
    if !has("node") {
        return;
    }
    // The negative control: the same app and load, without a supervisor.
    let address = scaledapp_tests::ports::local().unwrap();
    let words = fixtures::node("app.js", address.port());
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]);
    let mut bare = Process::spawn(command).unwrap();
    wait::until(SOON, "it serves", || http::get(address, "/")).unwrap();
    let running = Load {
        keep_alive: false,
        clients: 2,
        ..Load::on(&[address])
    }
    .start()
    .unwrap();
    running.wait_more(50, SOON).unwrap();
    bare.signal(Signal::KILL).unwrap();
    bare.wait(SOON).unwrap();
    wait::until_true(SOON, "failures are seen", || running.failed() > 10).unwrap();
    let report = running.stop();
    println!("control, kill -9 of a bare node: {report}");
    assert!(report.failed_with(&Failure::Refused) > 0, "{report}");
}

#[test]
fn waiting_connections_survive_the_death_of_the_only_worker() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let sidecar = app(&["--workers", "1", "--dispatch", dispatch])
            .ready(1)
            .unwrap();
        let address = sidecar.address();
        let worker = pid_of(address);
        // The worker is stopped, so new connections wait in the listen queue, or in the dispatcher
        // as requests that have no byte of an answer.
        send(worker, Signal::STOP).unwrap();
        let waiting: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(move || http::one_shot(address, SOON, &Request::get("/"))))
            .collect();
        let queued = || {
            let table = fs::read_to_string("/proc/net/tcp").unwrap()
                + &fs::read_to_string("/proc/net/tcp6").unwrap();
            let port = format!(":{:04X} 01", address.port());
            table.matches(&port).count() >= 8
        };
        wait::until_true(SOON, "eight connections wait", queued).unwrap();
        send(worker, Signal::KILL).unwrap();
        for answer in waiting {
            let answer = answer.join().unwrap();
            assert_eq!(
                answer.as_ref().map(|response| response.status),
                Ok(200),
                "{dispatch}: {answer:?}"
            );
        }
        assert_ne!(pid_of(address), worker);
    }
}

#[test]
fn a_worker_that_keeps_dying_is_restarted_with_growing_pauses_and_recovers() {
    if !has("node") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let release = directory.path().join("release");
    fs::write(&release, "good").unwrap();
    let launch = Launch::of(|port| {
        let mut words = fixtures::node("release.js", port);
        words.push(release.to_string_lossy().into_owned());
        words
    });
    let mut sidecar = launch.unwrap().with(&["--workers", "1"]).ready(1).unwrap();
    fs::write(&release, "broken").unwrap();
    send(sidecar.pids().unwrap()[0], Signal::KILL).unwrap();
    // Once a worker has been ready, the supervisor never exits by itself.
    let failures = || {
        sidecar
            .process
            .stderr()
            .matches("Error: broken cannot start")
            .count()
    };
    let start = Instant::now();
    wait::until_true(SOON, "five attempts", || failures() >= 5).unwrap();
    // The pauses are 100, 200 and 400 ms, each up to a fifth shorter or longer.
    assert!(
        start.elapsed() >= Duration::from_millis(400),
        "{:?}",
        start.elapsed()
    );
    assert!(sidecar.process.is_running());
    assert_eq!(
        http::get(sidecar.launch.admin, "/readyz").unwrap().status,
        503
    );
    fs::write(&release, "good").unwrap();
    sidecar.wait_ready(1).unwrap();
    assert!(sidecar.workers().unwrap()[0].restarts >= 5);
    pid_of(sidecar.address());
}

#[test]
fn a_worker_that_never_listens_is_replaced_after_its_boot_timeout() {
    if !has("sleep") {
        return;
    }
    let launch = Launch::of(|_| vec!["sleep".to_owned(), "1000".to_owned()]).unwrap();
    let options = [
        "--workers",
        "1",
        "--boot-timeout",
        "200ms",
        "--stop-grace",
        "1s",
    ];
    let ended = launch.with(&options).run(Duration::from_secs(30)).unwrap();
    // TERM ended the app in all three attempts. The exit code is that of the app, as shells show
    // it.
    assert_eq!(ended.code, 143, "{}", ended.stderr);
}

#[test]
fn a_stop_lets_running_requests_end_and_exits_with_0() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let options = [
            "--workers",
            "2",
            "--dispatch",
            dispatch,
            "--drain-quiet",
            "200ms",
        ];
        let mut sidecar = app(&options).ready(2).unwrap();
        let address = sidecar.address();
        // Connections are counted only once a second, so the request must last longer.
        let slow = std::thread::spawn(move || {
            http::one_shot(address, SOON, &Request::get("/sleep?ms=4000"))
        });
        let busy = || {
            let line = sidecar.status().map_err(|error| error.to_string())?;
            let busy = line["workers"]
                .as_array()
                .is_some_and(|workers| workers.iter().any(|worker| worker["inFlight"] != 0));
            if busy { Ok(()) } else { Err(line.to_string()) }
        };
        wait::until(SOON, "it is in flight", busy).unwrap();
        sidecar.process.signal(Signal::TERM).unwrap();
        wait::until_true(SOON, "it is unready", || {
            http::get(sidecar.launch.admin, "/readyz").is_ok_and(|response| response.status == 503)
        })
        .unwrap();
        let slow = slow.join().unwrap();
        assert_eq!(
            slow.as_ref().map(|response| response.status),
            Ok(200),
            "{dispatch}: {slow:?}"
        );
        let ended = sidecar.process.wait(SOON).unwrap();
        assert_eq!(ended.code, 0, "{dispatch}: {}", ended.stderr);
    }
}

/// Stops a supervisor under load; no request may be lost.
fn stop_under_load(dispatch: &str, keep_alive: bool) {
    let options = [
        "--workers",
        "2",
        "--dispatch",
        dispatch,
        "--drain-quiet",
        "300ms",
        "--drain-timeout",
        "3s",
    ];
    let mut sidecar = app(&options).ready(2).unwrap();
    let load = Load {
        keep_alive,
        clients: 2,
        rate: Some(100),
        ..Load::on(&[sidecar.address()])
    };
    let running = load.start().unwrap();
    running.wait_more(50, SOON).unwrap();
    sidecar.process.signal(Signal::TERM).unwrap();
    assert_eq!(sidecar.process.wait(SOON).unwrap().code, 0);
    let report = running.stop();
    println!("stop under load, {dispatch} dispatch, keep-alive {keep_alive}: {report}");
    assert_eq!(report.lost(), 0, "{report}");
}

#[test]
fn a_stop_under_load_fails_no_request() {
    if !has("node") {
        return;
    }
    stop_under_load("request", true);
    stop_under_load("request", false);
}

#[test]
fn a_stop_under_load_fails_no_one_shot_connection_under_connection_dispatch() {
    if !has("node") {
        return;
    }
    stop_under_load("connection", false);
}

#[test]
fn a_second_interrupt_ends_without_waiting() {
    if !has("node") {
        return;
    }
    let mut sidecar = app(&["--workers", "1", "--stop-grace", "500ms"])
        .ready(1)
        .unwrap();
    let mut slow = Connection::open(sidecar.address(), SOON).unwrap();
    slow.write(b"GET /sleep?ms=60000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let busy = || {
        sidecar
            .status()
            .is_ok_and(|status| status["workers"][0]["inFlight"] == 1)
    };
    wait::until_true(SOON, "it is in flight", busy).unwrap();
    let worker = sidecar.pids().unwrap()[0];
    sidecar.process.signal(Signal::INT).unwrap();
    sidecar.process.says(SOON, "draining").unwrap();
    assert!(sidecar.process.is_running());
    sidecar.process.signal(Signal::INT).unwrap();
    sidecar.process.wait(Duration::from_secs(5)).unwrap();
    assert!(!proc::is_running(worker));
}

#[test]
fn a_worker_that_ignores_the_stop_signal_is_killed_after_its_grace() {
    if !has("sh") {
        return;
    }
    // The shell ignores TERM, and so do its children.
    let launch = Launch::of(|port| {
        let app = fixtures::node("app.js", port).join(" ");
        vec![
            "sh".to_owned(),
            "-c".to_owned(),
            format!("trap '' TERM; exec {app}"),
        ]
    });
    let options = [
        "--workers",
        "1",
        "--stop-grace",
        "300ms",
        "--drain-quiet",
        "100ms",
    ];
    let mut sidecar = launch.unwrap().with(&options).ready(1).unwrap();
    let worker = sidecar.pids().unwrap()[0];
    sidecar.process.signal(Signal::TERM).unwrap();
    assert_eq!(sidecar.process.wait(SOON).unwrap().code, 0);
    assert!(!proc::is_running(worker));
}

/// A shell that TERM ends, and that otherwise waits for the end of its app.
fn wrapped(app: &'static str, before: &'static str) -> Launch {
    let launch = Launch::of(|port| {
        let app = fixtures::node(app, port).join(" ");
        let script = format!("({before} exec {app}); true");
        vec!["sh".to_owned(), "-c".to_owned(), script]
    });
    launch.unwrap()
}

#[test]
fn an_app_behind_a_wrapper_that_ends_first_has_its_grace() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let options = [
            "--workers",
            "2",
            "--dispatch",
            dispatch,
            "--drain-quiet",
            "100ms",
        ];
        let mut sidecar = wrapped("leaver.js", "").with(&options).ready(2).unwrap();
        sidecar.ctl_done(&["reload"]).unwrap();
        let said = |text: String| text.matches("has left").count();
        wait::until_true(SOON, "both old apps have left", || {
            said(sidecar.process.stderr()) == 2
        })
        .unwrap();
        sidecar.process.signal(Signal::TERM).unwrap();
        let ended = sidecar.process.wait(SOON).unwrap();
        assert_eq!(ended.code, 0, "{dispatch}: {}", ended.stderr);
        assert_eq!(
            said(ended.stderr.clone()),
            4,
            "{dispatch}: {}",
            ended.stderr
        );
    }
}

#[test]
fn an_app_behind_a_wrapper_that_ends_first_is_killed_after_the_grace() {
    if !has("node") {
        return;
    }
    let options = [
        "--workers",
        "1",
        "--stop-grace",
        "300ms",
        "--drain-quiet",
        "100ms",
    ];
    let launch = wrapped("app.js", "trap '' TERM;").with(&options);
    let mut sidecar = launch.ready(1).unwrap();
    let wrapper = sidecar.pids().unwrap()[0];
    let app = pid_of(sidecar.address());
    assert_ne!(wrapper, app);
    sidecar.process.signal(Signal::TERM).unwrap();
    assert_eq!(sidecar.process.wait(SOON).unwrap().code, 0);
    assert!(!proc::is_running(app));
}

#[test]
fn a_killed_supervisor_leaves_no_worker_behind() {
    if !has("node") {
        return;
    }
    // The app runs below a shell, so a grandchild of the supervisor must end as well.
    let launch = Launch::of(|port| {
        let app = fixtures::node("app.js", port).join(" ");
        vec!["sh".to_owned(), "-c".to_owned(), format!("{app}; true")]
    });
    let mut sidecar = launch.unwrap().with(&["--workers", "2"]).ready(2).unwrap();
    let below = proc::descendants(sidecar.process.pid());
    assert!(below.len() >= 4, "two shells and two apps: {below:?}");
    sidecar.process.signal(Signal::KILL).unwrap();
    assert_eq!(sidecar.process.wait(SOON).unwrap().code, 137);
    for pid in below {
        wait::until(SOON, "it is gone", || {
            if proc::is_running(pid) {
                Err(proc::command_line(pid))
            } else {
                Ok(())
            }
        })
        .unwrap();
    }
    assert_eq!(http::get(sidecar.address(), "/"), Err(Failure::Refused));
}

#[test]
fn a_thousand_workers_started_and_ended_leak_no_descriptor() {
    if !has("go") {
        return;
    }
    let mut sidecar = Launch::of(|port| fixtures::go(port).unwrap())
        .unwrap()
        .with(&["--workers", "1"])
        .ready(1)
        .unwrap();
    let round = || {
        for workers in ["64", "1"] {
            sidecar.ctl_done(&["scale", workers]).unwrap();
        }
    };
    round();
    let pid = sidecar.process.pid();
    let settled = |sidecar: &scaledapp_tests::sidecar::Sidecar| {
        wait::until_true(SOON, "the others are gone", || {
            sidecar.pids().is_ok_and(|pids| pids.len() == 1)
        })
        .unwrap();
        proc::open_files(pid).unwrap()
    };
    let before = settled(&sidecar);
    for _ in 0..16 {
        round();
    }
    let look = || {
        let now = settled(&sidecar);
        if now <= before {
            Ok(())
        } else {
            Err(format!("{now} open, {before} before 1008 workers"))
        }
    };
    wait::until(SOON, "descriptors are closed", look).unwrap();
    sidecar.wait_ready(1).unwrap();
    assert_eq!(proc::zombies(pid), Vec::<u32>::new());
}
