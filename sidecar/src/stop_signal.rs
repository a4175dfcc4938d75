//! Sends the stop signal to a worker whose threads are all stopped. No thread should accept a
//! connection before the signal takes effect.
//!
//! One thread of a process takes a signal for the process. The kernel prefers the first
//! thread (`complete_signal` in kernel/signal.c), but not while it is stopped: then the
//! thread that happens to continue first takes the signal, while the others are already
//! back at work. Node, which exits at the signal in whichever thread takes it, lost 2 of 60
//! connections that arrived in that moment. So the signal is sent to threads:
//! - to all of them if its action is the default one, which no program observes;
//! - to the first where the program has a handler, as the kernel does if that thread runs;
//!   with a second thread, the handler would run twice, which many apps take as "end
//!   immediately".
//!
//! If the first thread blocks the signal, or the worker is not stopped, the signal is sent
//! to the process. The engine decides when a worker is to stop.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::connection::open_connections::{is_stopped, members};
use crate::process::signal_group;

/// The receiver of a signal within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Process,
    FirstThread,
    AllThreads,
}

/// Sends `signal` to all processes of a worker's group.
pub(crate) fn send(group: u32, signal: Signal) {
    if !is_stopped(group) {
        signal_group(group, signal);
        return;
    }
    for (pid, _) in members(&[group]) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let receiver = if is_stopped(pid) {
            receiver(&status, signal)
        } else {
            Receiver::Process
        };
        let is_sent = match receiver {
            Receiver::Process => false,
            Receiver::FirstThread => is_sent(pid, pid, signal),
            Receiver::AllThreads => {
                let sent = threads(pid).filter(|thread| is_sent(pid, *thread, signal));
                sent.count() > 0
            }
        };
        if !is_sent && let Some(pid) = Pid::from_raw(pid as i32) {
            let _gone = kill_process(pid, signal);
        }
    }
}

fn is_sent(process: u32, thread: u32, signal: Signal) -> bool {
    scaledapp_sys::thread::signal(process, thread, signal.as_raw()).is_ok()
}

fn threads(pid: u32) -> impl Iterator<Item = u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    let names = threads.flatten().flatten().map(|thread| thread.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok())
}

/// Chooses the receiver by the first thread's masks in `proc_pid_status(5)`, where bit 0 is
/// signal 1.
fn receiver(status: &str, signal: Signal) -> Receiver {
    let has = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.map(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
    };
    match (has("SigBlk:"), has("SigIgn:"), has("SigCgt:")) {
        (Some(false), Some(false), Some(false)) => Receiver::AllThreads,
        (Some(false), Some(false), Some(true)) => Receiver::FirstThread,
        _ => Receiver::Process,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// Starts an app with two threads, which treats TERM as the Python statement `handler` says,
    /// and stops it. Returns `None` if there is no `python3`.
    fn stopped(handler: &str) -> Option<Child> {
        let script = format!(
            "import signal, threading, time\n\
             {handler}\n\
             threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n\
             print('up', flush=True)\n\
             time.sleep(60)"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]).process_group(0);
        let mut app = command.stdout(Stdio::piped()).spawn().ok()?;
        let mut line = String::new();
        let output = app.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        signal_group(app.id(), Signal::STOP);
        let start = Instant::now();
        while !is_stopped(app.id()) {
            assert!(start.elapsed() < Duration::from_secs(10), "it still runs");
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(app)
    }

    /// How many threads have TERM pending, and whether the whole process has.
    fn pending(pid: u32) -> (usize, bool) {
        let has = |status: &str, name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            u64::from_str_radix(line.unwrap().trim(), 16).unwrap() & (1 << 14) != 0
        };
        let statuses: Vec<String> = threads(pid)
            .map(|thread| fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap())
            .collect();
        let of_threads = statuses.iter().filter(|status| has(status, "SigPnd:"));
        (of_threads.count(), has(&statuses[0], "ShdPnd:"))
    }

    #[test]
    fn no_thread_of_a_stopped_worker_runs_before_it_has_the_signal() {
        let blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])";
        for (handler, wanted) in [
            ("", (2, false)),
            (
                "signal.signal(signal.SIGTERM, lambda *_: exit(0))",
                (1, false),
            ),
            (blocked, (0, true)),
            ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", (0, false)),
        ] {
            let Some(mut app) = stopped(handler) else {
                println!("skipped: there is no python3");
                return;
            };
            send(app.id(), Signal::TERM);
            let told = pending(app.id());
            signal_group(app.id(), Signal::KILL);
            app.wait().unwrap();
            assert_eq!(told, wanted, "{handler}");
        }
    }

    #[test]
    fn a_running_worker_gets_the_signal_as_a_process() {
        let mut app = Command::new("sleep")
            .arg("60")
            .process_group(0)
            .spawn()
            .unwrap();
        send(app.id(), Signal::TERM);
        app.wait().unwrap();
    }
}
