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
//! dropped, and they try again a second later by themselves.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_engine::Generation;
use tokio::time::{Instant, sleep};

use crate::connections::{self, Member};
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
/// For so long at most new connections are held back at a time.
const HOLD: Duration = Duration::from_secs(2);
/// A connection that lasts longer ends in its own time, whoever is held back.
const SHORT: Duration = Duration::from_secs(1);
/// How often new processes of the workers are looked for.
const SCAN: Duration = Duration::from_millis(250);
/// How long a group may take to stop: a thread in a long system call is not
/// waited for, but looked at again.
const STOPS: (u32, Duration) = (20, Duration::from_millis(1));
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
    /// Since when new connections are held back.
    holding: Cell<Option<Instant>>,
    /// When they were let go again.
    let_go: Cell<Option<Instant>>,
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
            holding: Cell::new(None),
            let_go: Cell::new(None),
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
        let mut known = connections::peers(&self.0.ports);
        while last.elapsed() < quiet && begun.elapsed() < most {
            sleep(ARRIVALS.min(quiet)).await;
            let peers = connections::peers(&self.0.ports);
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
        let mut scanned = Instant::now();
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
            if groups != known || scanned.elapsed() >= SCAN {
                members = connections::members(&groups);
                known.clone_from(&groups);
                scanned = begun;
            }
            let seen = self.look(&groups, &members);
            pause = (begun.elapsed() * SHARE).clamp(PERIOD, SELDOM);
            tracing::trace!(?seen, "looked at what drains");
            self.hold_back(self.is_stuck(&seen));
            let idle = seen.iter().filter(|(_, seen)| *seen == Seen::Idle);
            let idle: Vec<u32> = idle.map(|(group, _)| *group).collect();
            if !idle.is_empty() {
                self.stand_still(&idle, &members).await;
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
    fn hold_back(&self, wanted: bool) {
        if self.stopping.get() {
            // They are refused for good.
            return;
        }
        let rested = self.let_go.get().is_none_or(|at| at.elapsed() >= PATIENCE);
        match self.holding.get() {
            None if wanted && rested => {
                tracing::info!("workers that leave keep accepting: new connections wait a moment");
                self.holding.set(Some(Instant::now()));
                self.sharing.borrow().refuse_new();
            }
            Some(since) if !wanted || since.elapsed() >= HOLD => {
                self.holding.set(None);
                self.let_go.set(Some(Instant::now()));
                self.sharing.borrow().take_new();
            }
            _ => {}
        }
    }

    /// What each of these groups is at, as far as its `members` show it.
    fn look(&self, groups: &[u32], members: &[Member]) -> Vec<(u32, Seen)> {
        let now = Instant::now();
        let mut held = connections::held(members, &connections::carrying(&self.ports));
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
    /// the others go on.
    async fn stand_still(&self, groups: &[u32], members: &[Member]) {
        for group in groups {
            signal_group(*group, Signal::STOP);
        }
        let (looks, pause) = STOPS;
        for _look in 0..looks {
            if connections::stopped(members).is_superset(&groups.iter().copied().collect()) {
                break;
            }
            sleep(pause).await;
        }
        let mut idle = self.idle(groups, members);
        if !idle.is_empty() {
            // What it forked since the last scan counts, too.
            idle = self.idle(&idle, &connections::members(&idle));
        }
        for group in &idle {
            let told = self.draining.borrow_mut().remove(group);
            if let Some(worker) = told {
                (worker.tell)();
            }
        }
        for group in groups.iter().filter(|group| !idle.contains(group)) {
            // Also one that was forgotten meanwhile, since it was told to end.
            signal_group(*group, Signal::CONT);
        }
    }

    /// Those that are stopped and have nothing to do.
    fn idle(&self, groups: &[u32], members: &[Member]) -> Vec<u32> {
        let stopped = connections::stopped(members);
        let seen = self.look(groups, members);
        let idle = seen.iter().filter(|(_, seen)| *seen == Seen::Idle);
        let idle = idle.map(|(group, _)| *group);
        idle.filter(|group| stopped.contains(group)).collect()
    }
}
