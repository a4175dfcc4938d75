//! Decides which worker has to be replaced before it does harm, and how: recycled (it drains, and
//! its successor starts first if there is memory for both) or killed (because it hangs, or because
//! the kernel would otherwise kill the container). This file decides from measurements and reads
//! neither files nor a clock.
//!
//! With cgroup v2, Kubernetes usually sets `memory.oom.group`, so that one out-of-memory kill ends
//! every process of a container. Therefore the supervisor must act before the kernel does.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use scaledapp_engine::{Cause, Event, WorkerId};

use super::measured::Measured;
use super::memory::Container;

/// The largest worker is recycled once the container's unreclaimable memory exceeds this
/// share of its limit, in percent.
const WATERMARK_PERCENT: u64 = 85;

/// The share of the limit that is kept free, in percent, for page tables, stacks and memory
/// that the next reading does not show yet.
const RESERVE_PERCENT: u64 = 3;

/// How far ahead the container's growth is extrapolated: the next two readings.
const AHEAD: Duration = Duration::from_millis(500);

/// The memory from which a worker counts as grown, in percent of the memory that it had when it
/// became ready. Below this, a replacement would hardly be smaller.
const GROWN_PERCENT: u64 = 125;

/// The limits of one worker; `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    /// Resident bytes of its process tree.
    pub(crate) memory: Option<u64>,
    /// The number of answered requests.
    pub(crate) requests: Option<u64>,
    /// Time since it became ready.
    pub(crate) age: Option<Duration>,
    /// Time without progress while it has work.
    pub(crate) silence: Option<Duration>,
    /// The largest reduction of `requests` and `age`, in percent: workers that started
    /// together must not be recycled together.
    pub(crate) jitter_percent: u32,
}

/// Watches all workers.
#[derive(Debug)]
pub(crate) struct Watch {
    limits: Limits,
    seed: u64,
    /// When the container was read last, and the bytes it used then.
    before: Option<(Duration, u64)>,
    /// The bytes that each worker used when it was first seen ready.
    born: HashMap<WorkerId, u64>,
    /// The bytes that the newest worker used when it was first seen ready. The value is kept after
    /// the worker has ended.
    newborn: Option<u64>,
    /// The worker that was killed to free memory. Until it has ended, no other worker is
    /// killed for this reason.
    killed: Option<WorkerId>,
    /// Whether workers of normal size fill the container. It is logged when this becomes true.
    pub(crate) is_too_small: bool,
}

impl Watch {
    /// `seed` makes the jitter of two supervisors differ.
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            seed,
            before: None,
            born: HashMap::new(),
            newborn: None,
            killed: None,
            is_too_small: false,
        }
    }

    /// How long a worker may make no progress before it is probed.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.limits.silence
    }

    /// Whether the memory of each worker is limited.
    pub(crate) fn limits_memory(&self) -> bool {
        self.limits.memory.is_some()
    }

    /// Returns the events that follow from the measurements of the `workers` and of the
    /// `container`. `now` is the time since any fixed moment, and `wanted` is the desired number of
    /// workers.
    pub(crate) fn look(
        &mut self,
        now: Duration,
        workers: &[Measured],
        container: Option<Container>,
        wanted: u64,
    ) -> Vec<Event> {
        self.remember(workers);
        let growth = self.growth(now, container);
        let mut events = Vec::new();
        for worker in workers {
            if let Some(cause) = self.hung(worker) {
                events.push(Event::Kill {
                    worker: worker.worker,
                    cause,
                });
            }
        }
        if let Some(container) = container {
            events.extend(self.relieve(workers, container, growth));
        }
        let share = container.map(|container| container.limit / wanted.max(1));
        // The most urgent event comes first, because only one recycling runs at a time.
        let surge = self.has_room(container, growth);
        let mut due: Vec<(u8, Reverse<u64>, Event)> = workers
            .iter()
            .filter_map(|worker| {
                let (rank, cause) = self.used_up(worker, share)?;
                let recycle = Event::Recycle {
                    worker: worker.worker,
                    cause,
                    surge,
                };
                Some((rank, Reverse(worker.bytes), recycle))
            })
            .collect();
        due.sort_by_key(|(rank, bytes, _)| (*rank, *bytes));
        events.extend(due.into_iter().map(|(.., event)| event));
        events
    }

    fn remember(&mut self, workers: &[Measured]) {
        let alive = |id: &WorkerId| workers.iter().any(|worker| worker.worker == *id);
        self.born.retain(|id, _| alive(id));
        for worker in workers {
            if worker.age.is_some() && !self.born.contains_key(&worker.worker) {
                self.born.insert(worker.worker, worker.bytes);
                self.newborn = Some(worker.bytes);
            }
        }
        self.killed = self.killed.filter(alive);
    }

    /// The bytes by which memory will grow within [`AHEAD`] at the present rate.
    fn growth(&mut self, now: Duration, container: Option<Container>) -> u64 {
        let Some(Container { used, .. }) = container else {
            return 0;
        };
        let before = self.before.replace((now, used));
        let Some((then, less)) = before else {
            return 0;
        };
        let elapsed = now.saturating_sub(then).as_millis().max(1);
        let grown = u128::from(used.saturating_sub(less));
        u64::try_from(grown * AHEAD.as_millis() / elapsed).unwrap_or(u64::MAX)
    }

    fn hung(&self, worker: &Measured) -> Option<Cause> {
        let (silent, most) = (worker.hung?, self.limits.silence?);
        (silent >= most).then_some(Cause::Hung { silent })
    }

    /// What has to be done so that the kernel does not kill the whole container.
    fn relieve(
        &mut self,
        workers: &[Measured],
        container: Container,
        growth: u64,
    ) -> Option<Event> {
        let Container { used, limit } = container;
        let soon = used.saturating_add(growth);
        let largest = || workers.iter().max_by_key(|worker| worker.bytes);
        let cause = |worker: &Measured| Cause::Container {
            bytes: worker.bytes,
            used,
            limit,
        };
        if soon >= limit.saturating_sub(limit * RESERVE_PERCENT / 100) {
            if self.killed.is_some() {
                return None;
            }
            let largest = largest()?;
            self.killed = Some(largest.worker);
            return Some(Event::Kill {
                worker: largest.worker,
                cause: cause(largest),
            });
        }
        if used < limit * WATERMARK_PERCENT / 100 {
            self.is_too_small = false;
            return None;
        }
        // If a worker is starting, draining or stopping, a replacement is under way, which will
        // free memory soon.
        if workers.iter().any(|worker| worker.age.is_none()) {
            return None;
        }
        let largest = largest()?;
        if !self.has_grown(largest) {
            self.is_too_small = true;
            return None;
        }
        Some(Event::Recycle {
            worker: largest.worker,
            cause: cause(largest),
            surge: self.has_room(Some(container), growth),
        })
    }

    /// Whether a fresh worker would be smaller.
    fn has_grown(&self, worker: &Measured) -> bool {
        let born = self.born.get(&worker.worker).copied().unwrap_or(0);
        worker.bytes >= born.saturating_mul(GROWN_PERCENT) / 100
    }

    /// Whether there is memory for one more worker while the others continue to grow.
    fn has_room(&self, container: Option<Container>, growth: u64) -> bool {
        let (Some(Container { used, limit }), Some(born)) = (container, self.newborn) else {
            return true;
        };
        let after = used
            .saturating_add(born.saturating_mul(GROWN_PERCENT) / 100)
            .saturating_add(growth.saturating_mul(4));
        after < limit.saturating_sub(limit * RESERVE_PERCENT / 100)
    }

    /// Whether there is no memory for one more worker, with `memory` as it is now. A reload
    /// that waits until old workers have ended loses a little time; a reload that does not
    /// wait could cause the largest worker to be recycled.
    pub(crate) fn is_crowded(&self, memory: Option<Container>) -> bool {
        let (Some(Container { used, limit }), Some(born)) = (memory, self.newborn) else {
            return false;
        };
        let after = used.saturating_add(born.saturating_mul(GROWN_PERCENT) / 100);
        after >= limit / 100 * WATERMARK_PERCENT
    }

    /// Why a serving worker has to be replaced, and how urgent that is.
    fn used_up(&self, worker: &Measured, share: Option<u64>) -> Option<(u8, Cause)> {
        let age = worker.age?;
        let Limits {
            memory,
            requests,
            age: most_age,
            ..
        } = self.limits;
        let share = share.filter(|_| worker.capped && self.has_grown(worker));
        if let Some(limit) = [memory, share].into_iter().flatten().min()
            && worker.bytes > limit
        {
            let bytes = worker.bytes;
            return Some((0, Cause::Memory { bytes, limit }));
        }
        // Thousandths instead of percent, because they spread the limits of workers more finely.
        let jitter = u64::from(self.limits.jitter_percent.min(100)) * 10;
        let mut random = fastrand::Rng::with_seed(self.seed ^ worker.worker.0);
        let share = 1000 - random.u64(..=jitter);
        if let Some(most) = requests
            && worker.served >= (most.saturating_mul(share) / 1000).max(1)
        {
            let served = worker.served;
            return Some((1, Cause::Requests { served }));
        }
        let most = most_age?.saturating_mul(share as u32) / 1000;
        (age >= most).then_some((1, Cause::Age { age }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn worker(number: u64, mebibytes: u64) -> Measured {
        Measured {
            worker: WorkerId(number),
            age: Some(Duration::from_mins(1)),
            bytes: mebibytes * MIB,
            served: 0,
            capped: false,
            hung: None,
        }
    }

    fn container(used: u64, limit: u64) -> Container {
        Container {
            used: used * MIB,
            limit: limit * MIB,
        }
    }

    fn watch(limits: Limits) -> Watch {
        Watch::new(limits, 7)
    }

    /// (worker, recycled rather than killed, with its successor first, reason)
    fn shown(events: &[Event]) -> Vec<(u64, bool, bool, &'static str)> {
        let show = |event: &Event| match event {
            Event::Recycle {
                worker,
                cause,
                surge,
            } => (worker.0, true, *surge, cause.reason()),
            Event::Kill { worker, cause } => (worker.0, false, false, cause.reason()),
            other => panic!("{other:?}"),
        };
        events.iter().map(show).collect()
    }

    #[test]
    fn without_limits_no_worker_is_replaced() {
        let mut watch = watch(Limits::default());
        let old = Measured {
            served: u64::MAX,
            hung: Some(Duration::MAX),
            ..worker(1, 1 << 40)
        };
        assert_eq!(watch.look(Duration::ZERO, &[old], None, 1), []);
    }

    #[test]
    fn a_container_is_crowded_if_one_more_worker_would_reach_the_watermark() {
        let mut watch = watch(Limits::default());
        assert!(
            !watch.is_crowded(Some(container(999, 1000))),
            "no worker has been measured"
        );
        watch.look(Duration::ZERO, &[worker(1, 80)], None, 1);
        assert!(!watch.is_crowded(None));
        assert!(!watch.is_crowded(Some(container(740, 1000))));
        assert!(watch.is_crowded(Some(container(760, 1000))));
    }

    #[test]
    fn a_worker_over_its_limit_is_recycled_the_largest_first() {
        let mut watch = watch(Limits {
            memory: Some(100 * MIB),
            ..Limits::default()
        });
        let leaving = Measured {
            age: None,
            ..worker(4, 900)
        };
        let all = [worker(1, 101), worker(2, 100), worker(3, 300), leaving];
        let events = watch.look(Duration::ZERO, &all, None, 4);
        assert_eq!(
            shown(&events),
            [(3, true, true, "MaxMemory"), (1, true, true, "MaxMemory")]
        );
    }

    #[test]
    fn the_successor_starts_first_only_if_there_is_memory_for_both() {
        let limits = Limits {
            memory: Some(100 * MIB),
            ..Limits::default()
        };
        for (limit, surge) in [(400, true), (200, false)] {
            let mut watch = watch(limits);
            let young = [worker(1, 60), worker(2, 60)];
            assert_eq!(
                watch.look(Duration::ZERO, &young, Some(container(130, limit)), 2),
                []
            );
            let grown = [worker(1, 101), worker(2, 60)];
            let later = Duration::from_mins(1);
            let events = watch.look(later, &grown, Some(container(160, limit)), 2);
            assert_eq!(shown(&events), [(1, true, surge, "MaxMemory")]);
        }
    }

    #[test]
    fn in_a_container_that_fills_up_the_largest_worker_is_recycled_and_then_killed_in_time() {
        let mut watch = watch(Limits::default());
        let second = Duration::from_millis(250);
        let mut now = Duration::ZERO;
        let mut seen = Vec::new();
        // 50 MB a second in a container of 512 MB.
        let mut leaked = 100;
        while seen.last() != Some(&(1, false, false, "ContainerMemory")) {
            let all = [worker(1, leaked), worker(2, 100)];
            let used = leaked + 110;
            assert!(used < 512, "the kernel was first");
            seen.extend(shown(&watch.look(now, &all, Some(container(used, 512)), 2)));
            leaked += 13;
            now += second;
        }
        assert_eq!(seen[0], (1, true, false, "ContainerMemory"));
        // Its memory is not free yet.
        let all = [worker(1, leaked), worker(2, 100)];
        let again = watch.look(now, &all, Some(container(500, 512)), 2);
        assert_eq!(shown(&again), []);
    }

    #[test]
    fn a_worker_with_a_capped_heap_is_recycled_before_it_reaches_the_cap() {
        let mut watch = watch(Limits::default());
        let capped = |number, mebibytes| Measured {
            capped: true,
            ..worker(number, mebibytes)
        };
        let room = Some(container(200, 1024));
        let young = [capped(1, 60), capped(2, 600), worker(3, 60), worker(4, 60)];
        assert_eq!(watch.look(Duration::ZERO, &young, room, 4), []);
        // Limits of 256 MiB each. A worker that was larger from the start would be as large
        // after another start, and one without a cap may use what the others do not use.
        let grown = [
            capped(1, 257),
            capped(2, 600),
            worker(3, 500),
            worker(4, 60),
        ];
        let events = watch.look(Duration::from_mins(1), &grown, room, 4);
        assert_eq!(shown(&events), [(1, true, true, "MaxMemory")]);
    }

    #[test]
    fn workers_of_normal_size_are_not_recycled_in_vain() {
        let mut watch = watch(Limits::default());
        let all = [worker(1, 220), worker(2, 230)];
        for turn in 0..5 {
            let now = Duration::from_secs(turn);
            assert_eq!(watch.look(now, &all, Some(container(460, 512)), 2), []);
        }
        assert!(watch.is_too_small);
        // Even so they must not make the kernel kill the container.
        let events = watch.look(Duration::from_secs(9), &all, Some(container(500, 512)), 2);
        assert_eq!(shown(&events), [(2, false, false, "ContainerMemory")]);
    }

    #[test]
    fn a_hung_worker_is_killed_after_its_time() {
        let mut watch = watch(Limits {
            silence: Some(Duration::from_mins(1)),
            ..Limits::default()
        });
        let hung = |seconds| Measured {
            hung: Some(Duration::from_secs(seconds)),
            ..worker(1, 50)
        };
        assert_eq!(watch.look(Duration::ZERO, &[hung(59)], None, 2), []);
        let events = watch.look(Duration::ZERO, &[hung(60), worker(2, 50)], None, 2);
        assert_eq!(shown(&events), [(1, false, false, "Hung")]);
    }

    #[test]
    fn workers_reach_their_age_and_request_limits_within_the_jitter_and_not_together() {
        let limits = Limits {
            requests: Some(1000),
            age: Some(Duration::from_secs(1000)),
            jitter_percent: 10,
            ..Limits::default()
        };
        let mut watch = watch(limits);
        let ends = |number: u64, watch: &mut Watch, make: fn(Measured, u64) -> Measured| {
            let due = |at: &u64| {
                let measured = make(worker(number, 50), *at);
                !watch.look(Duration::ZERO, &[measured], None, 1).is_empty()
            };
            (1..=1000).find(due).unwrap()
        };
        let by_age = |measured, at| Measured {
            age: Some(Duration::from_secs(at)),
            ..measured
        };
        let by_requests = |measured, at| Measured {
            served: at,
            ..measured
        };
        for make in [by_age as fn(Measured, u64) -> Measured, by_requests] {
            let all: Vec<u64> = (0..40)
                .map(|number| ends(number, &mut watch, make))
                .collect();
            assert!(all.iter().all(|end| (900..=1000).contains(end)), "{all:?}");
            let different: std::collections::BTreeSet<&u64> = all.iter().collect();
            assert!(different.len() > 20, "{all:?}");
        }
    }
}
