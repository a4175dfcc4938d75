//! `cargo xtask demo`: chooses the app, runs the steps in order, prints the summary, and checks
//! that no process, port or file remains at the end.
//!
//! `steps` has the steps and their promises; `sample` sends the load and counts.

mod sample;
mod steps;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use scaledapp_tests::local::Local;
use scaledapp_tests::{binaries, http, proc};

use crate::console::{heading, milliseconds, note, say, seconds, table};
use crate::interrupt::Interrupt;
use crate::{cargo, compile};
use sample::{Counted, SOON, Sample};
use steps::STEPS;

/// The programs that the samples need, and the samples, in order of preference.
const SAMPLES: [(&str, &str); 2] = [("node", "hello-node"), ("python3", "hello-python")];
/// The sample for a machine without those programs; the build compiles it.
const FALLBACK: &str = "hello-rust";

const END: &str = "Ctrl-C";
const END_PROMISE: &str = "exit code 0, no process, port or file left";

/// The result of a step.
#[derive(Debug)]
struct Outcome {
    title: &'static str,
    promise: &'static str,
    counted: Counted,
}

/// Builds, runs the demo, and returns whether every promise was kept.
///
/// # Errors
/// The file does not exist, or the build or the start fails.
pub(crate) fn run(app: Option<PathBuf>, keep: bool) -> anyhow::Result<bool> {
    let file = match app {
        Some(file) => std::path::absolute(file)?,
        None => sample_file(),
    };
    ensure!(
        file.is_file(),
        "{} does not exist: give --app a file with one ScaledApp",
        file.display()
    );
    if std::env::var_os(binaries::OVERRIDE).is_none() {
        return Err(with_binaries_of(&compile::run_local()?));
    }
    let begun = Instant::now();
    let interrupt = Interrupt::watch()?;
    let directory = tempfile::tempdir()?;
    let mut sample = start(&file, directory.path())?;
    let mut outcomes = Vec::new();
    for step in &STEPS {
        if interrupt.is_set() || !sample.is_running() {
            break;
        }
        outcomes.push(perform(
            outcomes.len() + 1,
            step.title,
            step.promise,
            || (step.run)(&sample),
        ));
    }
    let whole = outcomes.len() == STEPS.len();
    if keep && whole && !interrupt.is_set() {
        hold(&sample, directory.path(), &interrupt);
    }
    let words = last_words(&sample);
    outcomes.push(perform(outcomes.len() + 1, END, END_PROMISE, || {
        end(&mut sample)
    }));
    let kept = summary(&outcomes);
    if !kept || !whole {
        heading("The last lines of scaledapp local");
        note(&words);
    }
    let took = if keep {
        String::new()
    } else {
        format!(
            " The demo took {} after the build.",
            seconds(begun.elapsed())
        )
    };
    say(&match (kept, whole) {
        (true, true) => format!("\nAll {} promises were kept.{took}", outcomes.len()),
        (true, false) => "\nThe demo ended before its last step.".to_owned(),
        (false, _) => {
            "\nA promise was broken. On a machine that is busy with something else, try again; \
             otherwise it is a bug: please report all of this."
                .to_owned()
        }
    });
    Ok(kept && whole)
}

/// Replaces this process by the same command with the binaries of `directory`. Returns only if that
/// fails.
fn with_binaries_of(directory: &Path) -> anyhow::Error {
    let again = || -> anyhow::Result<std::io::Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1));
        Ok(command.env(binaries::OVERRIDE, directory).exec())
    };
    let error = again().map_or_else(|error| error, anyhow::Error::from);
    error.context("the demo cannot be started")
}

/// The preferred sample that this machine can run.
fn sample_file() -> PathBuf {
    let best = SAMPLES
        .into_iter()
        .find(|(program, _)| cargo::works(program));
    let example = best.map_or(FALLBACK, |(_, example)| example);
    binaries::workspace()
        .join("examples")
        .join(example)
        .join("scaledapp.yaml")
}

fn start(file: &Path, directory: &Path) -> anyhow::Result<Sample> {
    let shown = file
        .strip_prefix(binaries::workspace())
        .unwrap_or(file)
        .display();
    heading("Start: pods, balancers and DNS on this machine");
    note(&format!("$ scaledapp local {shown}"));
    // hello-rust is found through PATH, as in the README.
    let ours = binaries::directory();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: OsString =
        std::env::join_paths(std::env::split_paths(&path).chain(std::iter::once(ours)))
            .context("PATH cannot be extended: a directory has a colon in its name")?;
    let local = Local::start_with(file, directory, &[("PATH", path)])
        .context("the sample does not start")?;
    let took = local.took;
    let sample = Sample::of(local)?;
    let state = &sample.local.state;
    note(&format!(
        "Ready after {}: {} pods with {} each, {} balancers, DNS.",
        seconds(took),
        state.pods.len(),
        workers(sample.workers),
        state.balancers.len(),
    ));
    let balancers: Vec<String> = state.balancers.iter().map(ToString::to_string).collect();
    note(&format!("Balancers: {}", balancers.join(", ")));
    for pod in &state.pods {
        note(&format!("Pod {}: {}", pod.name, pod.address));
    }
    note(&format!("DNS: {} at {}", state.hostname, state.dns));
    if !sample.posts {
        note("The app does not echo a POST to /, so only GETs are sent.");
    }
    Ok(sample)
}

/// `1 worker`, `2 workers`.
fn workers(count: u64) -> String {
    if count == 1 {
        "1 worker".to_owned()
    } else {
        format!("{count} workers")
    }
}

/// Runs a step and prints its result.
fn perform(
    number: usize,
    title: &'static str,
    promise: &'static str,
    act: impl FnOnce() -> anyhow::Result<Counted>,
) -> Outcome {
    heading(&format!("{number}. {title}"));
    let begun = Instant::now();
    let counted = act().unwrap_or_else(|error| Counted {
        broken: vec![format!("{error:#}")],
        ..Counted::default()
    });
    for reason in &counted.broken {
        note(&format!("BROKEN: {reason}"));
    }
    let verdict = if counted.broken.is_empty() {
        "Kept"
    } else {
        "NOT KEPT"
    };
    note(&format!(
        "Promise: {promise}. {verdict}. ({})",
        seconds(begun.elapsed())
    ));
    Outcome {
        title,
        promise,
        counted,
    }
}

/// Keeps the app running until Ctrl-C, or until it ends by itself.
fn hold(sample: &Sample, directory: &Path, interrupt: &Interrupt) {
    let state = &sample.local.state;
    let (ip, port) = (state.dns.ip(), state.dns.port());
    heading("The app keeps running. Try in another terminal:");
    if let Some(first) = state.balancers.first() {
        note(&format!("curl http://{first}/"));
    }
    note(&format!("dig @{ip} -p {port} {} +short", state.hostname));
    let binaries = binaries::directory();
    note(&format!("export PATH={}:$PATH", binaries.display()));
    let file = directory.join("state.json");
    note(&format!("export SCALEDAPP_STATE_FILE={}", file.display()));
    note("scaledapp status");
    note(&format!("scaledapp scale {} 4", sample.name));
    note(&format!("scaledapp reload {}", sample.name));
    note("\nCtrl-C here stops it.");
    while !interrupt.is_set() && sample.is_running() {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The last lines that the sample has written to standard error, for an error report.
fn last_words(sample: &Sample) -> String {
    let said = sample.local.process.stderr();
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Shows the status, sends an interrupt, and checks that no process, port or file remains.
fn end(sample: &mut Sample) -> anyhow::Result<Counted> {
    note(&format!("$ scaledapp status {}", sample.name));
    let status = sample.command(&["status", &sample.name])?;
    note(&status);
    let below = proc::descendants(sample.local.process.pid());
    let begun = Instant::now();
    sample.local.process.signal(Signal::INT)?;
    let ended = sample.local.process.wait(SOON)?;
    note(&format!(
        "Ctrl-C: {} processes drained and ended in {}.",
        below.len() + 1,
        milliseconds(begun.elapsed())
    ));
    let mut counted = Counted::default();
    counted.demand(ended.code == 0, || {
        format!("scaledapp local exited with {}", ended.code)
    });
    for pid in below.into_iter().filter(|pid| proc::is_running(*pid)) {
        let words = proc::command_line(pid);
        counted.demand(false, || format!("process {pid} still runs: {words}"));
    }
    let state = &sample.local.state;
    let pods = state.pods.iter().flat_map(|pod| [pod.address, pod.admin]);
    for address in state.balancers.iter().copied().chain(pods) {
        let answer = http::get(address, "/");
        counted.demand(answer == Err(http::Failure::Refused), || {
            format!("something still listens on {address}")
        });
    }
    counted.demand(!sample.local.workdir.exists(), || {
        format!("{} still exists", sample.local.workdir.display())
    });
    Ok(counted)
}

/// Prints the table at the end. Returns whether every promise was kept.
fn summary(outcomes: &[Outcome]) -> bool {
    heading("Summary");
    let rows = outcomes.iter().enumerate().map(|(index, outcome)| {
        let counted = &outcome.counted;
        let number = |count: u64| match counted.sent {
            0 => "-".to_owned(),
            _ => count.to_string(),
        };
        [
            format!("{}. {}", index + 1, outcome.title),
            number(counted.sent),
            number(counted.failed),
            counted.gap.map_or_else(|| "-".to_owned(), milliseconds),
            outcome.promise.to_owned(),
            if counted.broken.is_empty() {
                "yes"
            } else {
                "NO"
            }
            .to_owned(),
        ]
    });
    let header = ["STEP", "SENT", "FAILED", "LONGEST GAP", "PROMISE", "KEPT"];
    say(&table(header, rows.collect()));
    outcomes
        .iter()
        .all(|outcome| outcome.counted.broken.is_empty())
}
