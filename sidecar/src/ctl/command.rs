//! `ctl` as a command: sends a request and prints the answer for users or programs.
//!
//! `tables` decides what tables look like.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use scaledapp_wire::{Description, Events, Request, Status, Tails, WorkerCount};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{client, tables};
use crate::cli::{CtlArgs, CtlVerb, Output, ScaleArg};

/// The time between the two samples from which a table's CPU% is calculated. The kernel
/// counts in ticks of 10 ms, so a shorter time would show noise.
const CPU_INTERVAL: Duration = Duration::from_millis(400);

/// The timeout of requests, unless the supervisor reports that they may take longer.
const TIMEOUT: Duration = Duration::from_mins(5);
/// Printed by `logs` if there are no lines, because an empty output would look like an
/// error.
const NO_LINES: &str = "Nothing was written to stderr. What is written to stdout is not kept: it goes to \
    the supervisor's own stdout (its terminal, its journal, `kubectl logs`).";
/// Printed by `scale 0`, which looks like any other number but means an outage.
const NO_WORKERS: &str = "No worker runs any more. The port stays open: requests wait for --queue-timeout and then \
    get 503 (under Connection dispatch, connections wait). `ctl scale N` starts workers again.";

/// The reader of the output has closed it (`ctl top | head`), so nothing more can be printed.
#[derive(Debug, thiserror::Error)]
#[error("the output has no reader: {0}")]
pub struct HungUp(#[from] std::io::Error);

/// Carries out one `ctl` command and prints to `out`.
///
/// # Errors
/// No supervisor answered, the request failed, or [`HungUp`].
pub fn run(args: &CtlArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let asking = Asking {
        admin: args.admin,
        timeout: args.timeout.unwrap_or(TIMEOUT),
    };
    let text = match &args.verb {
        CtlVerb::Status { output } => match output {
            Output::Json => asking.line(&Request::Status)?,
            Output::Table => looked_at_twice(&asking, CPU_INTERVAL)?,
        },
        CtlVerb::Top { interval, once } => {
            if *once || !std::io::stdout().is_terminal() {
                looked_at_twice(&asking, CPU_INTERVAL)?
            } else {
                return top(&asking, *interval, out);
            }
        }
        CtlVerb::Describe { slot, output } => {
            let request = Request::Describe { slot: *slot };
            match output {
                Output::Json => asking.line(&request)?,
                Output::Table => tables::describe(&asking.ask::<Description>(&request)?),
            }
        }
        CtlVerb::Events { output } => match output {
            Output::Json => asking.line(&Request::Events)?,
            Output::Table => tables::events(&asking.ask::<Events>(&Request::Events)?),
        },
        CtlVerb::Logs { slot } => {
            let text = tables::tails(&asking.ask::<Tails>(&Request::Logs { slot: *slot })?);
            if text.is_empty() {
                // On stderr, because a pipe from stdout must contain lines of workers only.
                scaledapp_runtime::say(NO_LINES);
            }
            text
        }
        CtlVerb::Scale { workers } => {
            let request = match *workers {
                ScaleArg::Number(workers) => Request::Scale { workers },
                ScaleArg::Range(range) => Request::Workers {
                    spec: Some(range.to_string()),
                },
                ScaleArg::Reset => Request::Workers { spec: None },
            };
            let text = asking.tell(args.timeout, &request)?;
            if is_none(*workers) {
                scaledapp_runtime::say(NO_WORKERS);
            }
            text
        }
        CtlVerb::Reload => asking.tell(args.timeout, &Request::Reload)?,
        CtlVerb::Restart { slot } => {
            asking.tell(args.timeout, &Request::Restart { slot: *slot })?
        }
        CtlVerb::Signal { signal, slot } => {
            let (number, slot) = (signal.as_raw(), *slot);
            asking.tell(Some(asking.timeout), &Request::Signal { number, slot })?
        }
    };
    Ok(out.write_all(text.as_bytes()).map_err(HungUp)?)
}

/// Whether no worker shall run.
fn is_none(workers: ScaleArg) -> bool {
    workers == ScaleArg::Number(WorkerCount::To(0))
}

/// The supervisor's address, and how long it may take to answer.
struct Asking {
    admin: SocketAddr,
    timeout: Duration,
}

impl Asking {
    fn ask<T: DeserializeOwned>(&self, request: &Request) -> anyhow::Result<T> {
        client::call(self.admin, request, self.timeout)
    }

    /// The raw answer, including fields that only a newer supervisor knows.
    fn line(&self, request: &Request) -> anyhow::Result<String> {
        Ok(format!("{}\n", self.ask::<Value>(request)?))
    }

    /// Sends a request that leads to boots, drains and stops. Waits for `timeout`; if that is
    /// `None`, for as long as these may take according to the supervisor, but at least for
    /// [`TIMEOUT`]. Returns an empty text.
    fn tell(&self, timeout: Option<Duration>, request: &Request) -> anyhow::Result<String> {
        let timeout = timeout.unwrap_or_else(|| {
            let patience = self.patience().unwrap_or(TIMEOUT);
            patience.max(TIMEOUT)
        });
        let _done: Value = client::call(self.admin, request, timeout)?;
        Ok(String::new())
    }

    fn patience(&self) -> Option<Duration> {
        let request = Request::Describe { slot: None };
        let description: Description = self.ask(&request).ok()?;
        Duration::try_from_secs_f64(description.patience_seconds?).ok()
    }
}

fn looked_at_twice(asking: &Asking, pause: Duration) -> anyhow::Result<String> {
    let before: Status = asking.ask(&Request::Status)?;
    let asked = Instant::now();
    std::thread::sleep(pause);
    let now = asking.ask(&Request::Status)?;
    Ok(tables::status(&now, Some((&before, asked.elapsed()))))
}

/// Prints the table again and again until the command is interrupted.
fn top(asking: &Asking, interval: Duration, out: &mut impl Write) -> anyhow::Result<()> {
    // Moves to the top left corner, then clears everything below (ECMA-48 CUP and ED).
    const CLEAR: &str = "\x1b[H\x1b[J";
    let mut pause = CPU_INTERVAL.min(interval);
    loop {
        let text = looked_at_twice(asking, pause)?;
        write!(out, "{CLEAR}{text}").map_err(HungUp)?;
        out.flush().map_err(HungUp)?;
        pause = interval;
    }
}
