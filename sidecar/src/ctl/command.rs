//! `ctl` as a command: asks, and prints for people or for programs.
//!
//! What is printed looks as `tables` says; the language is in `ctl`.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{CtlArgs, CtlVerb, Output};
use crate::ctl::tables;
use crate::ctl::{self, Request};

/// Between the two looks from which a table's CPU% follows. The kernel counts in
/// ticks of 10 ms, so a shorter time would show noise.
const LOOK: Duration = Duration::from_millis(400);

/// How long anything may take for which the supervisor names no time of its own.
const TIMEOUT: Duration = Duration::from_mins(5);
/// `logs` without a line, which looks like a fault and is none.
const NO_LINES: &str = "Nothing was written to stderr. What is written to stdout is not kept: it goes to \
    the supervisor's own stdout (its terminal, its journal, `kubectl logs`).";

/// Whoever read the output has hung up (`ctl top | head`): there is nobody to
/// tell anything.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output: {0}")]
pub struct HungUp(#[from] std::io::Error);

/// Carries out one `ctl` command and prints to `out`.
///
/// # Errors
/// Nobody answered, it was not done, or [`HungUp`].
pub fn run(args: &CtlArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let timeout = args.timeout.unwrap_or(TIMEOUT);
    let ask = |request: &Request| ctl::call(args.admin, request, timeout);
    // What is done only after boots, drains and stops.
    let tell = |request: &Request| {
        let patience = || {
            let told = ask(&Request::Describe { slot: None }).ok()?;
            let seconds = told["patienceSeconds"].as_f64()?;
            Duration::try_from_secs_f64(seconds).ok()
        };
        let timeout = args
            .timeout
            .unwrap_or_else(|| patience().map_or(TIMEOUT, |most| most.max(TIMEOUT)));
        ctl::call(args.admin, request, timeout)
    };
    let text = match &args.verb {
        CtlVerb::Status { output } => match output {
            Output::Json => line(&ask(&Request::Status)?),
            Output::Table => looked_at_twice(&ask, LOOK)?,
        },
        CtlVerb::Top { interval, once } => {
            if *once || !std::io::stdout().is_terminal() {
                looked_at_twice(&ask, LOOK)?
            } else {
                return top(&ask, *interval, out);
            }
        }
        CtlVerb::Describe { slot, output } => {
            let answer = ask(&Request::Describe { slot: *slot })?;
            shown(&answer, *output, tables::describe)
        }
        CtlVerb::Events { output } => shown(&ask(&Request::Events)?, *output, tables::events),
        CtlVerb::Logs { slot } => {
            let text = tables::tails(&ask(&Request::Logs { slot: *slot })?);
            if text.is_empty() {
                // On stderr: what is piped on holds lines of workers only.
                scaledapp_runtime::say(NO_LINES);
            }
            text
        }
        CtlVerb::Scale { workers } => done(&tell(&Request::Scale { workers: *workers })?),
        CtlVerb::Reload => done(&tell(&Request::Reload)?),
        CtlVerb::Restart { slot } => done(&tell(&Request::Restart { slot: *slot })?),
        CtlVerb::Signal { signal, slot } => done(&ask(&Request::Signal {
            number: signal.as_raw(),
            slot: *slot,
        })?),
    };
    Ok(out.write_all(text.as_bytes()).map_err(HungUp)?)
}

fn line(answer: &Value) -> String {
    format!("{answer}\n")
}

/// What is done has nothing to say.
fn done(_answer: &Value) -> String {
    String::new()
}

fn shown(answer: &Value, output: Output, table: impl Fn(&Value) -> String) -> String {
    match output {
        Output::Json => line(answer),
        Output::Table => table(answer),
    }
}

fn looked_at_twice(
    ask: &impl Fn(&Request) -> anyhow::Result<Value>,
    pause: Duration,
) -> anyhow::Result<String> {
    let before = ask(&Request::Status)?;
    let asked = Instant::now();
    std::thread::sleep(pause);
    let now = ask(&Request::Status)?;
    Ok(tables::status(&now, Some((&before, asked.elapsed()))))
}

/// Prints the table again and again until it is interrupted.
fn top(
    ask: &impl Fn(&Request) -> anyhow::Result<Value>,
    interval: Duration,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    // Home, then clear what is below (ECMA-48 CUP and ED).
    const CLEAR: &str = "\x1b[H\x1b[J";
    let mut pause = LOOK.min(interval);
    loop {
        let text = looked_at_twice(ask, pause)?;
        write!(out, "{CLEAR}{text}").map_err(HungUp)?;
        out.flush().map_err(HungUp)?;
        pause = interval;
    }
}
