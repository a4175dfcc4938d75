//! The story that every runtime goes through: two workers on a port that is built into the app,
//! then a reload, more workers, fewer workers and a kill, all under load. This file decides when a
//! port counts as shared, and prints one line for each kind of dispatch, from which
//! `cargo xtask test` makes a table.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use scaledapp_tests::http::{self, Request};
use scaledapp_tests::load::{Load, Report, Running};
use scaledapp_tests::process::send;
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{proc, wait};

use crate::SOON;
use crate::runtimes::{Found, Runtime};

/// The environment variable that is `long` for more requests.
const FORM: &str = "SCALEDAPP_LANGUAGES";

/// The size of the load.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Least number of requests for one kind of dispatch, without those during the kill.
    requests: u64,
    /// Requests per second of all clients together.
    rate: u32,
}

impl Size {
    fn asked() -> Self {
        if std::env::var(FORM).is_ok_and(|form| form == "long") {
            Self {
                requests: 2000,
                rate: 500,
            }
        } else {
            Self {
                requests: 300,
                rate: 200,
            }
        }
    }
}

/// The results with one kind of dispatch.
#[derive(Debug)]
struct Outcome {
    mechanism: String,
    handed_over: Report,
    /// The load of GETs during the kill of a worker.
    killed: Option<Report>,
    /// Standard error of the supervisor and the workers.
    stderr: String,
}

/// Runs the story with each kind of dispatch of the runtime.
pub(crate) fn prove(runtime: &Runtime) {
    let found = match runtime.find() {
        Ok(found) => found,
        Err(reason) => {
            println!("{reason}");
            return;
        }
    };
    let size = Size::asked();
    let told = |&dispatch: &&'static str| (dispatch, tell(&found, dispatch, size));
    let outcomes: Vec<_> = runtime.over.iter().map(told).collect();
    for (dispatch, outcome) in &outcomes {
        println!("{}", line(runtime, &found, dispatch, outcome));
    }
    for (dispatch, outcome) in outcomes {
        let outcome = outcome.unwrap_or_else(|error| panic!("{dispatch}: {error:#}"));
        let report = &outcome.handed_over;
        let stderr = &outcome.stderr;
        assert_eq!(outcome.mechanism, "notify", "{dispatch}");
        assert_eq!(report.failed(), 0, "{dispatch}: {report}\n{stderr}");
        if let Some(report) = &outcome.killed {
            assert_eq!(
                report.failed(),
                0,
                "{dispatch}, kill -9: {report}\n{stderr}"
            );
        }
    }
}

/// A line of the table: runtime, version, mechanism, dispatch, requests, failed, note.
fn line(
    runtime: &Runtime,
    found: &Found,
    dispatch: &str,
    outcome: &anyhow::Result<Outcome>,
) -> String {
    let (mechanism, requests, failed, note) = match outcome {
        Ok(outcome) => {
            let both = match &outcome.killed {
                Some(killed) => outcome.handed_over.clone().and(killed),
                None => outcome.handed_over.clone(),
            };
            let mechanism = outcome.mechanism.clone();
            let kinds = if outcome.killed.is_some() {
                ""
            } else {
                "one-shot only"
            };
            let notes = [kinds, runtime.note].into_iter();
            let notes: Vec<&str> = notes.filter(|note| !note.is_empty()).collect();
            (mechanism, both.sent, both.failed(), notes.join("; "))
        }
        Err(error) => {
            let error = format!("{error:#}");
            let first = error.lines().next().unwrap_or("").to_owned();
            ("-".to_owned(), 0, 0, format!("FAILED: {first}"))
        }
    };
    let (name, version) = (runtime.name, &found.version);
    format!(
        "matrix: {name} | {version} | {mechanism} | {dispatch} | {requests} | {failed} | {note}"
    )
}

fn tell(found: &Found, dispatch: &str, size: Size) -> anyhow::Result<Outcome> {
    let launch = Launch::of(|port| (found.command)(port))?;
    let launch = launch.with(&["--workers", "2", "--dispatch", dispatch]);
    let mut sidecar = launch.ready(2)?;
    let status = sidecar.status()?;
    let mechanism = status["mechanism"].as_str().context("mechanism")?;
    ensure!(status["dispatch"] == dispatch, "{status}");
    every_worker_answers(&sidecar)?;

    let request = dispatch == "request";
    let to = sidecar.address();
    let loads = start(to, request, size, 4)?;
    let more = size.requests / 10;
    all(&loads, more)?;
    sidecar.ctl_done(&["reload"])?;
    all(&loads, more)?;
    for workers in ["3", "2"] {
        sidecar.ctl_done(&["scale", workers])?;
        all(&loads, more)?;
    }
    sidecar.wait_ready(2)?;
    every_worker_answers(&sidecar)?;
    for load in &loads {
        load.wait_sent(size.requests / loads.len() as u64 + 1, SOON)?;
    }
    let handed_over = stop(loads);
    let killed = if request {
        Some(kill(&mut sidecar, size)?)
    } else {
        None
    };
    Ok(Outcome {
        mechanism: mechanism.to_owned(),
        handed_over,
        killed,
        stderr: sidecar.process.stderr(),
    })
}

/// Kills a worker under load. The load has no POSTs, because a POST that a killed worker was
/// executing must not be repeated and therefore fails.
fn kill(sidecar: &mut Sidecar, size: Size) -> anyhow::Result<Report> {
    let loads = start(sidecar.address(), true, size, 0)?;
    all(&loads, 10)?;
    let victim = *sidecar.pids()?.first().context("there are workers")?;
    send(victim, Signal::KILL)?;
    wait::until_true(SOON, "it is replaced", || {
        sidecar.pids().is_ok_and(|pids| !pids.contains(&victim))
    })?;
    sidecar.wait_ready(2)?;
    all(&loads, 10)?;
    Ok(stop(loads))
}

/// Starts clients that open a connection for each request and, if `kept`, others that keep theirs.
fn start(to: SocketAddr, kept: bool, size: Size, post_every: u64) -> anyhow::Result<Vec<Running>> {
    let kinds: &[bool] = if kept { &[true, false] } else { &[false] };
    let one = |&keep_alive: &bool| {
        let load = Load {
            keep_alive,
            clients: 2,
            post_every,
            rate: Some(size.rate / kinds.len() as u32),
            timeout: SOON,
            ..Load::on(&[to])
        };
        load.start()
    };
    kinds.iter().map(one).collect()
}

fn all(loads: &[Running], more: u64) -> anyhow::Result<()> {
    loads
        .iter()
        .try_for_each(|load| load.wait_more(more / loads.len() as u64, SOON))
}

fn stop(loads: Vec<Running>) -> Report {
    let reports = loads.into_iter().map(Running::stop);
    reports.fold(Report::default(), |sum, report| sum.and(&report))
}

/// Sends requests on new connections until each worker, or a process that it started, has answered.
pub(crate) fn every_worker_answers(sidecar: &Sidecar) -> anyhow::Result<()> {
    let to = sidecar.address();
    let mut seen = BTreeSet::new();
    wait::until(SOON, "every worker answers", || -> Result<(), String> {
        // Six requests are sent at the same time, because one idle worker could answer a whole
        // sequence.
        let asked: Vec<_> = (0..6)
            .map(|_| std::thread::spawn(move || http::one_shot(to, SOON, &Request::get("/"))))
            .collect();
        for answer in asked {
            let answer = answer.join().map_err(|_| "a client panicked")?;
            let answer = answer.map_err(|failure| failure.to_string())?;
            if answer.status != 200 {
                return Err(format!("{}: {}", answer.status, answer.text()));
            }
            seen.extend(answer.json()["pid"].as_u64().map(|pid| pid as u32));
        }
        let workers = sidecar.pids().map_err(|error| error.to_string())?;
        let silent: Vec<u32> = workers
            .into_iter()
            .filter(|worker| {
                !seen.contains(worker) && proc::descendants(*worker).is_disjoint(&seen)
            })
            .collect();
        if silent.is_empty() {
            Ok(())
        } else {
            Err(format!("{silent:?} did not, {seen:?} did"))
        }
    })
}
