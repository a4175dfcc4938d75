//! CPU time of processes, as the scheduler counts it. The caller chooses the processes.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// Run time of all threads of a process, user and system, since each started
/// (nanoseconds in the first field of `/proc/PID/task/TID/schedstat`;
/// Documentation/scheduler/sched-stats.rst).
///
/// # Errors
/// The process has exited.
pub fn run_time(pid: u32) -> anyhow::Result<Duration> {
    let mut time = Duration::ZERO;
    let threads =
        fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))?;
    for thread in threads {
        // A thread may end between the listing and the read.
        if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
            let nanoseconds = text.split(' ').next().context("schedstat is empty")?;
            time += Duration::from_nanos(nanoseconds.parse()?);
        }
    }
    Ok(time)
}

/// The sum of [`run_time`] of several processes.
///
/// # Errors
/// One of the processes has exited.
pub fn run_time_of(pids: &[u32]) -> anyhow::Result<Duration> {
    pids.iter().map(|pid| run_time(*pid)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_time_grows_with_work() {
        let before = run_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        for number in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(number));
        }
        assert!(run_time_of(&[std::process::id()]).unwrap() > before);
        assert!(run_time(0).is_err());
    }
}
