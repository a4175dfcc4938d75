//! The memory of workers and of the container (`scaledapp-proc`), as the kernel reports it.
//! `watch` decides what follows.

pub(crate) use scaledapp_proc::{Container, Limiting, of_machine};

/// Resident memory of a worker and all its descendants, in bytes. Private memory is summed over the
/// processes. File-backed and shared memory is counted once, for the process that has the most of
/// it.
///
/// The values come from `proc_pid_statm(5)`, whose counters the kernel keeps anyway; walking
/// the page tables (smaps) would stop a large process for milliseconds.
pub(crate) fn of_tree(pid: u32) -> Option<u64> {
    of(&tree(pid))
}

/// Resident memory of the processes `tree`, in bytes, counted as [`of_tree`] does.
pub(crate) fn of(tree: &[u32]) -> Option<u64> {
    let (mut own, mut shared) = (0_u64, 0_u64);
    let mut found = false;
    for process in tree {
        if let Some((resident, files)) = resident(*process) {
            found = true;
            own += resident.saturating_sub(files);
            shared = shared.max(files);
        }
    }
    found.then_some(own + shared)
}

/// A process and its descendants, the process first. The search ends at a number of processes that
/// apps hardly reach.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    const MAX_PROCESSES: usize = 256;
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&process) = found.get(next)
        && found.len() < MAX_PROCESSES
    {
        next += 1;
        // Only children of the first thread are read. Children of other threads are rare,
        // so the memory of such children is not counted.
        let path = format!("/proc/{process}/task/{process}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        found.extend(
            children
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    found
}

/// Resident bytes, and how many of them are file-backed or shared.
fn resident(pid: u32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = text.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    let size = rustix::param::page_size() as u64;
    Some((resident * size, shared * size))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    #[test]
    fn a_tree_is_a_process_and_its_children() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo up; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 3];
        shell.stdout.take().unwrap().read_exact(&mut up).unwrap();
        let found = tree(shell.id());
        let (all, alone) = (of_tree(shell.id()), of(&found[..1]));
        for pid in found.iter().rev() {
            let pid = Pid::from_raw(*pid as i32).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
        }
        shell.wait().unwrap();
        assert_eq!((found.len(), found[0]), (2, shell.id()));
        assert!(all > alone && alone > Some(1 << 16), "{all:?} {alone:?}");
        assert_eq!(of_tree(u32::MAX), None);
    }
}
