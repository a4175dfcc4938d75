//! Whether the memory for connections is short, and how many connections it suffices for.
//! What a thread then gives up is decided in `housekeeping`.
//!
//! What counts is the memory of connections: the proxy's buffers, as the threads report
//! them, and, if the container belongs to the proxy alone, the kernel's memory for its
//! sockets. The resident memory of the process does not count: allocators give memory back
//! late, and connections would be ended for memory that is free.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use scaledapp_proc::{Limiting, of_machine};

use crate::metrics::{Counts, count};

/// About what an idle connection costs: a task, and the kernel's socket (about 2 KiB) with
/// its file.
const CONNECTION_BYTES: u64 = 4 << 10;
/// One connection is allowed for this much memory. Most connections are idle or have a
/// short head in progress; the few that use much memory are ended first when memory is
/// short.
const BYTES_PER_CONNECTION: u64 = 24 << 10;
/// The limit of connections is not lowered below this number.
const MIN_CONNECTIONS: u32 = 64;
/// Descriptors that are needed for purposes other than connections.
const OTHER_FILES: u64 = 64;
/// How often the kernel's memory for sockets is read, and how often connections are ended
/// because memory is short. The memory that ended connections have freed is noticed only at
/// the next check.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How short memory is, in the order in which more is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// There is enough.
    None,
    /// Requests are not kept to be sent again, and buffers stay small.
    Tight,
    /// Connections that wait for a request end.
    Scarce,
    /// The connections that hold the most end.
    Critical,
    /// New connections are refused.
    Full,
}

impl Pressure {
    /// How short memory is if `used` bytes of a budget are used.
    fn of(used: u64, budget: u64) -> Self {
        match used.saturating_mul(100) / budget.max(1) {
            0..70 => Self::None,
            70..80 => Self::Tight,
            80..90 => Self::Scarce,
            90..100 => Self::Critical,
            _ => Self::Full,
        }
    }

    const ALL: [Self; 5] = [
        Self::None,
        Self::Tight,
        Self::Scarce,
        Self::Critical,
        Self::Full,
    ];
}

/// How many bytes must be freed to get down to 85 % of the budget.
fn surplus(used: u64, budget: u64) -> u64 {
    used.saturating_sub(budget / 100 * 85)
}

/// The memory for connections in all threads of a proxy.
#[derive(Debug)]
pub(crate) struct Memory {
    /// In bytes; `None` if no limit is known.
    budget: Option<u64>,
    /// What the connections of each thread hold, in bytes.
    held: Vec<AtomicU64>,
    sockets: AtomicU64,
    pressure: AtomicU8,
    container: Option<Mutex<Looked>>,
}

#[derive(Debug)]
struct Looked {
    limiting: Limiting,
    next: Duration,
}

impl Memory {
    /// A budget of `budget` bytes, or of `percent` of the container's memory. `owns` says whether
    /// the container belongs to the proxy alone; if it does, all sockets of the container count.
    pub(crate) fn new(budget: Option<u64>, percent: u32, owns: bool, threads: usize) -> Self {
        let limiting = Limiting::find(Path::new("/"));
        let limit = limiting.read().or_else(of_machine);
        let share = limit.map(|memory| memory.limit / 100 * u64::from(percent));
        Self {
            budget: budget.or(share),
            held: std::iter::repeat_with(AtomicU64::default)
                .take(threads)
                .collect(),
            sockets: AtomicU64::new(0),
            pressure: AtomicU8::new(0),
            container: owns.then(|| {
                Mutex::new(Looked {
                    limiting,
                    next: Duration::ZERO,
                })
            }),
        }
    }

    /// `most`, or fewer if memory or descriptors suffice only for fewer connections: each
    /// takes one descriptor for the client and one for a server.
    pub(crate) fn connections(&self, most: u32) -> u32 {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        enough_for(most, self.budget, files)
    }

    /// Reports how many connections a thread has and how many bytes they hold. Returns how
    /// short memory is now.
    pub(crate) fn tell(
        &self,
        thread: usize,
        connections: u32,
        held: u64,
        now: Duration,
    ) -> Pressure {
        let Some(budget) = self.budget else {
            return Pressure::None;
        };
        let all = held + u64::from(connections) * CONNECTION_BYTES;
        if let Some(told) = self.held.get(thread) {
            told.store(all, Ordering::Relaxed);
        }
        if thread == 0
            && let Some(container) = &self.container
            && let Ok(mut looked) = container.try_lock()
            && now >= looked.next
        {
            looked.next = now + LOOK_INTERVAL;
            let sockets = looked.limiting.sockets().unwrap_or(0);
            self.sockets.store(sockets, Ordering::Relaxed);
        }
        let pressure = Pressure::of(self.used(), budget);
        self.pressure.store(pressure as u8, Ordering::Relaxed);
        pressure
    }

    /// How short memory was at the last call of [`Self::tell`].
    pub(crate) fn pressure(&self) -> Pressure {
        Pressure::ALL[usize::from(self.pressure.load(Ordering::Relaxed)).min(4)]
    }

    /// How many bytes a thread's connections should give up: the thread's share of the
    /// surplus. A connection that ends also gives back the memory of its sockets.
    pub(crate) fn surplus(&self, thread: usize) -> u64 {
        let ours = self.held.get(thread);
        let ours = ours.map_or(0, |told| told.load(Ordering::Relaxed));
        let used = self.used();
        let surplus = surplus(used, self.budget.unwrap_or(u64::MAX));
        (u128::from(surplus) * u128::from(ours) / u128::from(used.max(1))) as u64
    }

    fn used(&self) -> u64 {
        let held = self.held.iter().map(|held| held.load(Ordering::Relaxed));
        held.sum::<u64>() + self.sockets.load(Ordering::Relaxed)
    }
}

/// One thread's part of the memory for connections.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    memory: Arc<Memory>,
    /// The number of the thread.
    thread: usize,
    counts: Arc<Counts>,
    /// When the largest connections may be ended again.
    next_shed: Cell<Duration>,
}

impl MemoryShare {
    pub(crate) fn new(memory: Arc<Memory>, thread: usize, counts: Arc<Counts>) -> Self {
        Self {
            memory,
            thread,
            counts,
            next_shed: Cell::new(Duration::ZERO),
        }
    }

    /// How short memory was at the last tick.
    pub(crate) fn pressure(&self) -> Pressure {
        self.memory.pressure()
    }

    /// Reports how many bytes the thread's connections hold. Returns how short memory is
    /// now.
    pub(crate) fn tell(&self, connections: u32, held: u64, now: Duration) -> Pressure {
        self.memory.tell(self.thread, connections, held, now)
    }

    /// How many bytes the thread's connections should give up now, if it is time for that.
    pub(crate) fn due_surplus(&self, now: Duration) -> Option<u64> {
        (now >= self.next_shed.get()).then(|| {
            self.next_shed.set(now + LOOK_INTERVAL);
            self.memory.surplus(self.thread)
        })
    }

    /// How many bytes of a request's body are kept to be sent again, at most `most`.
    pub(crate) fn replay_bytes(&self, most: usize) -> usize {
        if self.pressure() >= Pressure::Tight {
            count(&self.counts.unkept);
            return 0;
        }
        most
    }

    /// Whether there is memory for buffers larger than the smallest.
    pub(crate) fn may_widen(&self) -> bool {
        self.pressure() < Pressure::Tight
    }
}

fn enough_for(most: u32, budget: Option<u64>, files: u64) -> u32 {
    let by_memory = budget.map_or(u64::MAX, |budget| budget / BYTES_PER_CONNECTION);
    let by_files = files.saturating_sub(OTHER_FILES) / 2;
    let enough = by_memory.min(by_files).max(u64::from(MIN_CONNECTIONS));
    u64::from(most).min(enough) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn more_is_given_up_as_more_memory_is_used() {
        for (used, expected) in [
            (0, Pressure::None),
            (69, Pressure::None),
            (70, Pressure::Tight),
            (80, Pressure::Scarce),
            (90, Pressure::Critical),
            (100, Pressure::Full),
            (u64::MAX / MIB, Pressure::Full),
        ] {
            assert_eq!(Pressure::of(used * MIB, 100 * MIB), expected, "{used}");
        }
        assert_eq!(surplus(95 * MIB, 100 * MIB) / MIB, 10);
        assert_eq!(surplus(80 * MIB, 100 * MIB), 0);
    }

    #[test]
    fn connections_are_limited_by_memory_and_descriptors() {
        let most = 16 << 10;
        // Containers of 512 MiB, 256 MiB and 16 MiB.
        assert_eq!(enough_for(most, Some(384 * MIB), 1 << 20), most);
        assert_eq!(enough_for(most, Some(192 * MIB), 1 << 20), 8192);
        assert_eq!(enough_for(most, Some(12 * MIB), 1 << 20), 512);
        assert_eq!(enough_for(most, None, 1024), 480);
        assert_eq!(enough_for(most, Some(MIB), 10), MIN_CONNECTIONS);
        assert_eq!(enough_for(7, None, u64::MAX), 7);
    }

    #[test]
    fn threads_share_a_budget_and_each_gives_up_its_share() {
        let memory = Memory::new(Some(100 * MIB), 75, false, 2);
        let now = Duration::ZERO;
        assert_eq!(memory.tell(0, 0, 60 * MIB, now), Pressure::None);
        assert_eq!(memory.tell(1, 1024, 26 * MIB, now), Pressure::Critical);
        assert_eq!(memory.pressure(), Pressure::Critical);
        assert_eq!(
            memory.surplus(0) / MIB,
            3,
            "its share of a surplus of 5, as it holds 60 of 90"
        );
        assert_eq!(memory.tell(0, 0, 0, now), Pressure::None);
    }
}
