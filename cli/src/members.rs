//! The processes of a run: started, noticed when they end, started again, stopped.
//!
//! All are started from the one thread of the program, because what ties them
//! to us is tied to the thread (prctl(2), `PR_SET_PDEATHSIG`).

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::launch::Program;
use crate::output::{Output, Said};

/// Before the second start in a row; doubled for each one after it.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// A process that lived so long did not fail at its start.
const STEADY: Duration = Duration::from_secs(10);

/// Place of a process among the members.
pub(crate) type Index = usize;

/// Something that happened to a process.
#[derive(Debug)]
pub(crate) enum Event {
    /// It ended by itself or because it was told to.
    Ended(Index, ExitStatus),
    /// Its delay is over.
    StartAgain(Index),
}

#[derive(Debug)]
struct Member {
    program: Program,
    /// While it runs. A pidfd, so that no signal ever hits another process
    /// that got the same pid.
    process: Option<OwnedFd>,
    started: Instant,
    /// Ends in a row, each soon after its start.
    failures: u32,
    /// What it wrote last.
    said: Said,
}

/// All processes.
#[derive(Debug)]
pub(crate) struct Members {
    list: Vec<Member>,
    output: Output,
    sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Members {
    /// None yet; what they write goes to `output`.
    pub(crate) fn new(output: Output) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        Self {
            list: Vec::new(),
            output,
            sender,
            events,
        }
    }

    /// Starts one more.
    ///
    /// # Errors
    /// It cannot be executed.
    pub(crate) fn add(&mut self, program: Program) -> anyhow::Result<Index> {
        let member = Member {
            program,
            process: None,
            started: Instant::now(),
            failures: 0,
            said: Said::default(),
        };
        let index = self.list.len();
        self.list.push(member);
        self.start(index)?;
        Ok(index)
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
        member.said = self.output.follow(name, index, stdout, stderr);
        member.started = Instant::now();
        let sender = self.sender.clone();
        tokio::spawn(async move {
            // Waiting for a child of ours fails for no reason that exists here;
            // should it, the child counts as ended.
            let status = child.wait().await.unwrap_or_default();
            // Nobody listens any more when everything has ended.
            let _ended = sender.send(Event::Ended(index, status));
        });
        Ok(())
    }

    /// The next event; never ends. Cancel safe.
    pub(crate) async fn next(&mut self) -> Event {
        let event = self.events.recv().await;
        let event = event.expect("invariant: we hold a sender ourselves");
        if let Event::Ended(index, _) = &event {
            self.list[*index].process = None;
        }
        event
    }

    /// Sees to it that one that has ended runs again, at once or a little later.
    pub(crate) fn restart(&mut self, index: Index, status: ExitStatus) {
        let member = &mut self.list[index];
        member.failures = if member.started.elapsed() >= STEADY {
            0
        } else {
            member.failures + 1
        };
        let wait = delay(member.failures);
        tracing::warn!(
            name = member.program.name,
            "{}; starts again {}",
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

    /// Starts one whose delay is over.
    pub(crate) fn start_again(&mut self, index: Index) {
        if let Err(error) = self.start(index) {
            let name = &self.list[index].program.name;
            tracing::error!("{name}: {error:#}");
            // As if it had ended at once with the shell's "cannot execute".
            let _ended = self
                .sender
                .send(Event::Ended(index, ExitStatus::from_raw(126 << 8)));
        }
    }

    /// What a process was started by, and what it said last.
    pub(crate) fn program(&self, index: Index) -> (&Program, &Said) {
        let member = &self.list[index];
        (&member.program, &member.said)
    }

    /// Resolves when all that they wrote is passed on, or soon.
    pub(crate) async fn flushed(&self) {
        for member in &self.list {
            drop(member.said.last().await);
        }
        self.output.flushed().await;
    }

    /// Says something of our own, between the lines of the others.
    pub(crate) async fn announce(&self, text: &str) {
        self.output.say(text).await;
    }

    /// Sends a signal to those that still run.
    pub(crate) fn signal(&self, which: &[Index], signal: Signal) {
        for index in which {
            if let Some(process) = &self.list[*index].process {
                // It ended a moment ago: its event is on the way.
                let _gone = pidfd_send_signal(process, signal);
            }
        }
    }

    /// Whether one of them runs.
    pub(crate) fn any_runs(&self, which: &[Index]) -> bool {
        which
            .iter()
            .any(|index| self.list[*index].process.is_some())
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Index> {
        (0..self.list.len()).collect()
    }
}

/// Exit code as shells say it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// What became of a process, in words.
fn ended(status: ExitStatus) -> String {
    match status.signal() {
        Some(9) => "was killed (SIGKILL)".to_owned(),
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("ended with {}", code(status)),
    }
}

/// Before the next start after so many failures in a row.
fn delay(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        _ => FIRST_DELAY
            .saturating_mul(2_u32.saturating_pow(failures - 1))
            .min(LONGEST_DELAY),
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
        assert_eq!(ended(ExitStatus::from_raw(3 << 8)), "ended with 3");
        assert_eq!(ended(ExitStatus::from_raw(9)), "was killed (SIGKILL)");
        assert_eq!(ended(ExitStatus::from_raw(15)), "was ended by signal 15");
    }
}
