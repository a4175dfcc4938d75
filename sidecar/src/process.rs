//! Starts one worker process and sends it signals.
//!
//! The app's command is executed directly, without a shell or wrapper script. The engine
//! decides when to start a worker and what to send.

pub(crate) mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit,
    test_kill_process_group,
};
use scaledapp_engine::{Exit, Slot};
use scaledapp_sys::notify::Listener;
use scaledapp_sys::{signals, spawn};

use crate::connection::open_connections::after_name;
use crate::directory::Directory;
use crate::hints::{Share, hints};
use crate::readiness::channel;
use crate::service_manager;
use crate::settings::Counting;

/// The settings that all workers share.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// The working directory.
    pub(crate) directory: Directory,
    /// The app's port; `None` if it never listens.
    pub(crate) port: Option<u16>,
    /// The name of the variable that contains the slot.
    pub(crate) instance_env: String,
    /// Another variable, which grows with the slot number.
    pub(crate) increment: Option<Counting>,
    /// The descriptor number of Node's message channel, if workers have one.
    pub(crate) channel: Option<spawn::Number>,
    /// The limits of open files that the app gets.
    pub(crate) open_files: Rlimit,
    /// The memory limit of one worker, in bytes.
    pub(crate) max_memory: Option<u64>,
    /// Whether the supervisor sets the size of Node's heap, because the user has not.
    pub(crate) caps_heap: bool,
    /// Whether workers ignore HUP, as `nohup` requires.
    pub(crate) ignores_hangup: bool,
    /// Whether stdout is a pipe instead of being inherited.
    pub(crate) pipe_stdout: bool,
}

/// The settings that differ between workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    pub(crate) slot: Slot,
    /// Its share of the container.
    pub(crate) share: Share,
    /// How it gets its listening sockets.
    pub(crate) sockets: Sockets,
}

/// How a worker gets its listening sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sockets {
    /// The supervisor answers its `bind` and `listen` calls.
    Answered,
    /// It listens on this port, which is private to it.
    Private(u16),
    /// It opens them by itself, if it has any.
    Own,
}

/// Checks that /proc can be read: workers' calls and memory are read from there.
///
/// # Errors
/// /proc is missing, or it shows another PID namespace, in which the same numbers mean
/// other processes.
pub(crate) fn check_proc() -> anyhow::Result<()> {
    let shown = std::fs::read_link("/proc/self").context(
        "this process is not in /proc, from which workers are observed: mount it (mount -t proc proc /proc)",
    )?;
    let own = std::process::id().to_string();
    if shown.as_os_str() != own.as_str() {
        bail!(
            "/proc shows another PID namespace (this process is {} there and {own} here): mount it again \
             (mount -t proc proc /proc, or unshare --mount-proc)",
            shown.display()
        );
    }
    Ok(())
}

/// Raises the limit of open files to its maximum, because each client's request needs two
/// open files; returns the previous limits, which workers get.
pub(crate) fn raise_open_files() -> Rlimit {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: found.maximum,
        ..found
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    found
}

/// A started worker.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its pid, which is also its process group.
    pub(crate) pid: u32,
    /// The read end of its stdout, if that is a pipe.
    pub(crate) stdout: Option<OwnedFd>,
    /// The read end of its stderr.
    pub(crate) stderr: OwnedFd,
    /// The listener for its `bind` and `listen` calls, if the supervisor answers them.
    pub(crate) listener: Option<Listener>,
    /// The supervisor's end of its message channel, if it has one.
    pub(crate) channel: Option<UnixStream>,
}

/// Starts a worker.
///
/// # Errors
/// The exit code that a shell would report: 127 if the program was not found, otherwise 126.
pub(crate) fn start(recipe: &Recipe, place: Placement) -> Result<Started, (Exit, io::Error)> {
    let failed = |error: io::Error| (exit_of(&error), error);
    let mut command = command(recipe, place);
    let channel = open_channel(&mut command, recipe).map_err(failed)?;
    let started = match place.sockets {
        Sockets::Answered => {
            let filtered = spawn::spawn_filtered(command);
            filtered.map(|filtered| (filtered.child, Some(filtered.listener)))
        }
        Sockets::Private(_) | Sockets::Own => {
            spawn::tie_to_parent(&mut command);
            command.spawn().map(|child| (child, None))
        }
    };
    let (mut child, listener) = started.map_err(failed)?;
    let stderr = child.stderr.take().map(OwnedFd::from);
    Ok(Started {
        pid: child.id(),
        stdout: child.stdout.take().map(OwnedFd::from),
        // Dropping `child` neither kills nor reaps it; `reap_all` reaps it.
        stderr: stderr.expect("invariant: stderr was asked to be a pipe"),
        listener,
        channel,
    })
}

/// Opens a message channel and returns the supervisor's end. Only this child gets the other
/// end, because the supervisor's descriptors are closed by `exec`. Without a channel the
/// variables are removed: a channel that the supervisor itself was started with is not for
/// the workers.
fn open_channel(command: &mut Command, recipe: &Recipe) -> io::Result<Option<UnixStream>> {
    let Some(number) = &recipe.channel else {
        command
            .env_remove(channel::NUMBER)
            .env_remove(channel::SERIALIZATION);
        return Ok(None);
    };
    let (ours, theirs) = UnixStream::pair()?;
    command
        .env(channel::NUMBER, number.get().to_string())
        .env(channel::SERIALIZATION, "json");
    spawn::hand_down(command, theirs.into(), number);
    Ok(Some(ours))
}

fn command(recipe: &Recipe, place: Placement) -> Command {
    let Placement {
        slot,
        share,
        sockets,
    } = place;
    let (program, arguments) = recipe
        .command
        .split_first()
        .expect("invariant: the command line requires a command");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env(&recipe.instance_env, slot.0.to_string())
        .env("SCALEDAPP_SLOT", slot.0.to_string())
        .env("SCALEDAPP_WORKERS", share.workers.to_string())
        // A master process inside the worker must not start several workers of its own.
        .env("WEB_CONCURRENCY", "1")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .envs(hints(share, &recipe.command, |name| {
            std::env::var(name).ok()
        }));
    for name in service_manager::VARIABLES {
        command.env_remove(name);
    }
    let (start, changed) = recipe.directory.now();
    if let Some(changed) = changed {
        recipe.directory.tell(&changed);
    }
    if let Some(start) = start {
        // The value that a shell's `cd` would set.
        command.current_dir(start).env("PWD", start);
    }
    let port = match sockets {
        Sockets::Private(port) => Some(port),
        Sockets::Answered | Sockets::Own => recipe.port,
    };
    if let Some(port) = port {
        command.env("PORT", port.to_string());
    }
    if let Some(counting) = &recipe.increment {
        command.env(&counting.name, counting.value(slot.0));
    }
    if recipe.pipe_stdout {
        command.stdout(Stdio::piped());
    }
    spawn::limit_open_files(&mut command, recipe.open_files);
    if recipe.ignores_hangup {
        signals::ignore_hangup(&mut command);
    }
    command
}

fn exit_of(error: &io::Error) -> Exit {
    let code = match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    };
    Exit::Spawn { code }
}

/// Sends a signal to a worker's whole process group; does nothing if the group has ended.
pub(crate) fn signal_group(pid: u32, signal: Signal) {
    if let Some(group) = Pid::from_raw(pid as i32) {
        let _gone = kill_process_group(group, signal);
    }
}

/// Whether the group has a member, including one that is ending or not reaped yet.
pub(crate) fn group_lives(pid: u32) -> bool {
    let group = Pid::from_raw(pid as i32);
    group.is_some_and(|group| test_kill_process_group(group) != Err(Errno::SRCH))
}

/// CPU time that the process itself has used: user plus system time, fields 14 and 15 of
/// `proc_pid_stat(5)`, in ticks.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(in_time(cpu_ticks(&text)?))
}

/// CPU time that the children of the process have used, with their own ended children, as far as
/// they have ended and the process has waited for them: fields 16 and 17 of `proc_pid_stat(5)`.
pub(crate) fn cpu_time_of_ended_children(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(in_time(ticks_after(&text, 13)?))
}

fn in_time(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(ticks * 1000 / per_second)
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    ticks_after(stat, 11)
}

/// The sum of two fields; `skipped` is the number of fields between them and the name.
fn ticks_after(stat: &str, skipped: usize) -> Option<u64> {
    let mut fields = after_name(stat)?.skip(skipped);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// A child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reaped {
    pub(crate) pid: u32,
    pub(crate) exit: Exit,
}

/// Reaps every child that has ended: workers, and as PID 1 or subreaper also the processes
/// that they left behind. A pid can be reused only after its process is reaped, so until then
/// it means the same process.
pub(crate) fn reap_all() -> Vec<Reaped> {
    use rustix::process::{WaitOptions, wait};
    let mut reaped = Vec::new();
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        let exit = match (status.exit_status(), status.terminating_signal()) {
            (_, Some(signal)) => Exit::Signal(signal),
            (Some(code), None) => Exit::Code(code),
            // The child was stopped or continued; it has not ended.
            (None, None) => continue,
        };
        let pid = pid.as_raw_nonzero().get() as u32;
        reaped.push(Reaped { pid, exit });
    }
    reaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_after_any_name() {
        let stat = "42 (a b) c)) S 1 42 42 0 -1 4194560 1 2 3 4 70 30 5 6 20 0 7 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(100));
        assert_eq!(ticks_after(stat, 13), Some(11));
        assert_eq!(cpu_ticks("42 (x) S 1"), None);
    }

    #[test]
    fn the_cpu_time_of_this_process_is_read() {
        let own = std::process::id();
        assert!(cpu_time(own).is_some());
    }
}
