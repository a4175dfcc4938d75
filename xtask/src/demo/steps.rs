//! The steps of the demo: what each does to the running sample, and what clients may notice.
//!
//! The promises are those of the README; the tests in `tests/` check more.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Context;
use rustix::process::Signal;
use scaledapp_tests::dns::{self, Transport, Type};
use scaledapp_tests::http::{self, Failure};
use scaledapp_tests::load::{Method, Report};
use scaledapp_tests::process::send;
use scaledapp_tests::sidecar::Worker;
use scaledapp_tests::{proc, sidecar, wait};

use super::sample::{CLIENTS, Counted, SOON, Sample};
use crate::console::{milliseconds, note, table};

/// Number of DNS queries. The probability that one of two balancers never comes first in so many
/// random orders is one in half a million.
const QUESTIONS: u64 = 20;
/// Number of answers to print.
const SHOWN: usize = 4;
/// Workers of each pod after scaling up.
const MORE: u64 = 4;

/// One step of the story.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) title: &'static str,
    pub(super) promise: &'static str,
    pub(super) run: fn(&Sample) -> anyhow::Result<Counted>,
}

/// All steps except the last, the Ctrl-C.
pub(super) const STEPS: [Step; 6] = [
    Step {
        title: "Ask DNS for the app's name",
        promise: "each answer names all balancers, each of them first in some answers",
        run: resolve,
    },
    Step {
        title: "Steady load",
        promise: "0 failed, every worker answers",
        run: steady,
    },
    Step {
        title: "kill -9 of a worker, under load",
        promise: "0 GET failed",
        run: kill_worker,
    },
    Step {
        title: "Reload of all workers, under load",
        promise: "0 failed, every worker is new",
        run: reload,
    },
    Step {
        title: "Scale and back, under load",
        promise: "0 failed",
        run: scale,
    },
    Step {
        title: "kill -9 of a balancer, under load",
        promise: "0 refused, only requests in flight there are cut off",
        run: kill_balancer,
    },
];

fn resolve(sample: &Sample) -> anyhow::Result<Counted> {
    let state = &sample.local.state;
    let mut all: BTreeSet<IpAddr> = state
        .balancers
        .iter()
        .map(std::net::SocketAddr::ip)
        .collect();
    // One answer has at most eight addresses.
    let expected = all.len().min(8);
    let mut counted = Counted {
        sent: 1,
        ..Counted::default()
    };
    let answer = dns::ask(state.dns, Transport::Udp, &state.hostname, Type::A)?;
    counted.demand(answer.code == 0 && answer.authoritative, || {
        format!("the answer is not authoritative: {answer:?}")
    });
    if let Some((_, ttl)) = answer.addresses.first() {
        note(&format!(
            "Clients may cache an answer for {} s.",
            ttl.as_secs()
        ));
    }
    let mut first = BTreeSet::new();
    for question in 0..QUESTIONS as usize {
        counted.sent += 1;
        let answer = match dns::addresses(state.dns, &state.hostname) {
            Ok(answer) => answer,
            Err(error) => {
                counted.failed += 1;
                counted.broken.push(format!("{error:#}"));
                continue;
            }
        };
        let shown: Vec<String> = answer.iter().map(ToString::to_string).collect();
        if question < SHOWN {
            note(&format!("{} is {}", state.hostname, shown.join(", ")));
        }
        let named: BTreeSet<IpAddr> = answer.iter().copied().collect();
        counted.demand(named.len() == expected && named.is_subset(&all), || {
            format!("an answer names {}", shown.join(", "))
        });
        first.extend(answer.first().copied());
    }
    note(&format!(
        "{} queries, {} unanswered. Each answer has a new random order, so clients spread.",
        counted.sent, counted.failed
    ));
    all.retain(|address| !first.contains(address));
    // With more than two balancers, it is not unlikely that one of them is never first.
    counted.demand(all.is_empty() || expected > 2, || {
        format!("{all:?} was never named first")
    });
    Ok(counted)
}

fn steady(sample: &Sample) -> anyhow::Result<Counted> {
    let ((), report) = sample.under_load(|| Ok(()))?;
    let mut counted = Counted::of(&report).none_failed();
    if report.tally.is_empty() {
        note(
            "The app's answer does not contain its pid, so the demo cannot tell which worker answered.",
        );
        return Ok(counted);
    }
    let mut rows = Vec::new();
    for pod in &sample.local.state.pods {
        for worker in sidecar::workers(pod.admin)? {
            let pid = worker.pid.to_string();
            let answers = report.tally.get(&pid).copied().unwrap_or(0);
            counted.demand(answers > 0, || {
                format!("worker {pid} of {} answered nothing", pod.name)
            });
            let share = answers as f64 * 100.0 / report.ok.max(1) as f64;
            rows.push([
                pod.name.clone(),
                worker.slot.to_string(),
                pid,
                answers.to_string(),
                format!("{share:.1} %"),
            ]);
        }
    }
    note(&table(["POD", "WORKER", "PID", "ANSWERS", "SHARE"], rows));
    Ok(counted)
}

fn kill_worker(sample: &Sample) -> anyhow::Result<Counted> {
    let pod = sample.local.state.pods.first().context("a pod")?;
    let ((), report) = sample.under_load(|| {
        let workers = sidecar::workers(pod.admin)?;
        let victim = workers.first().context("the pod has a worker")?;
        let (pid, slot) = (victim.pid, victim.slot);
        let begun = Instant::now();
        send(pid, Signal::KILL)?;
        let successor = wait::until(SOON, "another worker takes its place", || {
            let workers = sidecar::workers(pod.admin).map_err(|error| format!("{error:#}"))?;
            let successor = workers.iter().find(|worker| {
                worker.slot == slot && worker.pid != pid && worker.state == "Ready"
            });
            successor
                .map(|worker| worker.pid)
                .ok_or_else(|| format!("{workers:?}"))
        })?;
        note(&format!(
            "$ kill -9 {pid}: worker {slot} of {}. Process {successor} serves in its place after {}.",
            pod.name,
            milliseconds(begun.elapsed())
        ));
        Ok(())
    })?;
    let mut counted = Counted::of(&report);
    let gets = report.failed_of(Method::Get);
    counted.demand(gets == 0, || format!("{gets} GETs failed"));
    // A POST must not be sent twice, so the POSTs that the worker was executing are lost: at most
    // one from each client.
    let posts = report.failed_of(Method::Post);
    counted.demand(posts <= 2 * CLIENTS as u64, || {
        format!("{posts} POSTs failed, more than the worker can have been executing")
    });
    Ok(counted)
}

fn reload(sample: &Sample) -> anyhow::Result<Counted> {
    let pids = |workers: Vec<Worker>| -> BTreeSet<u32> {
        workers.into_iter().map(|worker| worker.pid).collect()
    };
    let before = pids(sample.local.workers()?);
    let ((), report) = sample.under_load(|| command(sample, &["reload", &sample.name]))?;
    let after = pids(sample.local.workers()?);
    let mut counted = Counted::of(&report).none_failed();
    counted.demand(before.is_disjoint(&after), || {
        format!("old workers still run: {before:?}, now {after:?}")
    });
    Ok(counted)
}

fn scale(sample: &Sample) -> anyhow::Result<Counted> {
    let back = sample.workers;
    // Scaling to the same number would show nothing.
    let more = if back == MORE { MORE + 1 } else { MORE };
    let ((), report) = sample.under_load(|| {
        for workers in [more, back] {
            command(sample, &["scale", &sample.name, &workers.to_string()])?;
            sample.local.wait_ready(workers)?;
        }
        Ok(())
    })?;
    Ok(Counted::of(&report).none_failed())
}

fn kill_balancer(sample: &Sample) -> anyhow::Result<Counted> {
    let local = &sample.local;
    let address = *local.state.balancers.first().context("a balancer")?;
    let ((), report) = sample.under_load(|| {
        let victim = local
            .balancer(address)
            .with_context(|| format!("no process serves {address}"))?;
        let begun = Instant::now();
        send(victim, Signal::KILL)?;
        wait::until_true(SOON, "it is gone", || !proc::is_running(victim))?;
        wait::until(SOON, "another balancer serves", || {
            http::get(address, "/").map_err(|failure| failure.to_string())
        })?;
        note(&format!(
            "$ kill -9 {victim}: the balancer at {address}. Another answers there after {}.",
            milliseconds(begun.elapsed())
        ));
        Ok(())
    })?;
    let mut counted = Counted::of(&report);
    let refused = report.failed_with(&Failure::Refused);
    if refused == 0 {
        note(
            "No connection was refused: its supervisor held the socket, and connections waited there.",
        );
    }
    counted.demand(refused == 0, || format!("{refused} requests were refused"));
    let most = forwarding(&report, local.state.balancers.len());
    let failed = report.failed();
    counted.demand(failed <= most, || {
        format!("{failed} requests failed, but it can have been forwarding only {most}")
    });
    Ok(counted)
}

/// The largest number of requests that one balancer can be forwarding: one from each of its
/// clients.
fn forwarding(report: &Report, balancers: usize) -> u64 {
    let of_each_load = CLIENTS.div_ceil(balancers.max(1)) as u64;
    // There are two loads, and no more requests can be forwarded than were sent.
    report.sent.min(2 * of_each_load)
}

/// Runs a `scaledapp` command and prints it with the time that it took.
fn command(sample: &Sample, words: &[&str]) -> anyhow::Result<()> {
    let begun = Instant::now();
    sample.command(words)?;
    note(&format!(
        "$ scaledapp {}: done after {}.",
        words.join(" "),
        milliseconds(begun.elapsed())
    ));
    Ok(())
}
