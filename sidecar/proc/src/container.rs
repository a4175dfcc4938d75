//! How much memory the container has and uses, as the kernel reports it.

use std::path::{Path, PathBuf};

use crate::cgroup::{self, Hierarchy};

/// The memory of the container, which is the cgroup with the tightest limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// Memory in use that cannot be given back (everything except the page cache), in
    /// bytes.
    pub used: u64,
    /// The limit, in bytes.
    pub limit: u64,
}

/// The cgroups that may limit the container's memory.
#[derive(Debug)]
pub struct Limiting(Vec<(PathBuf, Hierarchy)>);

impl Limiting {
    /// Finds the cgroups; `root` replaces `/`.
    pub fn find(root: &Path) -> Self {
        Self(cgroup::limiting(root, "memory"))
    }

    /// The current values; `None` if no limit applies.
    pub fn read(&self) -> Option<Container> {
        let (limit, directory, hierarchy) = self.tightest()?;
        let used = used(directory, hierarchy)?;
        Some(Container { used, limit })
    }

    /// The memory that the container's sockets use, in bytes; `None` if no limit applies, or if the
    /// kernel does not count this memory.
    pub fn sockets(&self) -> Option<u64> {
        let (_, directory, hierarchy) = self.tightest()?;
        sockets(directory, hierarchy)
    }

    fn tightest(&self) -> Option<(u64, &Path, Hierarchy)> {
        let limited = self.0.iter().filter_map(|(directory, hierarchy)| {
            let limit = limit(directory, *hierarchy)?;
            Some((limit, directory.as_path(), *hierarchy))
        });
        limited.min_by_key(|(limit, ..)| *limit)
    }
}

/// The memory of the whole machine (`proc_meminfo(5)`), for containers without a limit.
pub fn of_machine() -> Option<Container> {
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

/// The memory that a cgroup's sockets use, in bytes. Version 2 includes it in the cgroup's
/// memory. Version 1 counts it separately, and only if a limit was set for it.
fn sockets(directory: &Path, hierarchy: Hierarchy) -> Option<u64> {
    let read = |name| std::fs::read_to_string(directory.join(name)).ok();
    match hierarchy {
        Hierarchy::Unified => detail(&read("memory.stat")?, "sock"),
        Hierarchy::Controller(_) => read("memory.kmem.tcp.usage_in_bytes")?.trim().parse().ok(),
    }
}

/// One value of `memory.stat`.
fn detail(details: &str, key: &str) -> Option<u64> {
    let mut pairs = details.lines().filter_map(|line| line.split_once(' '));
    let value = pairs.find(|(name, _)| *name == key)?.1;
    value.trim().parse().ok()
}

fn limit(directory: &Path, hierarchy: Hierarchy) -> Option<u64> {
    /// A limit of this size or more means no limit: version 1 writes "no limit" as the largest
    /// multiple of a page in an `i64`.
    const NONE: u64 = 1 << 60;
    let name = match hierarchy {
        Hierarchy::Unified => "memory.max",
        Hierarchy::Controller(_) => "memory.limit_in_bytes",
    };
    let text = std::fs::read_to_string(directory.join(name)).ok()?;
    // `max` is not a number and means no limit.
    text.trim().parse().ok().filter(|limit| *limit < NONE)
}

/// The memory in use that the kernel cannot reclaim, in bytes. The kernel reclaims the page cache
/// before it kills a process. Shared memory and tmpfs are counted as cache but cannot be reclaimed.
fn used(directory: &Path, hierarchy: Hierarchy) -> Option<u64> {
    let (total, cache, shared) = match hierarchy {
        Hierarchy::Unified => ("memory.current", "file", "shmem"),
        Hierarchy::Controller(_) => ("memory.usage_in_bytes", "total_cache", "total_shmem"),
    };
    let read = |name| std::fs::read_to_string(directory.join(name)).ok();
    let total: u64 = read(total)?.trim().parse().ok()?;
    let details = read("memory.stat").unwrap_or_default();
    let detail = |key| detail(&details, key);
    let reclaimable = detail(cache)
        .unwrap_or(0)
        .saturating_sub(detail(shared).unwrap_or(0));
    Some(total.saturating_sub(reclaimable))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1: &str = "40 39 0:36 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    /// A temporary tree that replaces `/`.
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
    fn the_machine_uses_all_memory_that_is_not_available() {
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
    fn version_2_counts_everything_except_the_page_cache() {
        let files = [
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.current", "900\n"),
            (
                "sys/fs/cgroup/memory.stat",
                "anon 300\nfile 500\nsock 70\nshmem 100\n",
            ),
        ];
        let machine = machine("0::/\n", V2, &files);
        assert_eq!(read(&machine), Some((500, 1000)));
        assert_eq!(Limiting::find(machine.path()).sockets(), Some(70));
        // The pod is resized in place.
        std::fs::write(machine.path().join(files[0].0), "2000").unwrap();
        assert_eq!(read(&machine), Some((500, 2000)));
        std::fs::write(machine.path().join(files[0].0), "max").unwrap();
        assert_eq!(read(&machine), None);
    }

    #[test]
    fn version_1_takes_the_tightest_limit_of_the_cgroup_and_its_ancestors() {
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
    fn missing_files_limit_nothing() {
        assert_eq!(read(&machine("", "", &[])), None);
        assert_eq!(read(&machine("0::/\n", V2, &[])), None);
    }
}
