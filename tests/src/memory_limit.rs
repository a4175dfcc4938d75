//! Containers with little memory, as far as memory is concerned: cgroups with a limit.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::wait;

/// A cgroup with a memory limit, v1 or v2 as the machine supports it. It is removed when the value
/// is dropped.
#[derive(Debug)]
pub struct Limited(PathBuf);

impl Limited {
    /// Makes one; `None` if that is not possible here, which is printed.
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    pub fn new(mebibytes: u64) -> Option<Self> {
        // The limit is part of the name, so that tests of one process use different groups.
        let name = format!("scaledapp-test-{}-{mebibytes}", std::process::id());
        let bytes = (mebibytes << 20).to_string();
        for (root, limit) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = Self(PathBuf::from(root).join(&name));
            // The kernel makes the limit's file with the group. Without this check, the write below
            // would create it in an ordinary directory.
            let made = fs::create_dir(&group.0).is_ok() && group.0.join(limit).exists();
            if made && fs::write(group.0.join(limit), &bytes).is_ok() {
                // Swap would hide the growth.
                drop(fs::write(group.0.join("memory.swap.max"), "0"));
                return Some(group);
            }
        }
        println!("skipped: no cgroup with a memory limit can be made here");
        None
    }

    /// The words before a command that run it in the group.
    pub fn wrapper(&self) -> Vec<String> {
        let script = "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"";
        ["sh", "-c", script, &self.0.to_string_lossy()]
            .map(str::to_owned)
            .into()
    }

    /// How often the kernel has killed processes of the group.
    pub fn kills(&self) -> u64 {
        let read = |name: &str| fs::read_to_string(self.0.join(name)).unwrap_or_default();
        let text = read("memory.oom_control") + &read("memory.events");
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        let kills = pairs.filter(|(name, _)| *name == "oom_kill");
        kills
            .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // The group's last processes may still be ending.
        let gone = || !self.0.exists() || fs::remove_dir(&self.0).is_ok();
        drop(wait::until_true(
            Duration::from_secs(10),
            "the cgroup is empty",
            gone,
        ));
    }
}
