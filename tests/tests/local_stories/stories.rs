//! Faults and changes under load, and what clients may notice.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use rustix::process::Signal;
use scaledapp_tests::dns::{self, Transport, Type};
use scaledapp_tests::http::{self, Failure};
use scaledapp_tests::load::{Method, Report};
use scaledapp_tests::process::send;
use scaledapp_tests::{proc, sidecar, wait};

use crate::{SOON, Story, story};

fn none_failed(reports: &[Report]) {
    for report in reports {
        assert_eq!(report.failed(), 0, "{report}");
    }
}

/// The process ids of a slot's balancer and of the supervisor that started it.
fn balancer_of(story: &Story, address: SocketAddr) -> (u32, u32) {
    let mark = format!("--listen {address}");
    let root = story.local.process.pid();
    let mut found = None;
    wait::until_true(SOON, "the balancer's process is seen", || {
        found = proc::descendants(root).into_iter().find(|pid| {
            let words = proc::command_line(*pid);
            words.contains("scaledapp-balancer run")
                && words.contains(&mark)
                && !words.contains("scaledapp-sidecar")
        });
        found.is_some()
    })
    .unwrap();
    let balancer = found.unwrap();
    let parent = proc::descendants(root)
        .into_iter()
        .find(|pid| proc::children(*pid).contains(&balancer))
        .unwrap();
    (balancer, parent)
}

#[test]
fn requests_reach_every_worker_through_dns_and_both_balancers() {
    let Some(story) = story() else { return };
    let state = &story.local.state;
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = dns::ask(state.dns, transport, &state.hostname, Type::A).unwrap();
        assert!(answer.authoritative && answer.code == 0, "{answer:?}");
        let named: BTreeSet<_> = answer
            .addresses
            .iter()
            .map(|(address, _)| *address)
            .collect();
        assert_eq!(named, state.balancers.iter().map(SocketAddr::ip).collect());
    }
    let reports = story.under_load("steady", || {});
    none_failed(&reports);
    let workers: BTreeSet<String> = story
        .local
        .workers()
        .unwrap()
        .iter()
        .map(|worker| worker.pid.to_string())
        .collect();
    for report in &reports {
        let answered: BTreeSet<String> = report.tally.keys().cloned().collect();
        assert_eq!(answered, workers);
    }
    for pod in &state.pods {
        let rss = |pid: Option<u32>| {
            pid.and_then(proc::resident_bytes).unwrap_or(0) as f64 / f64::from(1 << 20)
        };
        let supervisor = proc::descendants(story.local.process.pid())
            .into_iter()
            .find(|pid| proc::command_line(*pid).contains(&format!("--admin {}", pod.admin)));
        println!(
            "{}: supervisor {:.2} MiB resident",
            pod.name,
            rss(supervisor)
        );
    }
    for address in &state.balancers {
        let (balancer, holder) = balancer_of(&story, *address);
        let rss = |pid: u32| proc::resident_bytes(pid).unwrap_or(0) as f64 / f64::from(1 << 20);
        println!(
            "{address}: balancer {:.2} MiB, its supervisor {:.2} MiB resident",
            rss(balancer),
            rss(holder)
        );
    }
}

#[test]
fn a_killed_worker_fails_no_get() {
    let Some(story) = story() else { return };
    let workers = story.local.workers().unwrap();
    let per_pod = (workers.len() / story.local.state.pods.len()) as u64;
    let kills = 4;
    let reports = story.under_load("kill -9 of a worker, 4 times", || {
        // The pods take turns. A request is sent at most four times; if each new worker of one pod
        // were killed immediately, a single request could be in the worker at each kill.
        for kill in 0..kills {
            let workers = story.local.workers().unwrap();
            let victim = workers[kill as usize % workers.len()].pid;
            send(victim, Signal::KILL).unwrap();
            wait::until_true(SOON, "it is replaced", || {
                story
                    .local
                    .workers()
                    .is_ok_and(|workers| workers.iter().all(|worker| worker.pid != victim))
            })
            .unwrap();
            story.local.wait_ready(per_pod).unwrap();
        }
    });
    for report in &reports {
        assert_eq!(report.failed_of(Method::Get), 0, "{report}");
        // At each kill, every client can have had one POST in the worker.
        assert!(report.failed_of(Method::Post) <= kills * 4, "{report}");
    }
}

#[test]
fn a_reload_fails_no_request() {
    let Some(story) = story() else { return };
    let before = story.local.workers().unwrap();
    let reports = story.under_load("3 reloads of every pod", || {
        for _ in 0..3 {
            story.local.ctl_all(&["reload"]).unwrap();
        }
    });
    none_failed(&reports);
    let after = story.local.workers().unwrap();
    assert!(
        before
            .iter()
            .all(|old| after.iter().all(|new| new.pid != old.pid)),
        "{before:?} {after:?}"
    );
}

#[test]
fn a_broken_release_fails_the_reload_and_no_request() {
    let Some(story) = story() else { return };
    let before = story.local.workers().unwrap();
    let reports = story.under_load("reload of a broken release", || {
        fs::write(&story.release, "broken-2").unwrap();
        for pod in &story.local.state.pods {
            let ended = sidecar::ctl(pod.admin, &["reload"]).unwrap();
            assert_eq!(ended.code, 1, "{ended:?}");
            assert!(
                ended.stderr.contains("Error: broken-2 cannot start"),
                "{}",
                ended.stderr
            );
        }
    });
    none_failed(&reports);
    assert_eq!(story.local.workers().unwrap(), before);
}

#[test]
fn scaling_up_and_down_fails_no_request() {
    let Some(story) = story() else { return };
    let reports = story.under_load("scale to 1, 4, 1 in every pod", || {
        for workers in ["1", "4", "1"] {
            story.local.ctl_all(&["scale", workers]).unwrap();
        }
    });
    none_failed(&reports);
    story.local.wait_ready(1).unwrap();
}

#[test]
fn a_killed_balancer_refuses_no_connection() {
    let Some(story) = story() else { return };
    let address = story.local.state.balancers[0];
    let kills = 2;
    let reports = story.under_load("kill -9 of a balancer, 2 times", || {
        for _ in 0..kills {
            let (victim, _) = balancer_of(&story, address);
            send(victim, Signal::KILL).unwrap();
            wait::until_true(SOON, "it is gone", || !proc::is_running(victim)).unwrap();
            wait::until(SOON, "another serves", || http::get(address, "/")).unwrap();
        }
    });
    for report in &reports {
        assert_eq!(report.failed_with(&Failure::Refused), 0, "{report}");
        // Two of the four clients use that balancer, with one request each.
        assert!(report.failed() <= kills * 2, "{report}");
    }
}

#[test]
fn an_interrupt_ends_everything_and_leaves_nothing() {
    let Some(mut story) = story() else { return };
    let below = proc::descendants(story.local.process.pid());
    assert!(below.len() > 8, "{below:?}");
    let status = story.local.command(&["status"]).unwrap();
    assert_eq!(status.code, 0, "{}", status.stderr);
    for pod in &story.local.state.pods {
        assert!(status.stdout.contains(&pod.name), "{}", status.stdout);
    }
    story.local.process.signal(Signal::INT).unwrap();
    let ended = story.local.process.wait(SOON).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let left: Vec<String> = below
        .into_iter()
        .filter(|pid| proc::is_running(*pid))
        .map(proc::command_line)
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let state = &story.local.state;
    let served = state
        .balancers
        .iter()
        .chain(state.pods.iter().flat_map(|pod| [&pod.address, &pod.admin]));
    for address in served.chain([&state.dns]) {
        assert_eq!(http::get(*address, "/"), Err(Failure::Refused), "{address}");
    }
    assert!(
        !story.local.workdir.exists(),
        "the work directory still exists"
    );
    let names: Vec<_> = fs::read_dir(story.directory.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(!names.iter().any(|name| name == "state.json"), "{names:?}");
}
