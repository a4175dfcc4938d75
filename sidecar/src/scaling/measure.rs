//! Looks at what the workers do: their requests, the CPU time that they use, and whether one of
//! them does not start. `decide` decides what follows.
//!
//! CPU time is that of a worker's whole process tree (`proc_pid_stat(5)`). The time for which the
//! main thread was ready to run but had no CPU counts as busy time (`/proc/PID/schedstat`), because
//! otherwise a worker on a crowded machine would seem to be idle.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use scaledapp_engine::{Engine, SlotState, WorkerId, WorkerState};
use scaledapp_proc::{Container, sockets};

use super::look::{Hold, Look};
use crate::cores::Cores;
use crate::limits::memory;
use crate::process::cpu_time;
use crate::workers::Workers;

/// The shortest time over which CPU time is measured: the kernel reports it in steps of 10 ms.
const CPU_INTERVAL: Duration = Duration::from_millis(90);
/// A worker that was busy for this share of the time counts as having computed all the time.
const SATURATED: f64 = 0.85;
/// A worker boots for longer than usual if it takes longer than this many times the usual time
/// plus [`SLOW_BOOT`].
const SLOW_BOOT_FACTOR: u32 = 2;
const SLOW_BOOT: Duration = Duration::from_millis(500);
/// A worker that has failed before must have served for this long before it counts as sound.
const SOUND_AFTER: Duration = Duration::from_secs(10);
/// This many unexpected ends within [`CRASH_WINDOW`] are a loop, however long the workers served.
const CRASHES: usize = 3;
const CRASH_WINDOW: Duration = Duration::from_secs(30);
/// The share of the memory that workers may fill before no further one starts, in percent. From
/// this share on, the largest worker would be recycled (`limits::watch`).
const FILLED_PERCENT: u64 = 85;

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub(super) struct Load {
    samples: HashMap<WorkerId, Sample>,
    own: Sample,
    /// How many requests a worker works on at the same time, once that is known: from a worker that
    /// left connections in its accept queue although it did not compute.
    concurrency: Option<u32>,
    usual_boot: Option<Duration>,
    /// The last unexpected ends: when, and in which slot.
    crashes: VecDeque<(Duration, u32)>,
}

/// The CPU time of a process tree at a time, and its use before.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at: Duration,
    cpu: Duration,
    /// CPU time of the main threads, and the time for which they waited for it.
    main: Duration,
    /// CPU time used, in cores.
    used: f64,
    /// How busy it was.
    busy: f64,
    /// How long that was measured.
    over: Duration,
    /// Whether connections waited at it at the last look although it did not compute.
    is_full: bool,
}

/// What a look needs from elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings {
    pub(super) cores: Cores,
    /// Requests that wait in the dispatcher.
    pub(super) queued: u32,
    /// The most requests that a worker may have; 0: no limit.
    pub(super) concurrency: u32,
    pub(super) memory: Option<Container>,
}

/// The memory of one worker.
#[derive(Debug, Clone, Copy)]
struct Size {
    bytes: u64,
    /// Whether it will grow to its normal size.
    is_starting: bool,
}

/// The requests and the CPU time of one worker.
#[derive(Debug, Clone, Copy)]
struct Work {
    awaited: u32,
    waiting: u32,
    sample: Sample,
}

impl Load {
    /// Notes that a worker was ready after this time.
    pub(super) fn booted(&mut self, after: Duration) {
        let usual = self
            .usual_boot
            .map_or(after, |usual| (usual * 3 + after) / 4);
        self.usual_boot = Some(usual);
    }

    /// Notes that the worker of a slot has ended unexpectedly.
    pub(super) fn crashed(&mut self, now: Duration, slot: u32) {
        if self.crashes.len() == CRASHES {
            self.crashes.pop_front();
        }
        self.crashes.push_back((now, slot));
    }

    /// Looks at all workers. `now` is the time since the supervisor's start.
    pub(super) fn look(
        &mut self,
        now: Duration,
        engine: &Engine,
        workers: &Workers,
        around: Surroundings,
    ) -> Look {
        let own = [std::process::id()];
        self.own = self.own.next(now, &own);
        let (mut used, mut seen) = (self.own.used, HashMap::new());
        let (mut works, mut sizes) = (Vec::new(), Vec::new());
        let mut starting = 0;
        for view in engine.workers() {
            let Some(process) = workers.get(view.id) else {
                continue;
            };
            let tree = memory::tree(process.pid);
            let before = self.samples.get(&view.id).copied();
            let mut sample = before.unwrap_or_default().next(now, &tree);
            used += sample.used;
            let is_starting = view.state == WorkerState::Starting;
            starting += u32::from(is_starting);
            sizes.push(Size {
                bytes: memory::of(&tree).unwrap_or(0),
                is_starting,
            });
            if view.state == WorkerState::Ready {
                let endpoints = workers.front.endpoints(view.id);
                let awaited = endpoints.iter().map(|endpoint| endpoint.awaited()).sum();
                let ports = endpoints.iter().map(|endpoint| endpoint.address().port());
                let queue = (awaited > 1).then(|| ports.map(accept_queue).sum::<u32>());
                let queue = queue.unwrap_or(0).min(awaited);
                let by_cpu = if sample.busy >= SATURATED {
                    awaited.saturating_sub(1)
                } else {
                    0
                };
                let is_full = queue > 0 && sample.busy < SATURATED;
                let was_full = std::mem::replace(&mut sample.is_full, is_full);
                self.learn(awaited - queue, is_full && was_full);
                works.push(Work {
                    awaited,
                    waiting: queue.max(by_cpu),
                    sample,
                });
            }
            seen.insert(view.id, sample);
        }
        self.samples = seen;
        let look = self.summed(&works, around);
        let by_ready: f64 = works.iter().map(|work| work.sample.used).sum();
        let slots = slots(engine, now);
        Look {
            desired: engine.desired(),
            ready: engine.ready(),
            free_cores: around.cores.usable() - used,
            cores_each: by_ready / works.len().max(1) as f64,
            boots: boots(around.cores, starting),
            room: around
                .memory
                .map_or(u32::MAX, |memory| room(memory, &sizes)),
            may_stop: slots.may_stop,
            crashing: slots.crashing,
            hold: self.hold(now, engine, slots.failing),
            ..look
        }
    }

    /// Learns from a worker that works on `accepted` requests; if it `is_full`, it takes no more.
    fn learn(&mut self, accepted: u32, is_full: bool) {
        let known = self.concurrency;
        if is_full || known.is_some_and(|known| known < accepted) {
            self.concurrency = Some(accepted.max(known.unwrap_or(1)));
        }
    }

    /// The load of all ready workers.
    fn summed(&self, works: &[Work], around: Surroundings) -> Look {
        let limit = around.concurrency;
        let share = |awaited: u32, of: u32| f64::from(awaited) / f64::from(of.max(1));
        let known = Some(limit).filter(|limit| *limit > 0).or(self.concurrency);
        let mut look = Look {
            waiting: around.queued,
            concurrency: limit,
            ..Look::default()
        };
        for work in works {
            let busy = if limit > 0 {
                work.sample.busy.max(share(work.awaited, limit).min(1.0))
            } else {
                work.sample.busy
            };
            look.busy += busy;
            let occupied = known.map_or(0.0, |known| share(work.awaited, known));
            look.occupied += busy.max(occupied);
            look.waiting = look.waiting.saturating_add(work.waiting);
            if work.waiting > 0 && work.sample.busy >= SATURATED && work.sample.over >= CPU_INTERVAL
            {
                // The worker has computed since the last look, so its other requests have waited.
                look.waited = look.waited.max(CPU_INTERVAL);
            }
        }
        look
    }

    /// The slot of the last worker that ended unexpectedly, if that happens again and again.
    fn looping(&self, now: Duration) -> Option<u32> {
        let recent = self.crashes.iter();
        let recent = recent.filter(|(at, _)| now.saturating_sub(*at) <= CRASH_WINDOW);
        let (_, slot) = self.crashes.back().filter(|_| recent.count() >= CRASHES)?;
        Some(*slot)
    }

    fn hold(&self, now: Duration, engine: &Engine, failing: Option<u32>) -> Option<Hold> {
        if engine.is_replacing() {
            return Some(Hold::Replacing);
        }
        if let Some(slot) = failing.or_else(|| self.looping(now)) {
            return Some(Hold::Crashing(slot));
        }
        let longest = self.usual_boot? * SLOW_BOOT_FACTOR + SLOW_BOOT;
        let mut slow = engine.workers().filter(|worker| {
            worker.state == WorkerState::Starting && now.saturating_sub(worker.started) > longest
        });
        slow.next().map(|worker| Hold::SlowBoot(worker.slot.0))
    }
}

impl Sample {
    /// The next sample, of the processes in `tree`; or this one, if too little time has passed.
    fn next(self, now: Duration, tree: &[u32]) -> Self {
        let over = now.saturating_sub(self.at);
        let is_first = self.at.is_zero();
        if !is_first && over < CPU_INTERVAL {
            return Self {
                over: Duration::ZERO,
                ..self
            };
        }
        let cpu = tree.iter().filter_map(|pid| cpu_time(*pid)).sum();
        let main = tree.iter().filter_map(|pid| main_thread(*pid)).sum();
        if is_first {
            return Self {
                at: now,
                cpu,
                main,
                ..self
            };
        }
        let share = |after: Duration, before: Duration| {
            after.saturating_sub(before).as_secs_f64() / over.as_secs_f64()
        };
        let used = share(cpu, self.cpu);
        Self {
            at: now,
            cpu,
            main,
            used,
            busy: used.max(share(main, self.main)).min(1.0),
            over,
            ..self
        }
    }
}

/// The time for which the main thread of a process has run or could have run.
fn main_thread(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    ran_or_waited(&text)
}

/// Parses `run wait slices`, times in nanoseconds (`Documentation/scheduler/sched-stats.rst`).
fn ran_or_waited(text: &str) -> Option<Duration> {
    let mut fields = text.split_ascii_whitespace();
    let mut next = || fields.next()?.parse().ok().map(Duration::from_nanos);
    Some(next()? + next()?)
}

/// How many connections wait to be accepted at a worker's own port. 0 if the kernel or a sandbox
/// does not tell.
fn accept_queue(port: u16) -> u32 {
    let listening = sockets::at_port(port, sockets::LISTEN).unwrap_or_default();
    listening.iter().map(|socket| socket.queue).sum()
}

/// What the slots permit.
struct Slots {
    failing: Option<u32>,
    /// How many of the highest slots in a row have failed repeatedly and are not ready.
    crashing: u32,
    may_stop: bool,
}

fn slots(engine: &Engine, now: Duration) -> Slots {
    let has_served_long = |slot| {
        let mut ready = engine
            .workers()
            .filter(|one| one.slot == slot && one.state == WorkerState::Ready);
        ready.any(|one| now.saturating_sub(one.since) >= SOUND_AFTER)
    };
    let mut slots = Slots {
        failing: None,
        crashing: 0,
        may_stop: true,
    };
    let last = engine.desired().saturating_sub(1);
    let mut others_serve = true;
    for view in engine.slots() {
        let is_ready = view.state == SlotState::Ready;
        if view.failures > 0 && !has_served_long(view.slot) {
            slots.failing = Some(view.slot.0);
        }
        let is_crashing = view.failures > 1 && !is_ready;
        slots.crashing = if is_crashing { slots.crashing + 1 } else { 0 };
        if view.slot.0 == last {
            slots.may_stop = others_serve || !is_ready;
        }
        others_serve &= is_ready;
    }
    slots
}

/// How many more workers may boot at the same time: two per core, and at least four, so that a load
/// that grows fivefold is met in one step. Booting takes CPU time from the workers that serve.
fn boots(cores: Cores, starting: u32) -> u32 {
    let most = (cores.usable() * 2.0) as u32;
    most.max(4).saturating_sub(starting)
}

/// For how many more workers there is memory, if each becomes as large as the largest one.
fn room(memory: Container, sizes: &[Size]) -> u32 {
    let largest = sizes.iter().map(|size| size.bytes).max();
    let Some(largest) = largest.filter(|largest| *largest > 0) else {
        return u32::MAX;
    };
    let growing = sizes.iter().filter(|size| size.is_starting);
    let growth: u64 = growing.map(|size| largest - size.bytes).sum();
    let most = memory.limit / 100 * FILLED_PERCENT;
    let soon = memory.used.saturating_add(growth);
    u32::try_from(most.saturating_sub(soon) / largest).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn there_is_room_for_workers_as_large_as_the_largest() {
        let memory = |used| Container {
            used: used * MIB,
            limit: 1000 * MIB,
        };
        let size = |bytes, is_starting| Size {
            bytes: bytes * MIB,
            is_starting,
        };
        let two = [size(100, false), size(60, false)];
        assert_eq!(room(memory(160), &two), 6);
        assert_eq!(room(memory(755), &two), 0);
        assert_eq!(room(memory(999), &two), 0);
        // The one that is starting will be as large as the others.
        let third = [size(100, false), size(60, false), size(10, true)];
        assert_eq!(room(memory(170), &third), 5);
        assert_eq!(room(memory(999), &[]), u32::MAX);
    }

    #[test]
    fn how_much_a_worker_does_at_the_same_time_is_known_once_one_was_full() {
        let mut load = Load::default();
        let mut learn = |accepted, is_full| {
            load.learn(accepted, is_full);
            load.concurrency
        };
        assert_eq!(learn(30, false), None);
        assert_eq!(learn(1, true), Some(1));
        assert_eq!(learn(1, false), Some(1));
        assert_eq!(learn(4, false), Some(4));
        assert_eq!(learn(2, true), Some(4));
    }

    #[test]
    fn a_main_thread_that_waits_for_a_cpu_is_busy() {
        assert_eq!(
            ran_or_waited("5000000 3000000 42\n"),
            Some(Duration::from_millis(8))
        );
        assert_eq!(ran_or_waited("5000000"), None);
        assert!(main_thread(std::process::id()).is_some());
    }

    #[test]
    fn a_process_is_as_busy_as_it_computes() {
        let own = [std::process::id()];
        let ms = Duration::from_millis;
        let first = Sample::default().next(ms(1), &own);
        assert!(first.busy < 0.001 && first.used < 0.001, "{first:?}");
        let start = std::time::Instant::now();
        while start.elapsed() < ms(150) {}
        let second = first.next(ms(151), &own);
        assert!(second.busy > 0.8 && second.used > 0.3, "{second:?}");
        let third = second.next(ms(160), &own);
        assert_eq!(third.at, second.at, "it is too soon");
    }

    #[test]
    fn three_ends_within_half_a_minute_are_a_loop() {
        let mut load = Load::default();
        let seconds = Duration::from_secs;
        for at in [1, 2, 20] {
            load.crashed(seconds(at), 1);
        }
        assert_eq!(load.looping(seconds(25)), Some(1));
        assert_eq!(load.looping(seconds(32)), None);
        load.crashed(seconds(33), 0);
        assert_eq!(load.looping(seconds(33)), None);
        load.crashed(seconds(34), 2);
        assert_eq!(load.looping(seconds(34)), Some(2));
    }
}
