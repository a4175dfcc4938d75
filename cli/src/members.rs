//! The processes of a run: starts them, notices when they end, restarts and stops them.
//!
//! All processes are started from the main thread, because the signal that kills them when the
//! program ends is tied to the thread that started them (prctl(2), `PR_SET_PDEATHSIG`).

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::launch::Program;
use crate::output::{Output, RecentLines};

/// Pause before the restart of a process that ended soon after its start. It doubles with each
/// further failure in a row.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// Minimum time that a process must have run so that its end does not count as a failed start.
const MIN_STEADY_TIME: Duration = Duration::from_secs(10);

/// Index of a process among the members.
pub(crate) type Index = usize;

/// Something that happened to a process.
#[derive(Debug)]
pub(crate) enum Event {
    /// It exited, by itself or after a signal from `scaledapp`.
    Ended(Index, ExitStatus),
    /// The pause before its restart is over.
    StartAgain(Index),
}

#[derive(Debug)]
struct Member {
    program: Program,
    /// Set while the process runs. It is a pidfd, so that a signal cannot reach another process
    /// with the same pid.
    process: Option<OwnedFd>,
    started: Instant,
    /// How many times in a row the process ended soon after its start.
    failures: u32,
    /// Its last lines of output.
    recent: RecentLines,
}

/// All processes of a run.
#[derive(Debug)]
pub(crate) struct Members {
    list: Vec<Member>,
    output: Output,
    sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Members {
    /// Returns a list without processes. Processes that are added later write to `output`.
    pub(crate) fn new(output: Output) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        Self {
            list: Vec::new(),
            output,
            sender,
            events,
        }
    }

    /// Starts a process.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub(crate) fn add(&mut self, program: Program) -> anyhow::Result<Index> {
        let index = self.keep(program);
        self.start(index)?;
        Ok(index)
    }

    /// Takes a process that [`Self::start_again`] starts.
    pub(crate) fn keep(&mut self, program: Program) -> Index {
        let member = Member {
            program,
            process: None,
            started: Instant::now(),
            failures: 0,
            recent: RecentLines::default(),
        };
        let index = self.list.len();
        self.list.push(member);
        index
    }

    fn start(&mut self, index: Index) -> anyhow::Result<()> {
        let member = &mut self.list[index];
        let name = &member.program.name;
        let mut child = tokio::process::Command::from(member.program.command())
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.expect("invariant: nobody has waited for the child yet");
        member.process = Some(pidfd_open(pid, PidfdFlags::empty())?);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        member.recent = self.output.follow(name, index, stdout, stderr);
        member.started = Instant::now();
        let sender = self.sender.clone();
        tokio::spawn(async move {
            // Waiting for a child should not fail. If it does, the child counts as ended.
            let status = child.wait().await.unwrap_or_default();
            // The send fails only after the receiver is dropped, when the run has ended.
            let _ended = sender.send(Event::Ended(index, status));
        });
        Ok(())
    }

    /// Waits for the next event. This function is cancel safe.
    pub(crate) async fn next(&mut self) -> Event {
        let event = self.events.recv().await;
        let event = event.expect("invariant: we hold a sender ourselves");
        if let Event::Ended(index, _) = &event {
            self.list[*index].process = None;
        }
        event
    }

    /// Arranges the restart of a process that has ended: [`Event::StartAgain`] follows, immediately
    /// or after a pause.
    pub(crate) fn restart(&mut self, index: Index, status: ExitStatus) {
        let member = &mut self.list[index];
        member.failures = if member.started.elapsed() >= MIN_STEADY_TIME {
            0
        } else {
            member.failures + 1
        };
        let wait = delay(member.failures);
        tracing::warn!(
            name = member.program.name,
            "{}; it is restarted {}",
            ended(status),
            match wait {
                Duration::ZERO => "at once".to_owned(),
                wait => format!("in {wait:?}"),
            }
        );
        let sender = self.sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ended = sender.send(Event::StartAgain(index));
        });
    }

    /// Starts a process whose pause is over, unless it runs already.
    pub(crate) fn start_again(&mut self, index: Index) {
        if self.any_runs(&[index]) {
            return;
        }
        if let Err(error) = self.start(index) {
            let name = &self.list[index].program.name;
            tracing::error!("{name}: {error:#}");
            // This counts as an immediate exit with the shell's code for "cannot execute".
            let _ended = self
                .sender
                .send(Event::Ended(index, ExitStatus::from_raw(126 << 8)));
        }
    }

    /// The program of a process, and its last lines of output.
    pub(crate) fn program(&self, index: Index) -> (&Program, &RecentLines) {
        let member = &self.list[index];
        (&member.program, &member.recent)
    }

    /// Waits until the output of all processes is written, with a time-out for each process.
    pub(crate) async fn flushed(&self) {
        for member in &self.list {
            drop(member.recent.last().await);
        }
        self.output.flushed().await;
    }

    /// Prints a text of `scaledapp` itself between the lines of the processes.
    pub(crate) async fn announce(&self, text: &str) {
        self.output.say(text).await;
    }

    /// Sends a signal to those of `which` that still run.
    pub(crate) fn signal(&self, which: &[Index], signal: Signal) {
        for index in which {
            if let Some(process) = &self.list[*index].process {
                // The call fails if the process has just ended; [`Event::Ended`] follows.
                let _gone = pidfd_send_signal(process, signal);
            }
        }
    }

    /// Whether one of `which` runs.
    pub(crate) fn any_runs(&self, which: &[Index]) -> bool {
        which
            .iter()
            .any(|index| self.list[*index].process.is_some())
    }

    /// The indexes of all processes.
    pub(crate) fn all(&self) -> Vec<Index> {
        (0..self.list.len()).collect()
    }
}

/// The exit code as shells show it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// How a process ended, in words.
fn ended(status: ExitStatus) -> String {
    match status.signal() {
        Some(9) => "was killed (SIGKILL)".to_owned(),
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("exited with {}", code(status)),
    }
}

/// The pause before a restart, after `failures` in a row.
fn delay(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        _ => FIRST_DELAY
            .saturating_mul(2_u32.saturating_pow(failures - 1))
            .min(MAX_DELAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let delays: Vec<u128> = [0, 1, 2, 3, 6, 7, 100]
            .map(|failures| delay(failures).as_millis())
            .to_vec();
        assert_eq!(delays, [0, 100, 200, 400, 3200, 5000, 5000]);
    }

    #[test]
    fn codes_are_those_of_shells() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
        assert_eq!(ended(ExitStatus::from_raw(3 << 8)), "exited with 3");
        assert_eq!(ended(ExitStatus::from_raw(9)), "was killed (SIGKILL)");
        assert_eq!(ended(ExitStatus::from_raw(15)), "was ended by signal 15");
    }
}
