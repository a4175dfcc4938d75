//! A child process under test, with captured output and signals.
//!
//! Dropping a [`Process`] kills the child, its process group and all of its descendants. If the
//! test has failed, dropping also prints the child's last output.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::{proc, wait};

/// Lines kept of each stream. A failing test prints them.
const MAX_LINES: usize = 20_000;
/// How long the reading threads may take to get the last output, on a busy machine.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);

/// One captured stream.
#[derive(Debug, Default, Clone)]
struct Capture {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Whether all writers have closed the stream.
    ended: Arc<AtomicBool>,
}

impl Capture {
    /// Reads a stream to its end in a separate thread, so that the child never blocks.
    fn follow(stream: impl Read + Send + 'static) -> Self {
        let capture = Self::default();
        let (lines, ended) = (Arc::clone(&capture.lines), Arc::clone(&capture.ended));
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == MAX_LINES {
                    lines.pop_front();
                }
                lines.push_back(text);
                line.clear();
            }
            ended.store(true, Ordering::Release);
        });
        capture
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect()
    }
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Capture,
    stderr: Capture,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; 128 + n after signal n, as in shells.
    pub code: i32,
    /// Last lines of standard output.
    pub stdout: String,
    /// Last lines of standard error.
    pub stderr: String,
}

/// Exit code as shells show it.
fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs a command to its end.
///
/// # Errors
/// The command cannot be started, or does not end within `deadline` (then it is killed).
pub fn run(command: Command, deadline: Duration) -> anyhow::Result<Ended> {
    Process::spawn(command)?.wait(deadline)
}

impl Process {
    /// Starts a command in a process group of its own, with its output captured
    /// and nothing on its standard input.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn spawn(command: Command) -> anyhow::Result<Self> {
        Self::spawn_with(command, Stdio::null())
    }

    /// As [`Process::spawn`], with this standard input. It may be a listening socket, as inetd
    /// passes one.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn spawn_with(mut command: Command, stdin: Stdio) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("stdout is a pipe")?;
        let stderr = child.stderr.take().context("stderr is a pipe")?;
        Ok(Self {
            name,
            child,
            stdout: Capture::follow(stdout),
            stderr: Capture::follow(stderr),
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Last lines of standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Last lines of standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends a signal to this process only.
    ///
    /// # Errors
    /// The process has exited and was reaped.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        send(self.pid(), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// The process still runs at the deadline.
    pub fn wait(&mut self, deadline: Duration) -> anyhow::Result<Ended> {
        let what = format!("{} ends", self.name);
        let status = wait::until(deadline, &what, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("it runs; its stderr:\n{}", self.stderr.text())),
            Err(error) => Err(error.to_string()),
        })?;
        // The pipes may contain unread output. A surviving descendant may keep them open, so this
        // waits only for a limited time.
        let streams = [&self.stdout, &self.stderr];
        let _survivor = wait::until_true(OUTPUT_TIMEOUT, "its output ends", || {
            streams
                .iter()
                .all(|stream| stream.ended.load(Ordering::Acquire))
        });
        Ok(Ended {
            code: code(status),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        })
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the process has written `text` to its standard error.
    ///
    /// # Errors
    /// The process has not written it by the deadline. The message shows what it has written.
    pub fn says(&self, deadline: Duration, text: &str) -> anyhow::Result<()> {
        wait::until(deadline, &format!("{} says {text:?}", self.name), || {
            let stderr = self.stderr.text();
            if stderr.contains(text) {
                Ok(())
            } else {
                Err(stderr)
            }
        })
    }
}

/// Sends a signal to any process.
///
/// # Errors
/// The process has exited, or belongs to another user.
pub fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid as i32).context("0 is not a process id")?;
    Ok(kill_process(pid, signal)?)
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_output();
        }
        let below = proc::descendants(self.pid());
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(group) = Pid::from_raw(self.pid() as i32)
        {
            let _gone = kill_process_group(group, Signal::KILL);
            let _gone = self.child.wait();
        }
        for pid in below {
            // Workers have process groups of their own. Most have ended with the supervisor.
            let _gone = send(pid, Signal::KILL);
        }
    }
}

impl Process {
    #[expect(
        clippy::print_stderr,
        reason = "a failing test shows the output of its children"
    )]
    fn print_output(&self) {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        eprintln!(
            "--- {} ({}) stdout\n{stdout}--- stderr\n{stderr}---",
            self.name,
            self.pid()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_exit_code_are_kept() {
        let ended = run(
            shell("echo out; echo err >&2; exit 7"),
            Duration::from_secs(5),
        )
        .unwrap();
        assert_eq!(
            (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
            (7, "out\n", "err\n")
        );
    }

    #[test]
    fn dropping_a_process_ends_its_children() {
        let process = Process::spawn(shell("sleep 1000 & echo up >&2; wait")).unwrap();
        process.says(Duration::from_secs(5), "up").unwrap();
        let below = proc::descendants(process.pid());
        assert_eq!(below.len(), 1);
        drop(process);
        for pid in below {
            wait::until_true(Duration::from_secs(5), "the child is gone", || {
                !proc::is_running(pid)
            })
            .unwrap();
        }
    }
}
