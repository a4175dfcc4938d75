//! Measures workers for `limits`, and probes silent ones. `watch` and the engine
//! decide what follows.

use std::time::{Duration, Instant};

use scaledapp_engine::{Engine, Event, WorkerId, WorkerState};

use super::accept_probe::AcceptProbe;
use super::hang;
use super::measured::Measured;
use super::memory::{self, Container, Limiting};
use super::watch::Watch;
use crate::cores::Quotas;
use crate::dispatch::Front;
use crate::ends::OutOfMemory;
use crate::input::Input;
use crate::process::worker::Process;
use crate::readiness::probe;
use crate::workers::Workers;

/// The interval of measurements if memory is limited: a leak of 50 MB/s adds 12 MB in this time.
pub(crate) const CLOSE_LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The interval of measurements without a limit.
pub(crate) const RELAXED_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Measures for how long the machine has kept this process from running.
#[derive(Debug, Default)]
pub(crate) struct Starving {
    /// The time of the last call, and the throttled time until then.
    before: Option<(Instant, Duration)>,
}

impl Starving {
    /// The time lost since the last call: the time lost to the quota, or the delay of this
    /// call, whichever is longer.
    fn look(&mut self, now: Instant, throttled: Duration) -> Duration {
        let Some((then, taken)) = self.before.replace((now, throttled)) else {
            return Duration::ZERO;
        };
        let elapsed = now - then;
        // The kernel sums over CPUs, but no more than the elapsed time can be lost.
        let by_quota = throttled.saturating_sub(taken).min(elapsed);
        let late = elapsed.saturating_sub(RELAXED_LOOK_INTERVAL * 2);
        by_quota.max(late)
    }
}

/// The limits of workers, and what they share: CPU time and memory.
#[derive(Debug)]
pub(crate) struct Measuring {
    pub(crate) watch: Watch,
    pub(crate) quotas: Quotas,
    pub(crate) memory: Limiting,
    pub(crate) out_of_memory: OutOfMemory,
    pub(crate) starving: Starving,
}

impl Measuring {
    /// Whether there is no memory for one more worker.
    pub(crate) fn is_crowded(&self) -> bool {
        self.watch.is_crowded(self.free())
    }

    /// The memory of the container, or of the machine if the container has no limit.
    pub(crate) fn free(&self) -> Option<Container> {
        self.memory.read().or_else(memory::of_machine)
    }

    /// By how much the boot deadlines have to be extended, because the machine has kept
    /// workers from running since the last call.
    pub(crate) fn starved(&mut self, engine: &Engine) -> Option<Event> {
        let is_starting = |state| state == WorkerState::Starting;
        if !engine.workers().any(|worker| is_starting(worker.state)) {
            self.starving = Starving::default();
            return None;
        }
        let throttled = self.quotas.throttled().unwrap_or_default();
        let starved = self.starving.look(Instant::now(), throttled);
        (starved >= Duration::from_millis(10)).then_some(Event::Starved(starved))
    }

    /// Measures all workers and returns the events that follow. `now` is the time since the
    /// supervisor's start, and `wanted` the number of workers that share the container's memory.
    pub(crate) fn look(
        &mut self,
        engine: &Engine,
        workers: &mut Workers,
        now: Duration,
        wanted: u64,
    ) -> Vec<Event> {
        let measured = self.measure(engine, workers, now);
        let container = self.memory.read();
        // The kill counter must be read regularly, so that it is known when it grew.
        self.out_of_memory.look(Instant::now());
        let was_too_small = self.watch.is_too_small;
        let events = self.watch.look(now, &measured, container, wanted);
        if self.watch.is_too_small && !was_too_small {
            tracing::warn!(
                "workers of normal size fill the container: raise its memory limit or run fewer \
                 (--workers); before the kernel ends all of them, the largest will be killed"
            );
        }
        events
    }

    fn measure(&self, engine: &Engine, workers: &mut Workers, now: Duration) -> Vec<Measured> {
        let silence = self.watch.silence();
        let silent =
            silence.map(|most| hang::silent_workers(engine, workers, now, most, &self.quotas));
        let silent = silent.unwrap_or_default();
        let is_lone =
            matches!(workers.front, Front::Connection(_)) && engine.workers().count() == 1;
        let measured = engine.workers().filter_map(|worker| {
            let process = workers.get_mut(worker.id)?;
            let is_ready = worker.state == WorkerState::Ready;
            let tree = memory::tree(process.pid);
            look_for_forks(process, &tree, is_lone);
            // By the time a worker is ready, a wrapper script has started the real process.
            let runs_node = || tree.iter().any(|pid| is_node(*pid));
            let capped = is_ready && *process.is_node.get_or_insert_with(runs_node);
            let hung = silent.get(&worker.id).copied();
            let hung = hung
                .or_else(|| not_accepting(workers, worker.id, now, silence.filter(|_| is_ready)?));
            Some(Measured {
                worker: worker.id,
                age: is_ready.then(|| now.saturating_sub(worker.since)),
                bytes: memory::of(&tree).unwrap_or(0),
                served: workers.front.served(worker.id),
                capped: capped && workers.recipe.caps_heap,
                hung,
            })
        });
        measured.collect()
    }
}

/// Warns of an app that forks workers of its own, because it would do so in every worker.
/// `is_lone` says that there is one worker whose connections are its own: its cluster works.
fn look_for_forks(process: &mut Process, tree: &[u32], is_lone: bool) {
    let before = std::mem::replace(&mut process.family, tree.len());
    if !is_lone && tree.len() > before.max(1) && tree[1..].iter().any(|pid| is_cluster_worker(*pid))
    {
        tracing::warn!(
            slot = process.slot.0,
            "the app forks workers of its own (Node's cluster), and so does every worker: remove \
             cluster.fork from the app, or give --workers 1 --dispatch connection (in a ScaledApp: \
             `workers: {{count: 1, dispatch: Connection}}`)"
        );
    }
}

/// For how long a worker with work has made no progress, once it is known that it accepts
/// no connections either. A worker without progress for longer than `most` is probed.
fn not_accepting(
    workers: &mut Workers,
    worker: WorkerId,
    now: Duration,
    most: Duration,
) -> Option<Duration> {
    let port = workers.recipe.port?;
    let silent = workers.front.silent(worker);
    let silent = silent.filter(|silent| *silent >= most);
    let inputs = workers.inputs.clone();
    let process = workers.get_mut(worker)?;
    let address = *process.addresses.get(&port)?;
    if process.accept_probe.look(now, silent.is_some(), most) {
        workers.run_for(worker, async move {
            let accepts = probe::accepts(address).await;
            drop(inputs.send(Input::Accepts(worker, accepts)));
        });
        return None;
    }
    silent.filter(|_| process.accept_probe == AcceptProbe::Refuses)
}

/// Whether the process runs Node, judged by the name of its program.
fn is_node(pid: u32) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|path| path.file_name().is_some_and(|name| name == "node"))
}

/// Whether Node's cluster module forked the process. The module numbers its children by the
/// variable `NODE_UNIQUE_ID`.
fn is_cluster_worker(pid: u32) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| variable.starts_with(b"NODE_UNIQUE_ID="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_time_is_the_throttled_time_or_the_delay_of_a_look() {
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
