//! Measures workers for `limits`, and asks silent ones whether they still hear.
//! What follows is decided there and in the engine.

use std::time::{Duration, Instant};

use scaledapp_engine::{Event, WorkerId, WorkerState};

use crate::input::Input;
use crate::limits::memory;
use crate::limits::{Hearing, Measured};
use crate::readiness::probe;
use crate::supervisor::Supervisor;

/// Between two looks where memory is limited: a leak of 50 MB/s adds 12 MB.
pub(crate) const CLOSE: Duration = Duration::from_millis(250);
/// Between two looks where nothing is.
pub(crate) const RELAXED: Duration = Duration::from_secs(1);

/// Finds out for how long the machine has kept us from running.
#[derive(Debug, Default)]
pub(crate) struct Starving {
    /// When it was looked last, and what the quota had taken until then.
    before: Option<(Instant, Duration)>,
}

impl Starving {
    /// Since the last look: what the quota has taken, or by how much we come late.
    fn look(&mut self, now: Instant, throttled: Duration) -> Duration {
        let Some((then, taken)) = self.before.replace((now, throttled)) else {
            return Duration::ZERO;
        };
        let elapsed = now - then;
        // Each CPU counts for itself; more than all of the time cannot be missing.
        let by_quota = throttled.saturating_sub(taken).min(elapsed);
        let late = elapsed.saturating_sub(RELAXED * 2);
        by_quota.max(late)
    }
}

impl Supervisor {
    /// What has to happen because of what workers have and do.
    pub(crate) fn look(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.starting() {
            let throttled = self.quotas.throttled().unwrap_or_default();
            let starved = self.state.starving.look(Instant::now(), throttled);
            if starved >= Duration::from_millis(10) {
                events.push(Event::Starved(starved));
            }
        } else {
            self.state.starving = Starving::default();
        }
        if self.state.stopping {
            return events;
        }
        let now = self.started.elapsed();
        let measured: Vec<Measured> = self.measure(now);
        let container = self.memory.read();
        // Its counter says more when it is seen to grow.
        self.out_of_memory.look(Instant::now());
        let was_too_small = self.watch.is_too_small;
        let wanted = u64::from(self.engine.desired());
        events.extend(self.watch.look(now, &measured, container, wanted));
        if self.watch.is_too_small && !was_too_small {
            tracing::warn!(
                "workers fill the container as they are born: raise its memory limit or run fewer \
                 (--workers); before the kernel ends all of them, the largest will be killed"
            );
        }
        events
    }

    fn starting(&self) -> bool {
        let mut workers = self.engine.workers();
        workers.any(|worker| worker.state == WorkerState::Starting)
    }

    fn measure(&mut self, now: Duration) -> Vec<Measured> {
        let silent = self.silent_workers(now);
        let workers: Vec<_> = self.engine.workers().collect();
        let measured = workers.into_iter().filter_map(|worker| {
            let pid = self.state.processes.get(&worker.id)?.pid;
            let is_ready = worker.state == WorkerState::Ready;
            let tree = memory::tree(pid);
            self.look_for_forks(worker.id, &tree);
            let deaf = silent.get(&worker.id).copied().or_else(|| {
                if is_ready {
                    self.deaf(worker.id, now)
                } else {
                    None
                }
            });
            let process = self.state.processes.get_mut(&worker.id)?;
            // What a wrapper has started is there when it listens.
            let runs_node = || tree.iter().any(|pid| is_node(*pid));
            let capped = is_ready && *process.is_node.get_or_insert_with(runs_node);
            Some(Measured {
                worker: worker.id,
                age: is_ready.then(|| now.saturating_sub(worker.since)),
                bytes: memory::of(&tree).unwrap_or(0),
                served: self.front.served(worker.id),
                capped: capped && self.recipe.caps_heap,
                deaf,
            })
        });
        measured.collect()
    }

    /// An app that multiplies itself would do so in every worker.
    fn look_for_forks(&mut self, worker: WorkerId, tree: &[u32]) {
        let Some(process) = self.state.processes.get_mut(&worker) else {
            return;
        };
        let before = std::mem::replace(&mut process.family, tree.len());
        if tree.len() > before.max(1) && tree[1..].iter().any(|pid| is_cluster_worker(*pid)) {
            tracing::warn!(
                slot = process.slot.0,
                "the app forks workers of its own (Node's cluster), and every worker does: take \
                 cluster.fork out of it, or give --workers 1"
            );
        }
    }

    /// For how long a worker with work has shown no sign of life, once it is known
    /// to accept no connection either.
    fn deaf(&mut self, worker: WorkerId, now: Duration) -> Option<Duration> {
        let most = self.watch.silence()?;
        let port = self.recipe.port?;
        let silent = self.front.silent(worker).filter(|silent| *silent >= most);
        let process = self.state.processes.get_mut(&worker)?;
        let address = *process.addresses.get(&port)?;
        if process.hearing.look(now, silent.is_some(), most) {
            let inputs = self.inputs.clone();
            self.run_for(worker, async move {
                let accepts = probe::accepts(address).await;
                drop(inputs.send(Input::Accepts(worker, accepts)));
            });
            return None;
        }
        silent.filter(|_| process.hearing == Hearing::Deaf)
    }

    /// A silent worker was asked.
    pub(crate) fn heard(&mut self, worker: WorkerId, accepts: bool) {
        let now = self.started.elapsed();
        if let Some(process) = self.state.processes.get_mut(&worker) {
            process.hearing.told(now, accepts);
        }
    }
}

/// Whether the process runs Node, by the name of its program.
fn is_node(pid: u32) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|path| path.file_name().is_some_and(|name| name == "node"))
}

/// Node's cluster module numbers what it forks by this variable.
fn is_cluster_worker(pid: u32) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| variable.starts_with(b"NODE_UNIQUE_ID="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_the_machine_took_is_what_the_quota_took_or_what_we_come_late() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let taken = Duration::from_millis;
        let mut starving = Starving::default();
        assert_eq!(starving.look(at(0), taken(5000)), Duration::ZERO);
        assert_eq!(starving.look(at(1000), taken(5000)), Duration::ZERO);
        assert_eq!(starving.look(at(2000), taken(5900)), taken(900));
        // Four CPUs were throttled.
        assert_eq!(starving.look(at(3000), taken(9000)), taken(1000));
        // The virtual machine was paused.
        assert_eq!(starving.look(at(33_000), taken(9000)), taken(28_000));
    }
}
