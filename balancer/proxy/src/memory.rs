//! Whether the memory for connections is short, and how many connections it suffices for.
//! What a thread then gives up is decided in `housekeeping`.
//!
//! What counts against the budget is the memory of connections: the proxy's buffers, as the threads
//! report them, and, if the container belongs to the proxy alone, the kernel's memory for its
//! sockets. The resident memory of the process does not count there: allocators give memory back
//! late, and connections would be ended for memory that is free.
//!
//! The kernel counts everything, and so what is left of the container counts as well (`headroom`).
//! If little is left, free memory of the allocator is given back before anything else.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use scaledapp_proc::{Limiting, of_machine};
use scaledapp_sys::heap;
use tokio::sync::Notify;

use crate::buffer::LARGE_BYTES;
use crate::clock::{self, TICK_INTERVAL};
use crate::headroom::{Headroom, Left};
use crate::metrics::{Counts, count};
use crate::pressure::Pressure;

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
/// How often somebody looks at a container of which nothing is left. A look takes a tenth of a
/// millisecond.
const EMPTY_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// What a new connection takes, in bytes: the kernel's socket, and a task or the buffers of a
/// request that is sent.
pub(crate) const NEW_BYTES: u64 = 12 << 10;
/// What a session of TLS takes until its handshake is done, or HTTP/2 for its tables, in bytes.
pub(crate) const SESSION_BYTES: u64 = 24 << 10;

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
    /// What is left of the container, in bytes, and its limit; a limit of 0 means that it has none.
    free: AtomicU64,
    limit: AtomicU64,
    /// The number of looks at the container.
    looks: AtomicU64,
    container: Mutex<Looked>,
}

#[derive(Debug)]
struct Looked {
    limiting: Limiting,
    /// Whether all sockets of the container are the proxy's.
    owns: bool,
    last: Duration,
    next_trim: Duration,
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
            free: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            container: Mutex::new(Looked {
                limiting,
                owns,
                last: Duration::ZERO,
                next_trim: Duration::ZERO,
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
        if self.is_pressed() {
            self.look(now, EMPTY_LOOK_INTERVAL);
        } else if thread == 0 {
            self.look(now, LOOK_INTERVAL);
        }
        let used = self.used();
        let mut pressure = Pressure::of(used, budget);
        if let Some(left) = self.left()
            && used > left.least()
        {
            pressure = pressure.max(left.pressure());
        }
        self.pressure.store(pressure as u8, Ordering::Relaxed);
        pressure
    }

    fn is_pressed(&self) -> bool {
        self.left()
            .is_some_and(|left| left.pressure() > Pressure::None)
    }

    /// What was left of the container at the last look; `None` if it has no limit.
    fn left(&self) -> Option<Left> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit > 0).then(|| Left {
            free: self.free.load(Ordering::Relaxed),
            limit,
        })
    }

    /// Reads what the kernel says of the container, if the last look was at least `interval` ago.
    fn look(&self, now: Duration, interval: Duration) {
        let mut looked = self
            .container
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if now < looked.last.saturating_add(interval) {
            return;
        }
        looked.last = now;
        self.read(&looked.limiting);
        if looked.owns {
            let sockets = looked.limiting.sockets().unwrap_or(0);
            self.sockets.store(sockets, Ordering::Relaxed);
        }
        if self.is_pressed() && now >= looked.next_trim {
            // The allocator may have freed memory that the kernel still counts.
            heap::give_back();
            looked.next_trim = clock::now() + self.pause();
            self.read(&looked.limiting);
        }
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// How long it takes until memory that was freed or asked for counts.
    fn pause(&self) -> Duration {
        let pressure = self.left().map(Left::pressure);
        if pressure == Some(Pressure::Full) {
            TICK_INTERVAL
        } else {
            LOOK_INTERVAL
        }
    }

    fn read(&self, limiting: &Limiting) {
        let read = limiting.read();
        let free = read.map_or(0, |memory| memory.limit.saturating_sub(memory.used));
        self.free.store(free, Ordering::Relaxed);
        self.limit
            .store(read.map_or(0, |memory| memory.limit), Ordering::Relaxed);
    }

    /// How short memory was at the last call of [`Self::tell`].
    pub(crate) fn pressure(&self) -> Pressure {
        Pressure::numbered(self.pressure.load(Ordering::Relaxed))
    }

    /// How many bytes a thread's connections should give up: the thread's share of the
    /// surplus. A connection that ends also gives back the memory of its sockets.
    pub(crate) fn surplus(&self, thread: usize) -> u64 {
        let ours = self.held.get(thread);
        let ours = ours.map_or(0, |told| told.load(Ordering::Relaxed));
        let used = self.used();
        let surplus = surplus(used, self.budget.unwrap_or(u64::MAX));
        let of_container = self.left().filter(|left| used > left.least());
        let surplus = surplus.max(of_container.map_or(0, Left::surplus));
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
    /// What the thread may take before it looks again.
    headroom: Rc<Headroom>,
    /// The last look from which it has a headroom.
    look: Cell<u64>,
    /// Notified when the thread may take nothing more.
    exhausted: Notify,
    /// When the largest connections may be ended again.
    next_shed: Cell<Duration>,
}

impl MemoryShare {
    pub(crate) fn new(
        memory: Arc<Memory>,
        thread: usize,
        counts: Arc<Counts>,
        headroom: Rc<Headroom>,
    ) -> Self {
        memory.look(clock::now(), Duration::ZERO);
        headroom.looked(memory.left(), memory.held.len());
        Self {
            look: Cell::new(memory.looks.load(Ordering::Relaxed)),
            memory,
            thread,
            counts,
            headroom,
            exhausted: Notify::new(),
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
        let pressure = self.memory.tell(self.thread, connections, held, now);
        if let Some(left) = self.memory.left() {
            let threads = self.memory.held.len();
            self.headroom.ticked(left, self.memory.used(), threads);
        }
        pressure
    }

    /// Resolves when the thread may take nothing more, so that connections must end at once.
    pub(crate) async fn is_exhausted(&self) {
        self.exhausted.notified().await;
    }

    /// Whether a connection may have `bytes` more. The caller has them from [`crate::buffer`],
    /// which counts them.
    pub(crate) fn has(&self, bytes: u64) -> bool {
        // Another thread may have used up what this one has been given.
        let look = self.memory.looks.load(Ordering::Relaxed);
        if self.look.replace(look) != look {
            let threads = self.memory.held.len();
            self.headroom.cap(self.memory.left(), threads);
        }
        self.headroom.has(bytes) || self.look_for(bytes)
    }

    /// A connection has taken `bytes`.
    pub(crate) fn spend(&self, bytes: u64) {
        self.headroom.spend(bytes);
    }

    /// As [`Self::has`]; if it may, the bytes are counted.
    pub(crate) fn takes(&self, bytes: u64) -> bool {
        let has = self.has(bytes);
        if has {
            self.headroom.spend(bytes);
        }
        has
    }

    /// The headroom is used up: looks again. Returns whether there is room for `bytes` now.
    #[cold]
    fn look_for(&self, bytes: u64) -> bool {
        let memory = &self.memory;
        let threads = memory.held.len();
        let is_empty = memory.left().is_some_and(|left| left.is_nothing(threads));
        let interval = if is_empty {
            EMPTY_LOOK_INTERVAL
        } else {
            Duration::ZERO
        };
        memory.look(clock::now(), interval);
        // Each look gives each thread a headroom once.
        let look = memory.looks.load(Ordering::Relaxed);
        if self.look.replace(look) != look {
            self.headroom.looked(memory.left(), threads);
        }
        let has = self.headroom.has(bytes);
        if !has {
            self.exhausted.notify_one();
        }
        has
    }

    /// How many bytes the thread's connections should give up now, if it is time for that.
    pub(crate) fn due_surplus(&self, now: Duration) -> Option<u64> {
        (now >= self.next_shed.get()).then(|| {
            self.next_shed.set(now + self.memory.pause());
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
        self.pressure() < Pressure::Tight && self.has(LARGE_BYTES as u64)
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
    fn the_surplus_is_what_exceeds_85_percent() {
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
