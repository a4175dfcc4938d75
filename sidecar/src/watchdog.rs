//! Kills every worker, with its children, when the supervisor dies by SIGKILL.
//!
//! If the supervisor is PID 1, the kernel does that (`pid_namespaces(7)`). Otherwise
//! PDEATHSIG reaches only the worker itself and not its children. So a child process of the
//! supervisor reads from a pipe, and kills the workers' groups when the pipe ends.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// The supervisor's end of the pipe.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pipe: Option<ChildStdin>,
    /// The groups to report to a new watching process if the present one is killed.
    groups: BTreeSet<u32>,
}

impl Watchdog {
    /// Starts the watching process, unless this process is PID 1.
    ///
    /// # Errors
    /// This binary cannot be executed again.
    pub(crate) fn start() -> std::io::Result<Self> {
        let is_needed = std::process::id() != 1;
        Ok(Self {
            pipe: is_needed.then(Self::open).transpose()?.flatten(),
            groups: BTreeSet::new(),
        })
    }

    fn open() -> std::io::Result<Option<ChildStdin>> {
        let mut child = Command::new("/proc/self/exe")
            .arg("watchdog")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(child.stdin.take())
    }

    /// Adds a process group that must not outlive the supervisor.
    pub(crate) fn watch(&mut self, group: u32) {
        self.groups.insert(group);
        self.write(&format!("+{group}\n"));
    }

    /// Removes a group that has ended; its number may be reused for another group.
    pub(crate) fn forget(&mut self, group: u32) {
        self.groups.remove(&group);
        self.write(&format!("-{group}\n"));
    }

    /// Writes a line to the watching process. If that process was killed, starts a new one.
    fn write(&mut self, line: &str) {
        let Some(pipe) = &mut self.pipe else {
            return;
        };
        if pipe.write_all(line.as_bytes()).is_ok() {
            return;
        }
        let groups = self.groups.iter().map(ToString::to_string);
        let lines: Vec<String> = groups.map(|group| "+".to_owned() + &group + "\n").collect();
        let all = lines.concat();
        self.pipe = Self::open().ok().flatten();
        let told = self
            .pipe
            .as_mut()
            .map(|pipe| pipe.write_all(all.as_bytes()));
        if matches!(told, Some(Ok(()))) {
            tracing::warn!("the watchdog process has ended and is started again");
        } else {
            tracing::warn!(
                "the watchdog process has ended and cannot be started again: workers' children may outlive a SIGKILL of the supervisor"
            );
        }
    }
}

/// Runs as the watching process: reads groups until the pipe ends, then kills the remaining
/// groups.
pub fn run(input: impl BufRead) {
    scaledapp_sys::ignore_terminating_signals();
    for group in groups_left(input) {
        if let Some(group) = Pid::from_raw(group) {
            // The group may have ended already.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

fn groups_left(input: impl BufRead) -> BTreeSet<i32> {
    let mut groups = BTreeSet::new();
    for line in input.lines().map_while(Result::ok) {
        let (sign, number) = line.split_at_checked(1).unwrap_or_default();
        // The numbers 0 and 1 would mean this process's own group and all processes.
        let Some(group) = number.parse().ok().filter(|group| *group > 1) else {
            continue;
        };
        match sign {
            "+" => groups.insert(group),
            "-" => groups.remove(&group),
            _ => false,
        };
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_that_were_not_forgotten_are_left() {
        let input = "+100\n+200\n-100\n+1\n+0\n+-5\nx300\n\n+é\n+400\n";
        let left: Vec<i32> = groups_left(input.as_bytes()).into_iter().collect();
        assert_eq!(left, [200, 400]);
    }
}
