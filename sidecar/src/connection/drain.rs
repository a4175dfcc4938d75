//! When a worker under Connection dispatch has nothing left to do.
//!
//! The supervisor is not in the data path, so it looks. A worker is idle when
//! none of its connections carries anything; since it accepts for itself until
//! its end, it is then stopped (SIGSTOP), looked at once more, and handed to the
//! engine as it is: the stop signal reaches it before it can accept again. One
//! that has accepted in between goes on and is looked at later.
//!
//! A worker whose siblings stay may never be idle by chance. When that lasts, new
//! connections are held back from all workers until it is: clients' SYNs are
//! dropped, and they try again a second later by themselves. For how long, and
//! when again, is decided in `hold`.
//!
//! On a busy machine each step here may take a hundred times as long as on a quiet
//! one, so none waits for another: a hold ends by a timer of its own, and a worker
//! that stands still goes on as soon as it is seen to have something to do, also
//! while others have not come to stand yet. And none asks more than it must: who uses
//! more than his share of a busy processor is made to wait for it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_engine::Generation;
use tokio::time::{Instant, sleep};

use crate::connection::held::{self, Member};
use crate::connection::hold::{Hold, Turn};
use crate::process::signal_group;
use crate::sharing::Sharing;

/// A connection whose handshake began before the turn to another generation
/// arrives in the old queue when its last packet does: one round trip later,
/// over a slow line this much.
const HANDSHAKES: Duration = Duration::from_secs(1);
/// How often the kernel is asked.
const PERIOD: Duration = Duration::from_millis(10);
/// Where looking takes long (many connections), it is done in one part of the time
/// out of so many; but this often at least, since a look may also have taken long
/// because others had the processor.
const SHARE: u32 = 5;
const SELDOM: Duration = Duration::from_millis(100);
/// For so long chance is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// A connection that lasts longer ends in its own time, whoever is held back.
const SHORT: Duration = Duration::from_secs(1);
/// How often new processes of the workers are looked for; all processes of the machine
/// are read for that, so it may take one part of the time out of so many.
const SCAN: (Duration, u32) = (Duration::from_millis(250), 40);
/// How long a group may take to stop: on a busy machine it first needs the
/// processor for it, and an attempt given up too early costs it that again. A
/// thread in a long system call is not waited for, but looked at again.
const STOPS: Duration = Duration::from_secs(2);
/// After which it is looked first whether it has; each time it takes twice as long.
const STOPPING: Duration = Duration::from_millis(2);
/// How often the kernel is asked who has come, at a stop.
const ARRIVALS: Duration = Duration::from_millis(100);
/// From dropping the first SYN to the end of handshakes that had begun.
const LAST: Duration = Duration::from_millis(100);

/// All workers that drain, looked at together.
#[derive(Clone)]
pub(crate) struct Drains(Rc<Inner>);

struct Inner {
    /// Those that workers accept at.
    ports: Vec<u16>,
    /// Where the queues are.
    sharing: Rc<RefCell<Sharing>>,
    /// By process group.
    draining: RefCell<HashMap<u32, Draining>>,
    watching: Cell<bool>,
    /// No worker stays: what waits in the queues is theirs to take.
    stopping: Cell<bool>,
    /// What `hold` counts from.
    made: Instant,
    hold: RefCell<Hold>,
}

struct Draining {
    generation: Generation,
    begun: Instant,
    /// Since when it has had no connection but short ones.
    short_since: Instant,
    /// What it held at the last look, and since when.
    held: HashMap<u64, Instant>,
    tell: Box<dyn FnOnce()>,
}

impl Drains {
    /// Nothing drains.
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

    /// Watches a worker from now on; tells when it has nothing left to do. It is
    /// stopped then, and must be sent SIGCONT after the signal that ends it.
    pub(crate) fn add(&self, group: u32, generation: Generation, tell: impl FnOnce() + 'static) {
        let draining = Draining {
            generation,
            begun: Instant::now(),
            short_since: Instant::now(),
            held: HashMap::new(),
            tell: Box::new(tell),
        };
        self.0.draining.borrow_mut().insert(group, draining);
        if !self.0.watching.replace(true) {
            tokio::task::spawn_local(Rc::clone(&self.0).watch());
        }
    }

    /// It ends now, or has ended: nothing more is told of it.
    pub(crate) fn forget(&self, group: u32) {
        self.0.draining.borrow_mut().remove(&group);
    }

    /// On a stop: resolves when clients have had the time to go elsewhere, which
    /// is when none has come for `quiet`, or the time is up. From then on no
    /// connection begins.
    pub(crate) async fn depart(self, quiet: Duration, most: Duration) {
        let begun = Instant::now();
        let mut last = begun;
        let mut known = held::peers(&self.0.ports);
        while last.elapsed() < quiet && begun.elapsed() < most {
            sleep(ARRIVALS.min(quiet)).await;
            let peers = held::peers(&self.0.ports);
            if !peers.is_subset(&known) {
                last = Instant::now();
            }
            known = peers;
        }
        self.0.sharing.borrow().refuse_new();
        self.0.stopping.set(true);
        sleep(LAST).await;
    }
}

/// What a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It has nothing to do.
    Idle,
    /// It has short connections only, and always new ones.
    Accepting,
    /// There is something to wait for.
    Busy,
}

impl Inner {
    async fn watch(self: Rc<Self>) {
        let mut known = Vec::new();
        let mut members = Vec::new();
        let mut scan_at = Instant::now();
        let mut pause = PERIOD;
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
                members = held::members(&groups);
                known.clone_from(&groups);
                let (period, share) = SCAN;
                scan_at = Instant::now() + period.max(begun.elapsed() * share);
            }
            let seen = self.look(&groups, &members);
            pause = (begun.elapsed() * SHARE).clamp(PERIOD, SELDOM);
            tracing::trace!(?seen, "looked at what drains");
            self.hold_back(self.is_stuck(&seen));
            let idle = seen.iter().filter(|(_, seen)| *seen == Seen::Idle);
            // Of one without processes its end is told soon.
            let idle: Vec<u32> = idle
                .map(|(group, _)| *group)
                .filter(|idle| members.iter().any(|(_, group)| group == idle))
                .collect();
            if !idle.is_empty() {
                self.stand_still(idle, &members).await;
            }
        }
    }

    /// Whether some worker goes on accepting for too long; also one that looks idle,
    /// but never is by the time it stands still.
    fn is_stuck(&self, seen: &[(u32, Seen)]) -> bool {
        let (draining, sharing) = (self.draining.borrow(), self.sharing.borrow());
        let mut workers = seen.iter().filter_map(|(group, _)| draining.get(group));
        workers.any(|worker| {
            worker.short_since.elapsed() >= PATIENCE && sharing.is_active(worker.generation)
        })
    }

    /// Holds new connections back while that is wanted, and not for too long.
    fn hold_back(self: &Rc<Self>, wanted: bool) {
        if self.stopping.get() {
            // They are refused for good.
            return;
        }
        let turn = self.hold.borrow_mut().look(self.made.elapsed(), wanted);
        match turn {
            Some(Turn::Hold(most)) => {
                tracing::info!("workers that leave keep accepting: new connections wait a moment");
                self.sharing.borrow().refuse_new();
                // Whoever watches may be late.
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

    /// What each of these groups is at, as far as its `members` show it.
    fn look(&self, groups: &[u32], members: &[Member]) -> Vec<(u32, Seen)> {
        let now = Instant::now();
        let mut held = held::held(members, &held::carrying(&self.ports));
        let mut draining = self.draining.borrow_mut();
        let look = |group: &u32| {
            let worker = draining.get_mut(group)?;
            let holds = held.remove(group).unwrap_or_default();
            let before = std::mem::take(&mut worker.held);
            let since = |inode| (inode, before.get(&inode).copied().unwrap_or(now));
            worker.held = holds.into_iter().map(since).collect();
            let seen = self.judge(worker);
            if seen == Seen::Busy {
                worker.short_since = now;
            }
            Some((*group, seen))
        };
        groups.iter().filter_map(look).collect()
    }

    fn judge(&self, worker: &Draining) -> Seen {
        let sharing = self.sharing.borrow();
        // Those that stay in its generation take the next ones.
        let has_siblings = sharing.is_active(worker.generation) && !self.stopping.get();
        let is_turned_off = self.stopping.get() || worker.begun.elapsed() >= HANDSHAKES;
        let is_last = is_turned_off && sharing.queued(worker.generation) == 0;
        let mut since = worker.held.values();
        if worker.held.is_empty() && (has_siblings || is_last) {
            Seen::Idle
        } else if has_siblings && since.all(|since| since.elapsed() < SHORT) {
            Seen::Accepting
        } else {
            Seen::Busy
        }
    }

    /// Stops these groups, and tells of those that are idle then, which stay so;
    /// the others go on, each as soon as it is known of.
    async fn stand_still(&self, mut groups: Vec<u32>, members: &[Member]) {
        for group in &groups {
            signal_group(*group, Signal::STOP);
        }
        let begun = Instant::now();
        let mut pause = STOPPING;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(SELDOM);
            let (still, mut waiting) = self.idle(&groups, members);
            let mut told = HashSet::new();
            if !still.is_empty() {
                // What it forked since the last scan counts, too.
                let still = Vec::from_iter(still);
                told = self.idle(&still, &held::members(&still)).0;
            }
            if begun.elapsed() >= STOPS {
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
                    // Also one that was forgotten meanwhile, since it was told to end.
                    signal_group(*group, Signal::CONT);
                }
                waiting.contains(group)
            });
            if groups.is_empty() {
                return;
            }
        }
    }

    /// Those that have nothing to do and stand still; those that have nothing to do
    /// and do not yet.
    fn idle(&self, groups: &[u32], members: &[Member]) -> (HashSet<u32>, HashSet<u32>) {
        // In this order: what stands still stays as it is seen.
        let stopped = held::stopped(members);
        let seen = self.look(groups, members).into_iter();
        let idle = seen.filter(|(_, seen)| *seen == Seen::Idle);
        idle.map(|(group, _)| group)
            .partition(|group| stopped.contains(group))
    }
}
