//! Determines how many cores this process may use, and how many workers a `WorkerSpec` means.
//!
//! The number of cores is the CPU quota, otherwise the CPU request, otherwise the CPUs of
//! the affinity mask; it never exceeds the affinity mask. The quota is the smallest one of
//! this process's cgroup and all its ancestors (cgroups(7), mountinfo in
//! `proc_pid_mountinfo(5)`; v2 `cpu.max`, v1 `cpu.cfs_quota_us`). A value that cannot be
//! read limits nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use scaledapp_proc::cgroup::{self, Hierarchy};
use scaledapp_wire::MAX_WORKERS;

/// The variable that the operator sets to the CPU request from the downward API, in millicores; 0
/// means no request.
const CPU_REQUEST: &str = "SCALEDAPP_CPU_REQUEST";

/// The desired number of workers, as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerSpec {
    /// `auto`: one per core.
    Auto,
    /// `N`: exactly this many; 0 runs nothing.
    Fixed(u32),
    /// `max`: one per CPU of the affinity mask, regardless of the quota.
    Max,
    /// `-K`: this many fewer than `auto`, at least 1.
    LessThanAuto(u32),
    /// `Nx`: this many per core.
    PerCore(u32),
}

/// The text is not a [`WorkerSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a number of workers: give auto (one per core), N (e.g. 4), max (one per CPU), \
     -K (e.g. -1: one fewer than auto) or Nx (e.g. 2x: two per core), at most {MAX_WORKERS}"
)]
pub struct WorkerSpecError {
    text: String,
}

impl FromStr for WorkerSpec {
    type Err = WorkerSpecError;

    fn from_str(text: &str) -> Result<Self, WorkerSpecError> {
        let error = || WorkerSpecError {
            text: text.to_owned(),
        };
        let number = |digits: &str| {
            // `parse` alone would accept a sign.
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.parse::<u32>().ok().filter(|_| plain);
            number.filter(|number| *number <= MAX_WORKERS)
        };
        let spec = match text {
            "auto" => Some(Self::Auto),
            "max" => Some(Self::Max),
            _ => match (text.strip_prefix('-'), text.strip_suffix('x')) {
                (Some(fewer), _) => number(fewer)
                    .filter(|fewer| *fewer > 0)
                    .map(Self::LessThanAuto),
                (_, Some(each)) => number(each).filter(|each| *each > 0).map(Self::PerCore),
                (None, None) => number(text).map(Self::Fixed),
            },
        };
        spec.ok_or_else(error)
    }
}

impl fmt::Display for WorkerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(workers) => write!(f, "{workers}"),
            Self::Max => f.write_str("max"),
            Self::LessThanAuto(fewer) => write!(f, "-{fewer}"),
            Self::PerCore(each) => write!(f, "{each}x"),
        }
    }
}

/// More workers than [`MAX_WORKERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{workers} workers are too many: give at most {MAX_WORKERS}")]
pub struct TooMany {
    /// The desired number.
    pub workers: u32,
}

/// Returns `workers` if the number is allowed.
///
/// # Errors
/// The number exceeds [`MAX_WORKERS`].
pub(crate) fn within_bounds(workers: u32) -> Result<u32, TooMany> {
    if workers > MAX_WORKERS {
        return Err(TooMany { workers });
    }
    Ok(workers)
}

impl WorkerSpec {
    /// The number of workers on `cores`.
    ///
    /// # Errors
    /// The number exceeds [`MAX_WORKERS`].
    pub fn workers(self, cores: Cores) -> Result<u32, TooMany> {
        within_bounds(self.count(cores))
    }

    fn count(self, cores: Cores) -> u32 {
        match self {
            Self::Auto => cores.whole(),
            Self::Fixed(workers) => workers,
            Self::Max => cores.affinity,
            Self::LessThanAuto(fewer) => cores.whole().saturating_sub(fewer).max(1),
            Self::PerCore(each) => cores.whole().saturating_mul(each),
        }
    }
}

/// The part of the machine's CPUs that this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// CPUs in the affinity mask, which a cpuset narrows; at least 1.
    affinity: u32,
    /// The smallest CPU quota that applies, in millicores.
    quota: Option<u64>,
    /// The CPU request, in millicores.
    request: Option<u64>,
}

impl Cores {
    /// The current values; a quota changes when a running pod is resized.
    pub(crate) fn within(quotas: &Quotas) -> Self {
        let request = std::env::var(CPU_REQUEST).ok();
        Self {
            affinity: affinity(),
            quota: quotas.smallest(),
            request: request.as_deref().and_then(parse_request),
        }
    }

    /// The number of usable cores, as a fraction.
    pub fn usable(self) -> f64 {
        self.millicores() as f64 / 1000.0
    }

    fn millicores(self) -> u64 {
        let affinity = u64::from(self.affinity) * 1000;
        self.quota
            .or(self.request)
            .map_or(affinity, |limit| limit.min(affinity))
    }

    /// How many workers the usable cores carry.
    fn whole(self) -> u32 {
        scaledapp_units::cores::workers(self.millicores())
    }
}

fn affinity() -> u32 {
    match rustix::thread::sched_getaffinity(None) {
        Ok(cpus) => cpus.count().max(1),
        // The machine has more CPUs than the set has bits for (1024).
        Err(_) => std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
    }
}

fn parse_request(text: &str) -> Option<u64> {
    text.trim()
        .parse()
        .ok()
        .filter(|millicores| *millicores > 0)
}

/// The cgroups whose quota may apply to this process.
#[derive(Debug)]
pub(crate) struct Quotas(Vec<(PathBuf, Hierarchy)>);

impl Quotas {
    /// Finds the cgroups; `root` replaces `/`.
    pub(crate) fn find(root: &Path) -> Self {
        Self(cgroup::limiting(root, "cpu"))
    }

    /// The smallest quota in millicores.
    fn smallest(&self) -> Option<u64> {
        let limits = self.0.iter();
        let limits = limits.filter_map(|(directory, hierarchy)| limit_in(directory, *hierarchy));
        limits.min()
    }

    /// The total time for which a quota has kept runnable threads from running, summed over
    /// CPUs (`throttled_usec` in version 2; `throttled_time`, in nanoseconds, in version
    /// 1). `None` without a quota.
    pub(crate) fn throttled(&self) -> Option<Duration> {
        let limited = self.0.iter();
        let limited =
            limited.filter(|(directory, hierarchy)| limit_in(directory, *hierarchy).is_some());
        let time = |(directory, _): &(PathBuf, Hierarchy)| {
            let text = std::fs::read_to_string(directory.join("cpu.stat")).ok()?;
            text.lines().find_map(|line| match line.split_once(' ')? {
                ("throttled_usec", time) => time.parse().ok().map(Duration::from_micros),
                ("throttled_time", time) => time.parse().ok().map(Duration::from_nanos),
                _ => None,
            })
        };
        limited.filter_map(time).max()
    }
}

fn limit_in(directory: &Path, hierarchy: Hierarchy) -> Option<u64> {
    let read = |name| std::fs::read_to_string(directory.join(name)).ok();
    match hierarchy {
        Hierarchy::Unified => {
            let text = read("cpu.max")?;
            let (quota, period) = text.trim().split_once(' ')?;
            millicores(quota, period)
        }
        Hierarchy::Controller(_) => {
            millicores(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
        }
    }
}

/// `max` (version 2) and -1 (version 1) do not parse as numbers, so they limit nothing.
fn millicores(quota: &str, period: &str) -> Option<u64> {
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok()?;
    quota.checked_mul(1000)?.checked_div(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(affinity: u32, quota: Option<u64>, request: Option<u64>) -> Cores {
        Cores {
            affinity,
            quota,
            request,
        }
    }

    #[test]
    fn every_spec_reads_back_as_it_was_written() {
        let specs = [
            ("auto", WorkerSpec::Auto),
            ("0", WorkerSpec::Fixed(0)),
            ("12", WorkerSpec::Fixed(12)),
            ("max", WorkerSpec::Max),
            ("-1", WorkerSpec::LessThanAuto(1)),
            ("2x", WorkerSpec::PerCore(2)),
        ];
        for (text, spec) in specs {
            assert_eq!(text.parse(), Ok(spec));
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn a_text_that_is_not_a_spec_is_refused_with_the_cure() {
        let wrong = [
            "",
            "x",
            "-",
            "0x",
            "-0",
            "+1",
            "-+1",
            "+2x",
            "1.5",
            "two",
            "AUTO",
            "-1x",
            " 1",
            "1025",
            "1025x",
            "99999999999",
        ];
        for text in wrong {
            let error = text.parse::<WorkerSpec>().unwrap_err();
            assert!(error.to_string().contains("give auto"), "{text}");
        }
    }

    #[test]
    fn workers_follow_from_quota_then_request_then_affinity() {
        use WorkerSpec::{Auto, Fixed, LessThanAuto, Max, PerCore};
        let table = [
            (Auto, cores(8, None, None), 8),
            (Auto, cores(8, Some(2000), None), 2),
            (Auto, cores(1, Some(4000), None), 1),
            (Auto, cores(8, Some(1740), None), 1),
            (Auto, cores(8, Some(1750), None), 2),
            (Auto, cores(8, Some(100), None), 1),
            (Auto, cores(64, None, Some(2000)), 2),
            (Auto, cores(64, Some(4000), Some(2000)), 4),
            (Auto, cores(2, None, Some(4000)), 2),
            (PerCore(2), cores(8, Some(1500), None), 2),
            (PerCore(3), cores(2, None, None), 6),
            (LessThanAuto(1), cores(4, None, None), 3),
            (LessThanAuto(9), cores(4, None, None), 1),
            (Max, cores(8, Some(1000), Some(500)), 8),
            (Fixed(0), cores(8, None, None), 0),
            (Fixed(3), cores(1, None, None), 3),
        ];
        for (spec, cores, workers) in table {
            assert_eq!(spec.workers(cores), Ok(workers), "{spec} on {cores:?}");
        }
    }

    #[test]
    fn too_many_workers_are_refused_with_their_number() {
        let spec = WorkerSpec::PerCore(512);
        assert_eq!(spec.workers(cores(2, None, None)), Ok(MAX_WORKERS));
        let error = spec.workers(cores(3, None, None)).unwrap_err();
        assert_eq!(error, TooMany { workers: 1536 });
        assert!(error.to_string().contains("1536") && error.to_string().contains("1024"));
    }

    #[test]
    fn a_request_of_zero_or_nonsense_limits_nothing() {
        let texts = ["100", "100\n", "0", "", "1.5", "100m", "-5"].map(parse_request);
        assert_eq!(texts, [Some(100), Some(100), None, None, None, None, None]);
    }

    #[test]
    fn the_values_of_this_machine_can_be_read() {
        let cores = Cores::within(&Quotas::find(Path::new("/")));
        assert!(cores.affinity >= 1 && cores.usable() > 0.0, "{cores:?}");
    }

    /// A temporary tree that replaces `/`.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(groups: &str, mounts: &str) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            machine
                .with("proc/self/cgroup", groups)
                .with("proc/self/mountinfo", mounts)
        }

        fn with(self, path: &str, text: &str) -> Self {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }

        fn quota(&self) -> Option<u64> {
            Quotas::find(self.0.path()).smallest()
        }
    }

    const V2: &str = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
        31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "40 39 0:36 / /sys/fs/cgroup/cpu,cpuacct rw shared:18 - cgroup cgroup rw,cpu,cpuacct\n\
        41 39 0:37 / /sys/fs/cgroup/cpuset rw shared:19 - cgroup cgroup rw,cpuset\n";

    #[test]
    fn version_2_takes_the_smallest_quota_of_the_cgroup_and_its_ancestors() {
        let machine = Machine::new("0::/a/b/c\n", V2)
            .with("sys/fs/cgroup/a/cpu.max", "150000 100000\n")
            .with("sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
            .with("sys/fs/cgroup/a/b/c/cpu.max", "400000 100000\n")
            .with("sys/fs/cgroup/a/other/cpu.max", "1000 100000\n");
        assert_eq!(machine.quota(), Some(1500));
        let machine = machine.with("sys/fs/cgroup/a/b/c/cpu.max", "50000 200000\n");
        assert_eq!(machine.quota(), Some(250));
    }

    #[test]
    fn version_2_in_a_cgroup_namespace_reads_the_mount_itself() {
        let machine = Machine::new("0::/\n", V2).with("sys/fs/cgroup/cpu.max", "200000 100000\n");
        assert_eq!(machine.quota(), Some(2000));
    }

    #[test]
    fn max_limits_nothing() {
        let machine = Machine::new("0::/a\n", V2).with("sys/fs/cgroup/a/cpu.max", "max 100000\n");
        assert_eq!(machine.quota(), None);
    }

    #[test]
    fn version_1_reads_quota_and_period_of_the_cgroup_and_its_ancestors() {
        let groups = "5:cpuset:/elsewhere\n4:cpu,cpuacct:/pod/app\n0::/\n";
        let machine = Machine::new(groups, V1)
            .with("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
            .with("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
            .with("sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us", "300000\n")
            .with(
                "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us",
                "100000\n",
            )
            .with("sys/fs/cgroup/cpu,cpuacct/pod/app/cpu.cfs_quota_us", "-1\n")
            .with(
                "sys/fs/cgroup/cpu,cpuacct/pod/app/cpu.cfs_period_us",
                "100000\n",
            );
        assert_eq!(machine.quota(), Some(3000));
    }

    #[test]
    fn hybrid_machines_are_limited_by_the_tighter_hierarchy() {
        let mounts = format!("{V1}50 39 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let machine = Machine::new("4:cpu,cpuacct:/app\n0::/app\n", &mounts)
            .with("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us", "250000\n")
            .with(
                "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us",
                "100000\n",
            );
        assert_eq!(machine.quota(), Some(2500));
        let machine = machine.with("sys/fs/cgroup/unified/app/cpu.max", "100000 100000\n");
        assert_eq!(machine.quota(), Some(1000));
    }

    #[test]
    fn a_container_without_a_namespace_sees_its_own_part_mounted() {
        let mounts = "40 39 0:36 /kubepods/pod7/app /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
        let machine = Machine::new("4:cpu:/kubepods/pod7/app\n", mounts)
            .with("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000")
            .with("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
        assert_eq!(machine.quota(), Some(1500));
    }

    #[test]
    fn a_mount_with_a_foreign_root_is_used_only_if_there_is_no_other() {
        let foreign = "31 23 0:26 /../pod8 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let machine =
            Machine::new("0::/\n", foreign).with("sys/fs/cgroup/cpu.max", "100000 100000\n");
        assert_eq!(machine.quota(), Some(1000));
        let both = format!("{foreign}32 23 0:26 / /mnt/my\\040own rw - cgroup2 cgroup2 rw\n");
        let machine = Machine::new("0::/\n", &both)
            .with("sys/fs/cgroup/cpu.max", "100000 100000\n")
            .with("mnt/my own/cpu.max", "700000 100000\n");
        assert_eq!(machine.quota(), Some(7000));
    }

    #[test]
    fn a_group_outside_the_namespace_leads_only_to_the_mount() {
        let machine = Machine::new("0::/../sibling\n", V2)
            .with("sys/fs/cgroup/cpu.max", "300000 100000\n")
            .with("sys/fs/sibling/cpu.max", "100000 100000\n");
        assert_eq!(machine.quota(), Some(3000));
    }

    #[test]
    fn missing_and_garbled_files_limit_nothing() {
        let empty = Machine(tempfile::tempdir().unwrap());
        assert_eq!(empty.quota(), None);
        let garbled = Machine::new("nonsense\n0::/a\n", "short\n31 - cgroup2\n");
        assert_eq!(garbled.quota(), None);
        for text in ["", "100000", "x y", "100000 0", "-5 100000"] {
            let machine = Machine::new("0::/a\n", V2).with("sys/fs/cgroup/a/cpu.max", text);
            assert_eq!(machine.quota(), None, "{text}");
        }
    }
}
