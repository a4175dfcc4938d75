//! The lines of `/load`: how busy the workers are, for the autoscaler.
//!
//! Everything is measured when a line is due, so nothing is measured while nobody reads.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use scaledapp_proxy::Proxy;
use scaledapp_wire::PodLoad;

use super::state::{State, WorkerReport, lock};
use crate::limits::memory;
use crate::process::{cpu_time, cpu_time_of_ended_children};

/// The shortest time between two measurements of CPU time, however many streams are read.
const CPU_INTERVAL: Duration = Duration::from_millis(200);

/// What the lines are made of.
pub(super) struct Measured {
    pub(super) state: Arc<State>,
    /// In Request dispatch, the proxy of each shared port.
    pub(super) proxies: Vec<Arc<Proxy>>,
    /// Identifies the process.
    pub(super) run: String,
    pub(super) cpu: Mutex<Cpu>,
}

/// The last measurement of the CPU time of all workers.
#[derive(Debug, Default)]
pub(super) struct Cpu {
    at: Option<Instant>,
    time: Duration,
}

impl Cpu {
    /// The CPU time of the workers, those of process groups `groups` and those that have ended.
    fn of(&mut self, groups: &[u32], now: Instant) -> Duration {
        let is_recent = |at: Instant| now.duration_since(at) < CPU_INTERVAL;
        if self.at.is_some_and(is_recent) {
            return self.time;
        }
        self.at = Some(now);
        // A worker that ends between two of these reads is missed until the next line. The sum
        // must not fall meanwhile, because readers take differences.
        let ended = cpu_time_of_ended_children(std::process::id()).unwrap_or_default();
        let living: Duration = groups.iter().map(|group| of_tree(*group)).sum();
        self.time = self.time.max(ended + living);
        self.time
    }
}

/// The CPU time of a worker and its descendants, including those that have ended.
fn of_tree(pid: u32) -> Duration {
    let processes = memory::tree(pid).into_iter();
    let each = processes.map(|pid| {
        let own = cpu_time(pid).unwrap_or_default();
        own + cpu_time_of_ended_children(pid).unwrap_or_default()
    });
    each.sum()
}

impl Measured {
    /// The line of this moment.
    pub(super) fn line(&self) -> Bytes {
        // Numbers and a text can always be serialized.
        serde_json::to_vec(&self.load()).unwrap_or_default().into()
    }

    fn load(&self) -> PodLoad {
        let (groups, mut load) = {
            let view = lock(&self.state.view);
            let workers = &view.standing.workers;
            let groups: Vec<u32> = workers.iter().map(|worker| worker.pid).collect();
            let busy = if self.proxies.is_empty() {
                let open = |group: &u32| view.open_connections.get(group).is_some_and(|it| *it > 0);
                groups.iter().filter(|group| open(group)).count()
            } else {
                let has_work = |worker: &&WorkerReport| {
                    let mut endpoints = worker.endpoints.iter();
                    endpoints.any(|endpoint| endpoint.awaited() > 0)
                };
                workers.iter().filter(has_work).count()
            };
            let load = PodLoad {
                busy: busy as u32,
                in_flight: view.open_connections.values().sum(),
                queued: view.queued,
                workers: view.standing.ready,
                boot_seconds: self.state.first_boot.get().map(Duration::as_secs_f64),
                run: self.run.clone(),
                ..PodLoad::default()
            };
            (groups, load)
        };
        if !self.proxies.is_empty() {
            (load.in_flight, load.queued) = (0, 0);
        }
        for proxy in &self.proxies {
            let of_port = proxy.load();
            load.answers += of_port.answers;
            load.answer_seconds += of_port.answer_time.as_secs_f64();
            load.failures += of_port.failures;
            load.in_flight += of_port.in_flight;
            load.queued += of_port.queued;
        }
        let cpu = lock(&self.cpu).of(&groups, Instant::now());
        load.cpu_seconds = cpu.as_secs_f64();
        load
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn cpu_time_of_a_worker_counts_after_its_end_and_never_falls() {
        let burn = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; sleep 60";
        let mut child = Command::new("sh").args(["-c", burn]).spawn().unwrap();
        let mut cpu = Cpu::default();
        let start = Instant::now();
        let (group, mut now) = ([child.id()], start);
        let mut used = Duration::ZERO;
        while used < Duration::from_millis(50) && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
            now += CPU_INTERVAL;
            used = cpu.of(&group, now);
        }
        assert!(used >= Duration::from_millis(50), "{used:?}");
        assert_eq!(cpu.of(&[], now), used, "it is too soon to measure again");
        child.kill().unwrap();
        child.wait().unwrap();
        let after = cpu.of(&[], now + CPU_INTERVAL);
        assert!(after >= used, "{after:?} {used:?}");
        // Without what was measured before, the ended child still counts.
        let anew = Cpu::default().of(&[], now);
        assert!(anew >= Duration::from_millis(50), "{anew:?}");
    }
}
