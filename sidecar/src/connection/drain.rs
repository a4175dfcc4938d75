//! Finds out when a draining worker under Connection dispatch has no work left.
//!
//! The supervisor is not in the data path, so it has to ask the kernel. A worker is idle when
//! none of its connections carries a request or an answer. A draining worker still accepts
//! connections until it ends. So an idle worker is stopped (SIGSTOP), checked once more, and
//! reported to the engine while it is stopped: the stop signal then reaches it before it can
//! accept again. A worker that has accepted a connection in between is continued and checked
//! again later.
//!
//! A draining worker may by chance never be idle while other workers of its generation keep
//! serving. If that lasts, new connections are held back from all workers: the SYNs of clients are
//! dropped, and clients repeat them after one second or more. `hold` decides how long such a hold
//! lasts, and when the next one may begin.
//!
//! On a busy machine each step may take a hundred times as long as on a quiet one, so no
//! step waits for another: a timer ends a hold, and a stopped worker is continued as soon
//! as a check finds that it has work, even while other workers have not stopped yet. Each
//! step also does as little as it can, because the scheduler delays a process that uses more
//! than its share of a busy CPU.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_engine::Generation;
use tokio::time::{Instant, sleep};

use crate::connection::hold::{Hold, Turn};
use crate::connection::open_connections::{self, Member};
use crate::handover::sharing::Sharing;
use crate::process::signal_group;

/// How long the old queue may still get connections after the switch to another generation. A
/// handshake that began before the switch puts its connection into the old queue when its last
/// packet arrives, which is one round trip later. Over a slow line, that takes up to this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// The shortest pause between two checks.
const MIN_LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The pause after a check is this many times as long as the check, so that checks of many
/// connections do not use much CPU time. The pause never exceeds [`MAX_LOOK_INTERVAL`],
/// because a check may also take long when other processes have the CPU.
const LOOK_SHARE: u32 = 5;
const MAX_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a worker may take to become idle by chance before connections are held back.
const CHANCE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection counts as short. One that lasts longer will not end any sooner if new ones
/// are held back.
const MAX_SHORT_LIFE: Duration = Duration::from_secs(1);
/// The shortest interval between two searches for new processes of the workers, and the least ratio
/// of the interval to the duration of a search. The interval is long because a search reads all
/// processes of the machine.
const SCAN: (Duration, u32) = (Duration::from_millis(250), 40);
/// How long a process group may take to stop. On a busy machine it needs CPU time for that,
/// and an attempt that is given up too early has to start again. A group that has not
/// stopped by then, for example because of a long system call, is checked again later.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before the first check whether a group has stopped; it doubles each time.
const MIN_STOP_PAUSE: Duration = Duration::from_millis(2);
/// How often the kernel is asked for new connections during a stop.
const ARRIVAL_INTERVAL: Duration = Duration::from_millis(100);
/// Time from dropping the first SYN until all handshakes that had begun count as complete.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(100);

/// All draining workers, which are checked together.
#[derive(Clone)]
pub(crate) struct Drains(Rc<Inner>);

struct Inner {
    /// The ports that workers accept on.
    ports: Vec<u16>,
    /// The owner of the accept queues.
    sharing: Rc<RefCell<Sharing>>,
    /// The draining workers by process group.
    draining: RefCell<HashMap<u32, Draining>>,
    watching: Cell<bool>,
    /// Whether the supervisor is stopping. No other workers serve then, so the draining
    /// workers have to accept the connections that wait in the queues.
    stopping: Cell<bool>,
    /// The origin of the times that are passed to `hold`.
    made: Instant,
    hold: RefCell<Hold>,
}

struct Draining {
    generation: Generation,
    begun: Instant,
    /// Since when it has had only short connections.
    short_since: Instant,
    /// The connections that it had at the last check, and when each was first seen.
    connections: HashMap<u64, Instant>,
    tell: Box<dyn FnOnce()>,
}

impl Drains {
    /// Creates the set without draining workers.
    pub(crate) fn new(ports: Vec<u16>, sharing: Rc<RefCell<Sharing>>) -> Self {
        Self(Rc::new(Inner {
            ports,
            sharing,
            draining: RefCell::default(),
            watching: Cell::new(false),
            stopping: Cell::new(false),
            made: Instant::now(),
            hold: RefCell::default(),
        }))
    }

    /// Watches a worker from now on and calls `tell` when it has no work left. The worker
    /// is stopped (SIGSTOP) by then, and needs a SIGCONT after the signal that ends it.
    pub(crate) fn add(&self, group: u32, generation: Generation, tell: impl FnOnce() + 'static) {
        let draining = Draining {
            generation,
            begun: Instant::now(),
            short_since: Instant::now(),
            connections: HashMap::new(),
            tell: Box::new(tell),
        };
        self.0.draining.borrow_mut().insert(group, draining);
        if !self.0.watching.replace(true) {
            tokio::task::spawn_local(Rc::clone(&self.0).watch());
        }
    }

    /// The worker ends or has ended, so it is not watched any longer.
    pub(crate) fn forget(&self, group: u32) {
        self.0.draining.borrow_mut().remove(&group);
    }

    /// Used for a stop: resolves when clients have had time to go elsewhere, which is when
    /// no connection has come for `quiet`, or after `most`. From then on, no connection
    /// begins.
    pub(crate) async fn depart(self, quiet: Duration, most: Duration) {
        let begun = Instant::now();
        let mut last = begun;
        let mut known = open_connections::peers(&self.0.ports);
        while last.elapsed() < quiet && begun.elapsed() < most {
            sleep(ARRIVAL_INTERVAL.min(quiet)).await;
            let peers = open_connections::peers(&self.0.ports);
            if !peers.is_subset(&known) {
                last = Instant::now();
            }
            known = peers;
        }
        self.0.sharing.borrow().refuse_new();
        self.0.stopping.set(true);
        sleep(SETTLE_TIMEOUT).await;
    }
}

/// What a check of a worker found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// It has no work.
    Idle,
    /// It has only short connections, but may accept more of them.
    Accepting,
    /// It has work that must be waited for.
    Busy,
}

impl Inner {
    async fn watch(self: Rc<Self>) {
        let mut known = Vec::new();
        let mut members = Vec::new();
        let mut scan_at = Instant::now();
        let mut pause = MIN_LOOK_INTERVAL;
        loop {
            sleep(pause).await;
            let groups: Vec<u32> = self.draining.borrow().keys().copied().collect();
            if groups.is_empty() {
                self.hold_back(false);
                self.watching.set(false);
                return;
            }
            let begun = Instant::now();
            if groups != known || begun >= scan_at {
                members = open_connections::members(&groups);
                known.clone_from(&groups);
                let (period, share) = SCAN;
                scan_at = Instant::now() + period.max(begun.elapsed() * share);
            }
            let seen = self.look(&groups, &members);
            pause = (begun.elapsed() * LOOK_SHARE).clamp(MIN_LOOK_INTERVAL, MAX_LOOK_INTERVAL);
            tracing::trace!(?seen, "looked at draining workers");
            self.hold_back(self.is_stuck(&seen));
            let idle = seen.iter().filter(|(_, seen)| *seen == Activity::Idle);
            // The end of a worker without processes will be reported soon anyway.
            let idle: Vec<u32> = idle
                .map(|(group, _)| *group)
                .filter(|idle| members.iter().any(|(_, group)| group == idle))
                .collect();
            if !idle.is_empty() {
                self.stand_still(idle, &members).await;
            }
        }
    }

    /// Whether some worker has continued to accept for too long. This includes a worker
    /// that seems idle, but always has work again by the time it has stopped.
    fn is_stuck(&self, seen: &[(u32, Activity)]) -> bool {
        let (draining, sharing) = (self.draining.borrow(), self.sharing.borrow());
        let mut workers = seen.iter().filter_map(|(group, _)| draining.get(group));
        workers.any(|worker| {
            worker.short_since.elapsed() >= CHANCE_TIMEOUT && sharing.is_active(worker.generation)
        })
    }

    /// Holds new connections back while `wanted`, within the limits of `hold`.
    fn hold_back(self: &Rc<Self>, wanted: bool) {
        if self.stopping.get() {
            // New connections are already refused permanently.
            return;
        }
        let turn = self.hold.borrow_mut().look(self.made.elapsed(), wanted);
        match turn {
            Some(Turn::Hold(most)) => {
                tracing::info!(
                    "draining workers keep accepting, so new connections wait for a moment"
                );
                self.sharing.borrow().refuse_new();
                // The next check may come late, so a timer ends the hold.
                let inner = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    sleep(most).await;
                    if inner.hold.borrow().is_held() {
                        inner.hold_back(true);
                    }
                });
            }
            Some(Turn::LetGo) => {
                tracing::debug!("new connections begin again");
                self.sharing.borrow().take_new();
            }
            None => {}
        }
    }

    /// What each of these groups is doing, as far as its `members` show.
    fn look(&self, groups: &[u32], members: &[Member]) -> Vec<(u32, Activity)> {
        let now = Instant::now();
        let mut held =
            open_connections::held_by_group(members, &open_connections::carrying(&self.ports));
        let mut draining = self.draining.borrow_mut();
        let look = |group: &u32| {
            let worker = draining.get_mut(group)?;
            let holds = held.remove(group).unwrap_or_default();
            let before = std::mem::take(&mut worker.connections);
            let since = |inode| (inode, before.get(&inode).copied().unwrap_or(now));
            worker.connections = holds.into_iter().map(since).collect();
            let seen = self.judge(worker);
            if seen == Activity::Busy {
                worker.short_since = now;
            }
            Some((*group, seen))
        };
        groups.iter().filter_map(look).collect()
    }

    fn judge(&self, worker: &Draining) -> Activity {
        let sharing = self.sharing.borrow();
        // Other workers of its generation can accept the next connections.
        let has_siblings = sharing.is_active(worker.generation) && !self.stopping.get();
        let is_turned_off = self.stopping.get() || worker.begun.elapsed() >= HANDSHAKE_TIMEOUT;
        let is_last = is_turned_off && sharing.queued(worker.generation) == 0;
        let mut since = worker.connections.values();
        if worker.connections.is_empty() && (has_siblings || is_last) {
            Activity::Idle
        } else if has_siblings && since.all(|since| since.elapsed() < MAX_SHORT_LIFE) {
            Activity::Accepting
        } else {
            Activity::Busy
        }
    }

    /// Stops these groups and reports those that are idle once stopped. The reported groups
    /// remain stopped; each of the others is continued as soon as its result is known.
    async fn stand_still(&self, mut groups: Vec<u32>, members: &[Member]) {
        for group in &groups {
            signal_group(*group, Signal::STOP);
        }
        let begun = Instant::now();
        let mut pause = MIN_STOP_PAUSE;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(MAX_LOOK_INTERVAL);
            let (still, mut waiting) = self.idle(&groups, members);
            let mut told = HashSet::new();
            if !still.is_empty() {
                // Processes that were forked since the last scan count, too.
                let still = Vec::from_iter(still);
                told = self.idle(&still, &open_connections::members(&still)).0;
            }
            if begun.elapsed() >= STOP_TIMEOUT {
                waiting.clear();
            }
            for group in &told {
                let worker = self.draining.borrow_mut().remove(group);
                if let Some(worker) = worker {
                    (worker.tell)();
                }
            }
            groups.retain(|group| {
                let goes_on = !told.contains(group) && !waiting.contains(group);
                if goes_on {
                    // This includes a group that was forgotten in the meantime because the
                    // engine stopped it.
                    signal_group(*group, Signal::CONT);
                }
                waiting.contains(group)
            });
            if groups.is_empty() {
                return;
            }
        }
    }

    /// Returns the groups that are stopped and have no work, and those that have no work
    /// but are not stopped yet.
    fn idle(&self, groups: &[u32], members: &[Member]) -> (HashSet<u32>, HashSet<u32>) {
        // The order matters: once a group is stopped, it cannot accept another connection.
        let stopped = open_connections::stopped(members);
        let seen = self.look(groups, members).into_iter();
        let idle = seen.filter(|(_, seen)| *seen == Activity::Idle);
        idle.map(|(group, _)| group)
            .partition(|group| stopped.contains(group))
    }
}
