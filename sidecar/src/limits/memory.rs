//! How much memory workers and the container have, as the kernel tells it.
//! What follows from it is decided in `limits`.

use std::path::{Path, PathBuf};

use crate::cgroup::{self, Hierarchy};

/// Of the container: the cgroup with the tightest limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Container {
    /// What it uses and cannot give back: all but the page cache, bytes.
    pub(crate) used: u64,
    /// What it may use, bytes.
    pub(crate) limit: u64,
}

/// The cgroups of which one is the container's limit.
#[derive(Debug)]
pub(crate) struct Limiting(Vec<(PathBuf, Hierarchy)>);

impl Limiting {
    /// With `root` in the place of `/`.
    pub(crate) fn find(root: &Path) -> Self {
        Self(cgroup::limiting(root, "memory"))
    }

    /// As it is now; `None`: nothing limits us.
    pub(crate) fn read(&self) -> Option<Container> {
        let limited = self.0.iter().filter_map(|(directory, hierarchy)| {
            let limit = limit(directory, *hierarchy)?;
            Some((limit, directory, *hierarchy))
        });
        let (limit, directory, hierarchy) = limited.min_by_key(|(limit, ..)| *limit)?;
        let used = used(directory, hierarchy)?;
        Some(Container { used, limit })
    }
}

/// The same of the whole machine (`proc_meminfo(5)`), for where nothing limits us.
pub(crate) fn of_machine() -> Option<Container> {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_meminfo(meminfo: &str) -> Option<Container> {
    let kibibytes = |name: &str| {
        let mut lines = meminfo.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(key, _)| *key == name)?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let (total, available) = (kibibytes("MemTotal")?, kibibytes("MemAvailable")?);
    Some(Container {
        used: total.saturating_sub(available) << 10,
        limit: total << 10,
    })
}

fn limit(directory: &Path, hierarchy: Hierarchy) -> Option<u64> {
    /// Version 1 says "none" by the greatest multiple of a page in an `i64`.
    const NONE: u64 = 1 << 60;
    let name = match hierarchy {
        Hierarchy::Unified => "memory.max",
        Hierarchy::Controller(_) => "memory.limit_in_bytes",
    };
    let text = std::fs::read_to_string(directory.join(name)).ok()?;
    // `max` is no number and limits nothing.
    text.trim().parse().ok().filter(|limit| *limit < NONE)
}

/// The page cache is given back before the kernel ends anybody; what is in
/// shared memory and tmpfs counts as cache and is not.
fn used(directory: &Path, hierarchy: Hierarchy) -> Option<u64> {
    let (total, cache, shared) = match hierarchy {
        Hierarchy::Unified => ("memory.current", "file", "shmem"),
        Hierarchy::Controller(_) => ("memory.usage_in_bytes", "total_cache", "total_shmem"),
    };
    let read = |name| std::fs::read_to_string(directory.join(name)).ok();
    let total: u64 = read(total)?.trim().parse().ok()?;
    let details = read("memory.stat").unwrap_or_default();
    let detail = |key: &str| {
        let mut pairs = details.lines().filter_map(|line| line.split_once(' '));
        let value = pairs.find(|(name, _)| *name == key)?.1;
        value.trim().parse::<u64>().ok()
    };
    let reclaimable = detail(cache)
        .unwrap_or(0)
        .saturating_sub(detail(shared).unwrap_or(0));
    Some(total.saturating_sub(reclaimable))
}

/// Resident memory of a worker and all its descendants, bytes: what each has of
/// its own, and once what the largest maps from files or shares.
///
/// Reads `proc_pid_statm(5)`, whose counters the kernel keeps anyway; a walk over
/// page tables (smaps) would stop a large process for milliseconds.
pub(crate) fn of_tree(pid: u32) -> Option<u64> {
    of(&tree(pid))
}

/// The same of processes that are known already.
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

/// A process and its descendants, itself first; as many as will do for any app.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    const MOST: usize = 256;
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&process) = found.get(next)
        && found.len() < MOST
    {
        next += 1;
        // Children of other threads than the first are rare, and then counted
        // with a worker that forks from them only.
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

/// Resident bytes, and how many of them are of files or shared.
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

    const V2: &str = "31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1: &str = "40 39 0:36 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    /// A tree in the place of `/`.
    fn machine(groups: &str, mounts: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let own = [
            ("proc/self/cgroup", groups),
            ("proc/self/mountinfo", mounts),
        ];
        for (path, text) in own.iter().chain(files) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn read(machine: &tempfile::TempDir) -> Option<(u64, u64)> {
        let container = Limiting::find(machine.path()).read()?;
        Some((container.used, container.limit))
    }

    #[test]
    fn of_the_machine_all_is_used_that_is_not_available() {
        let text = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n";
        let expected = Container {
            used: 600 << 10,
            limit: 1000 << 10,
        };
        assert_eq!(parse_meminfo(text), Some(expected));
        assert_eq!(parse_meminfo("MemTotal: 5 kB\n"), None);
        assert!(of_machine().is_some_and(|machine| machine.used < machine.limit));
    }

    #[test]
    fn version_2_counts_all_but_the_cache_of_files() {
        let files = [
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.current", "900\n"),
            (
                "sys/fs/cgroup/memory.stat",
                "anon 300\nfile 500\nshmem 100\n",
            ),
        ];
        let machine = machine("0::/\n", V2, &files);
        assert_eq!(read(&machine), Some((500, 1000)));
        // Resized in place.
        std::fs::write(machine.path().join(files[0].0), "2000").unwrap();
        assert_eq!(read(&machine), Some((500, 2000)));
        std::fs::write(machine.path().join(files[0].0), "max").unwrap();
        assert_eq!(read(&machine), None);
    }

    #[test]
    fn version_1_takes_the_tightest_of_the_own_and_all_ancestors() {
        let files = [
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712",
            ),
            ("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "700"),
            ("sys/fs/cgroup/memory/pod/memory.usage_in_bytes", "600"),
            (
                "sys/fs/cgroup/memory/pod/memory.stat",
                "cache 1\ntotal_cache 250\ntotal_shmem 50\n",
            ),
            (
                "sys/fs/cgroup/memory/pod/app/memory.limit_in_bytes",
                "9223372036854771712",
            ),
        ];
        let machine = machine("4:memory:/pod/app\n", V1, &files);
        assert_eq!(read(&machine), Some((400, 700)));
    }

    #[test]
    fn what_is_missing_limits_nothing() {
        assert_eq!(read(&machine("", "", &[])), None);
        assert_eq!(read(&machine("0::/\n", V2, &[])), None);
    }

    #[test]
    fn a_tree_is_a_process_with_what_it_has_started() {
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
