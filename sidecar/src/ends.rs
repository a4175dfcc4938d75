//! What caused the end of a worker: possibly a request that it executed, or clearly
//! something else. The dispatcher repeats requests accordingly (`scaledapp-proxy`,
//! `retry`).
//!
//! For workers that the supervisor itself ends, `workers` records the cause before the
//! signal. This file covers the evidence of an exit code, the kernel's count of
//! out-of-memory kills and `/proc`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use scaledapp_engine::{Exit, WorkerId};
use scaledapp_proc::cgroup::{self, Hierarchy};
use scaledapp_proxy::{EndedBy, Process};

use tokio::sync::mpsc;

use crate::connection::open_connections::after_name;
use crate::input::Input;

/// Decides whether a worker ended by itself or was ended from outside. The kernel does not
/// report which process sent a SIGKILL, but it counts the SIGKILLs that it sends for lack of
/// memory; a request may have caused that. Every other SIGKILL counts as coming from outside,
/// even if the kernel sent it for `RLIMIT_CPU` or the app sent it to itself. If a wrapper such as
/// npm or a shell started the killed process, the wrapper exits with 128 + 9.
pub(crate) fn whose(exit: Exit, out_of_memory: bool) -> EndedBy {
    match exit {
        Exit::Signal(9) | Exit::Code(137) if !out_of_memory => EndedBy::Outside,
        Exit::Signal(_) | Exit::Code(_) | Exit::Spawn { .. } => EndedBy::Itself,
    }
}

/// How long an out-of-memory kill counts as recent. The kill and the end that it causes are noticed
/// at different times, but within this time of each other.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(2);

/// Notices out-of-memory kills in this process's cgroup, or on the whole machine if the cgroup has
/// no counter.
#[derive(Debug)]
pub(crate) struct OutOfMemory {
    counter: Option<PathBuf>,
    count: u64,
    /// When the counter was last seen to have grown.
    grown: Option<Instant>,
}

impl OutOfMemory {
    /// Finds the counter; `root` replaces `/`.
    pub(crate) fn watch(root: &Path) -> Self {
        let counter = counter(root);
        let count = counter.as_deref().and_then(read).unwrap_or(0);
        Self {
            counter,
            count,
            grown: None,
        }
    }

    /// Reads the counter. It should be called regularly, and when a worker has ended.
    /// Returns whether there was a kill recently.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        let count = self.counter.as_deref().and_then(read);
        if let Some(count) = count
            && std::mem::replace(&mut self.count, count) < count
        {
            self.grown = Some(now);
        }
        self.grown
            .is_some_and(|at| now.saturating_duration_since(at) < NOTICE_TIMEOUT)
    }
}

/// The file that counts out-of-memory kills of this process's cgroup: `memory.events` in
/// version 2, `memory.oom_control` in version 1 (Linux 4.13), otherwise `/proc/vmstat` of
/// the whole machine.
fn counter(root: &Path) -> Option<PathBuf> {
    let groups = cgroup::limiting(root, "memory").into_iter();
    let counters = groups.map(|(directory, hierarchy)| match hierarchy {
        Hierarchy::Unified => directory.join("memory.events"),
        Hierarchy::Controller(_) => directory.join("memory.oom_control"),
    });
    let readable = counters.filter(|path| read(path).is_some());
    // This process's own cgroup is the deepest one.
    let own = readable.max_by_key(|path| path.components().count());
    let machine = root.join("proc/vmstat");
    own.or_else(|| read(&machine).is_some().then_some(machine))
}

fn read(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    let (_, count) = pairs.find(|(name, _)| *name == "oom_kill")?;
    count.trim().parse().ok()
}

/// What the dispatcher can ask about a worker's process.
#[derive(Debug, Clone)]
pub(crate) struct Runs {
    pub(crate) pid: u32,
    /// See [`crate::handover::calls::Caller`].
    pub(crate) resets: Arc<AtomicBool>,
    /// Tells the supervisor that connections are refused.
    pub(crate) refuses: Refuses,
}

/// Tells the supervisor that nothing listens at a worker's address any more.
#[derive(Debug, Clone)]
pub(crate) struct Refuses {
    pub(crate) worker: WorkerId,
    /// The shared port, and the worker's address for it.
    pub(crate) port: u16,
    pub(crate) address: SocketAddr,
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
}

impl Process for Runs {
    /// Whether the process is not exiting, has no child process and has never waited for one. The
    /// kernel marks a process as exiting before it closes its sockets.
    fn surely_runs(&self) -> bool {
        let pid = self.pid;
        let read = |path: String| std::fs::read_to_string(path).ok();
        let stat = read(format!("/proc/{pid}/stat"));
        // A child process may have had the connection while this process waits for the child.
        let children = read(format!("/proc/{pid}/task/{pid}/children"));
        let is_alone = children.is_some_and(|children| children.trim().is_empty());
        is_alone && stat.is_some_and(|stat| is_running_alone(&stat))
    }

    fn may_reset(&self) -> bool {
        self.resets.load(Ordering::SeqCst)
    }

    fn refuses(&self) {
        let Refuses {
            worker,
            port,
            address,
            ref inputs,
        } = self.refuses;
        let _ended = inputs.send(Input::Refuses {
            worker,
            port,
            address,
        });
    }
}

/// Whether the process runs and has never waited for a child, judged from `proc_pid_stat(5)`: it is
/// not a zombie (field 3), is not exiting (field 9, `PF_EXITING` of the kernel's `sched.h`) and has
/// no page faults of children (field 11).
fn is_running_alone(stat: &str) -> bool {
    const EXITING: u64 = 0x4;
    let fields = || after_name(stat);
    let number = |index| fields()?.nth(index)?.parse::<u64>().ok();
    let state = fields().and_then(|mut fields| fields.next());
    let is_dead = state.is_none_or(|state| matches!(state, "Z" | "X" | "x"));
    let is_exiting = number(6).is_none_or(|flags| flags & EXITING != 0);
    !is_dead && !is_exiting && number(8) == Some(0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_a_kill_that_the_kernel_did_not_count_came_from_outside() {
        use EndedBy::{Itself, Outside};
        for (exit, out_of_memory, expected) in [
            (Exit::Signal(9), false, Outside),
            (Exit::Code(137), false, Outside),
            (Exit::Signal(9), true, Itself),
            (Exit::Code(137), true, Itself),
            // `process.exit()`, a throw, a fault, `abort()`.
            (Exit::Code(0), false, Itself),
            (Exit::Code(1), false, Itself),
            (Exit::Signal(11), false, Itself),
            (Exit::Signal(6), false, Itself),
            // Some apps send TERM to themselves.
            (Exit::Signal(15), false, Itself),
            (Exit::Code(143), false, Itself),
            (Exit::Spawn { code: 127 }, false, Itself),
        ] {
            assert_eq!(whose(exit, out_of_memory), expected, "{exit:?}");
        }
    }

    const V2: &str = "31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1: &str = "40 39 0:36 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    /// A temporary tree that replaces `/`.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn kills_in_our_own_cgroup_are_noticed_for_a_while() {
        let own = "sys/fs/cgroup/pod/app/memory.events";
        let root = machine(&[
            ("proc/self/cgroup", "0::/pod/app\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/pod/memory.events", "oom 9\noom_kill 7\n"),
            (own, "low 0\noom 1\noom_kill 3\noom_group_kill 0\n"),
        ]);
        let mut kills = OutOfMemory::watch(root.path());
        let start = Instant::now();
        assert!(!kills.look(start), "earlier kills do not count");
        std::fs::write(root.path().join(own), "oom 2\noom_kill 4\n").unwrap();
        assert!(kills.look(start));
        assert!(kills.look(start + NOTICE_TIMEOUT / 2));
        assert!(!kills.look(start + NOTICE_TIMEOUT));
        std::fs::remove_file(root.path().join(own)).unwrap();
        assert!(!kills.look(start + NOTICE_TIMEOUT));
    }

    #[test]
    fn version_1_and_machines_without_cgroups_are_supported() {
        let v1 = "sys/fs/cgroup/memory/app/memory.oom_control";
        let groups = ("proc/self/cgroup", "4:memory:/app\n");
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        let root = machine(&[groups, ("proc/self/mountinfo", V1), (v1, text)]);
        assert_eq!(OutOfMemory::watch(root.path()).count, 2);
        let root = machine(&[("proc/vmstat", "nr_free_pages 1\noom_kill 5\n")]);
        assert_eq!(OutOfMemory::watch(root.path()).count, 5);
        assert!(!OutOfMemory::watch(machine(&[]).path()).look(Instant::now()));
    }

    fn runs(pid: u32) -> Runs {
        Runs {
            pid,
            resets: Arc::default(),
            refuses: Refuses {
                worker: WorkerId(1),
                port: 1,
                address: ([127, 0, 0, 1], 1).into(),
                inputs: mpsc::unbounded_channel().0,
            },
        }
    }

    #[test]
    fn only_a_lone_living_process_surely_runs() {
        let stat = |state: &str, flags: u32, faults: u32| {
            format!("42 (a b) c) {state} 1 42 42 0 -1 {flags} 9 {faults} 3 4 70 30 5 6 20 0 7")
        };
        assert!(is_running_alone(&stat("S", 0x0040_4000, 0)));
        assert!(!is_running_alone(&stat("Z", 0x0040_4000, 0)));
        assert!(!is_running_alone(&stat("R", 0x0040_4004, 0)));
        assert!(!is_running_alone(&stat("S", 0x0040_4000, 1)));
        assert!(!is_running_alone("42 (x)"));
        assert!(!runs(u32::MAX).surely_runs());
    }

    #[test]
    fn a_child_of_ours_runs_until_it_ends() {
        let mut cat = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = runs(cat.id());
        assert!(process.surely_runs());
        cat.kill().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while process.surely_runs() {
            assert!(Instant::now() < deadline, "it never ended");
            std::thread::yield_now();
        }
        cat.wait().unwrap();
    }
}
