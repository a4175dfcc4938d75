//! Decides what a signal to the supervisor means.
//!
//! The signals for a stop or a reload have the same meaning in every binary (`scaledapp-runtime`);
//! TTIN and TTOU change the number of workers. The signals in [`OTHERS`] have a meaning only for
//! the app, so they are sent to the processes that handle them, and logged if no process does.
//! Without a handler, these signals would end the supervisor; for a supervisor that is PID 1, the
//! kernel would drop them (`pid_namespaces(7)`). In both cases there would be no message.

use std::fs;

use rustix::process::{Pid, Signal as Number, kill_process};
use scaledapp_runtime::{Signal, Signals};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::connection::open_connections;
use crate::input::{Input, forward};

/// Signals that have a meaning only for apps, with their names. TSTP is left out, because it
/// belongs to the shell's job control.
const OTHERS: [(Number, &str); 10] = [
    (Number::USR1, "USR1"),
    (Number::USR2, "USR2"),
    (Number::ABORT, "ABRT"),
    (Number::ALARM, "ALRM"),
    (Number::VTALARM, "VTALRM"),
    (Number::PROF, "PROF"),
    (Number::IO, "IO"),
    (Number::XCPU, "XCPU"),
    (Number::XFSZ, "XFSZ"),
    (Number::STKFLT, "STKFLT"),
];

/// Sends signals to the loop as inputs from now on. The stop signal of workers also stops
/// the supervisor, because an image that uses it for the app names it as its `STOPSIGNAL`.
///
/// # Errors
/// A handler cannot be installed.
pub(crate) fn watch(
    stop_signal: Number,
    inputs: &mpsc::UnboundedSender<Input>,
) -> std::io::Result<()> {
    let mut stops = Signals::new()?;
    let mut interrupts = 0;
    forward(inputs.clone(), async move || {
        Some(match stops.next().await {
            Signal::Hangup => Input::Reload,
            Signal::Interrupt => {
                interrupts += 1;
                Input::Stop {
                    quick: interrupts > 1,
                }
            }
            Signal::Terminate => Input::Stop { quick: false },
        })
    });
    for (number, step) in [(Number::TTIN, 1), (Number::TTOU, -1)] {
        let mut steps = signal(SignalKind::from_raw(number.as_raw()))?;
        forward(inputs.clone(), async move || {
            steps.recv().await.map(|()| Input::Step(step))
        });
    }
    for (number, _) in OTHERS {
        let mut others = signal(SignalKind::from_raw(number.as_raw()))?;
        let stops = number == stop_signal;
        forward(inputs.clone(), async move || {
            others.recv().await.map(|()| {
                if stops {
                    Input::Stop { quick: false }
                } else {
                    Input::PassOn(number)
                }
            })
        });
    }
    Ok(())
}

/// Sends a signal to every process of these groups that handles it. A process
/// without a handler would be terminated by the signal.
pub(crate) fn pass_on(number: Number, groups: &[u32]) {
    let known = OTHERS.iter().find(|(other, _)| *other == number);
    let name = known.map_or("?", |(_, name)| name);
    let members = open_connections::members(groups).into_iter();
    let handling = members.filter(|(pid, _)| handles(*pid, number));
    let mut count = 0;
    for (pid, _) in handling {
        if let Some(pid) = Pid::from_raw(pid as i32)
            && kill_process(pid, number).is_ok()
        {
            count += 1;
        }
    }
    if count > 0 {
        tracing::info!(
            signal = name,
            processes = count,
            "a signal is passed on to the app"
        );
    } else {
        tracing::warn!(
            signal = name,
            "a signal had no effect, because the app does not handle it; TERM, INT and QUIT stop \
             the supervisor, HUP reloads, and with `--stop-signal {name}` this signal would stop \
             it, too"
        );
    }
}

/// Whether the process has a handler for the signal (`SigCgt` in `proc_pid_status(5)`).
fn handles(pid: u32, number: Number) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| caught(&status) >> (number.as_raw() - 1) & 1 == 1)
}

/// The mask of handled signals; bit 0 is signal 1.
fn caught(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handled_signals_are_read_from_their_mask() {
        let status = "Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000a02\n";
        assert_eq!(caught(status), 0xa02);
        assert_eq!(caught("Name:\tx\n"), 0);
        // The test harness handles none of them in this process.
        assert!(!handles(std::process::id(), Number::USR2));
    }
}
