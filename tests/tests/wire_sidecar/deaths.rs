//! Requests that end the worker that executes them: with a supervisor alone, through a balancer and
//! two pods, and with both kinds of dispatch. `scaledapp-proxy` decides whether a request is
//! repeated, and the supervisor's module `ends` decides what ended a worker; both have unit tests.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use scaledapp_tests::balancer;
use scaledapp_tests::fixtures::node;
use scaledapp_tests::http::{self, Failure, Request, Response};
use scaledapp_tests::load::Load;
use scaledapp_tests::process::send;
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::wait;

use crate::{SOON, has};

/// Time-out for a worker's end and the repetition of its request. These take far less time, and the
/// dispatcher's own time-outs are longer.
const QUICK: Duration = Duration::from_secs(5);

fn start(options: &[&str]) -> Sidecar {
    let launch = Launch::of(|port| node("deadly.js", port)).unwrap();
    let launch = launch.with(&["--workers", "2"]).with(options);
    launch.ready(2).unwrap()
}

/// The number of workers that have ended by themselves.
fn ended(sidecar: &Sidecar) -> u64 {
    let workers = sidecar.status().unwrap();
    let restarts = |worker: &serde_json::Value| worker["restarts"].as_u64().unwrap_or(0);
    let shown = workers["workers"].as_array().unwrap().iter();
    let waiting = workers["waiting"].as_array().into_iter().flatten();
    shown.chain(waiting).map(restarts).sum()
}

fn get(to: std::net::SocketAddr, path: &str) -> Result<Response, Failure> {
    http::one_shot(to, SOON * 2, &Request::get(path))
}

/// Whether this is a 502 without the fields that are meant only for proxies.
fn is_refused(answer: &Response) -> bool {
    let says = |(name, _): &(String, String)| name.starts_with("scaledapp");
    answer.status == 502 && !answer.fields.iter().any(says)
}

#[test]
fn a_request_that_ends_its_worker_ends_two_and_no_other_request_fails() {
    if !has("node") {
        return;
    }
    let mut sidecar = start(&[]);
    let mut before = 0;
    for path in ["/throw", "/exit", "/abort", "/fault", "/kill", "/late"] {
        let load = Load {
            post_every: 0,
            path: "/slow".to_owned(),
            ..Load::on(&[sidecar.address()])
        };
        let mut answer = None;
        let report = load
            .around(50, SOON * 3, || {
                let asked = Instant::now();
                answer = Some(get(sidecar.address(), path).unwrap());
                assert!(asked.elapsed() < QUICK, "{path}: {:?}", asked.elapsed());
            })
            .unwrap();
        assert_eq!(report.failed(), 0, "{path}: {report}");
        let answer = answer.unwrap();
        assert!(is_refused(&answer), "{path}: {answer:?}");
        sidecar.wait_ready(2).unwrap();
        let now = ended(&sidecar);
        assert_eq!(now - before, 2, "{path}: {}", sidecar.process.stderr());
        before = now;
        let events = sidecar.ctl_done(&["events"]).unwrap();
        let named = format!("GET {path} ended 2 workers in ");
        assert!(events.contains(&named), "{events}");
    }
    let events = sidecar.ctl_done(&["events"]).unwrap();
    assert!(!events.contains("GET /slow"), "{events}");
    let metrics = http::get(sidecar.launch.admin, "/metrics").unwrap().text();
    assert!(metrics.contains("\nscaledapp_dispatch_fatal_requests_total "));
    for path in ["throw", "late"] {
        let line =
            format!("\nscaledapp_dispatch_path_ended_workers_total{{path=\"GET /{path}\"}} 2\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    assert!(!metrics.contains("/slow"), "{metrics}");
}

#[test]
fn a_request_that_takes_all_memory_has_two_workers_replaced() {
    if !has("node") {
        return;
    }
    let mut sidecar = start(&["--max-memory", "200Mi", "--drain-timeout", "1s"]);
    let asked = Instant::now();
    let answer = get(sidecar.address(), "/hog").unwrap();
    assert!(is_refused(&answer), "{answer:?}");
    assert!(asked.elapsed() < SOON * 2, "{:?}", asked.elapsed());
    sidecar.wait_ready(2).unwrap();
    let events = sidecar.ctl_done(&["events"]).unwrap();
    let replaced = events.matches("MaxMemory").count();
    assert_eq!(replaced, 2, "{events}");
}

#[test]
fn a_path_that_keeps_ending_workers_does_not_reach_the_last_one() {
    if !has("node") {
        return;
    }
    let sidecar = start(&[]);
    assert_eq!(get(sidecar.address(), "/throw?n=1").unwrap().status, 502);
    // Requests follow each other without a pause. Each may end a worker, but never the last worker.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (report, statuses) = std::thread::scope(|scope| {
        let hammer = scope.spawn(|| {
            let mut statuses = Vec::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let answer = get(sidecar.address(), "/throw?token=secret").unwrap();
                statuses.push(answer.status);
            }
            statuses
        });
        let load = Load {
            post_every: 0,
            rate: Some(300),
            ..Load::on(&[sidecar.address()])
        };
        let report = load.run(1200).unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (report, hammer.join().unwrap())
    });
    let ended = ended(&sidecar);
    assert!(ended < 12, "{ended} workers ended");
    assert_eq!(report.failed(), 0, "{report}");
    let refused = statuses.iter().filter(|status| **status == 503).count();
    assert!(refused * 2 > statuses.len(), "{statuses:?}");
    let events = sidecar.ctl_done(&["events"]).unwrap();
    assert!(events.contains("GET /throw ended ") && !events.contains("secret"));
}

#[test]
fn workers_that_are_killed_from_outside_cost_no_request() {
    if !has("node") {
        return;
    }
    let mut sidecar = start(&[]);
    let load = Load {
        post_every: 0,
        path: "/slow".to_owned(),
        ..Load::on(&[sidecar.address()])
    };
    let report = load
        .around(100, SOON * 3, || {
            for _ in 0..4 {
                // Both workers are killed at the same time, so that each request loses its worker
                // as often as possible.
                for pid in sidecar.pids().unwrap() {
                    // A listed worker may have ended in the meantime.
                    drop(send(pid, Signal::KILL));
                }
                wait::until(SOON, "others are there", || {
                    let status = sidecar.status().map_err(|error| error.to_string())?;
                    if status["ready"] == 2 {
                        return Ok(());
                    }
                    Err(status.to_string())
                })
                .unwrap();
                // Every request of this round must be answered before the next round; otherwise it
                // would lose its worker more often than is allowed. Before it is sent again, it
                // waits up to 230 ms for reports of the kernel and the supervisor.
                std::thread::sleep(Duration::from_millis(700));
            }
        })
        .unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    sidecar.wait_ready(2).unwrap();
    let events = sidecar.ctl_done(&["events"]).unwrap();
    assert!(!events.contains("FatalPath"), "{events}");
}

#[test]
fn an_app_that_only_closes_its_connections_ends_nothing() {
    if !has("node") {
        return;
    }
    let sidecar = start(&[]);
    let answer = get(sidecar.address(), "/close").unwrap();
    assert!(is_refused(&answer), "{answer:?}");
    assert_eq!(ended(&sidecar), 0);
    let events = sidecar.ctl_done(&["events"]).unwrap();
    assert!(!events.contains("FatalPath"), "{events}");
}

#[test]
fn through_a_balancer_and_two_pods_it_also_ends_two_workers() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let mut options = vec!["--dispatch", dispatch];
        if dispatch == "request" {
            options.extend(["--trust", "behind"]);
        }
        let mut pods = [start(&options), start(&options)];
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("endpoints.json");
        let endpoints: Vec<_> = pods
            .iter()
            .map(|pod| {
                serde_json::json!({
                    "name": format!("pod-{}", pod.launch.port),
                    "address": pod.address(),
                    "admin": pod.launch.admin,
                })
            })
            .collect();
        std::fs::write(&file, serde_json::to_vec(&endpoints).unwrap()).unwrap();
        let options = ["--endpoints-file", file.to_str().unwrap()];
        let launch = balancer::Launch::new(&options).unwrap();
        let balancer = launch.ready().unwrap();
        for path in ["/throw", "/exit"] {
            let before: u64 = pods.iter().map(ended).sum();
            let asked = Instant::now();
            let answer = get(balancer.address(), path).unwrap();
            assert!(asked.elapsed() < QUICK, "{:?}", asked.elapsed());
            assert!(is_refused(&answer), "{dispatch} {path}: {answer:?}");
            for pod in &mut pods {
                pod.wait_ready(2).unwrap();
            }
            let after: u64 = pods.iter().map(ended).sum();
            assert_eq!(after - before, 2, "{dispatch} {path}");
        }
        // Clients do not see the fields by which the dispatcher tells a balancer what to repeat.
        let answer = get(balancer.address(), "/").unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.field("scaledapp-interrupted").is_none());
        assert!(answer.field("scaledapp-not-executed").is_none());
    }
}
