//! When a worker under Connection dispatch has nothing left to do.
//!
//! The supervisor is not in the data path, so it looks. A worker is idle when
//! none of its connections carries anything; since it accepts for itself until
//! its end, it is then stopped (SIGSTOP), looked at once more, and handed to the
//! engine as it is: the stop signal reaches it before it can accept again. One
//! that has accepted in between goes on and is looked at later.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_engine::Generation;
use tokio::time::{Instant, sleep};

use crate::connections;
use crate::process::signal_group;
use crate::sharing::Sharing;

/// A connection whose handshake began before the turn to another generation
/// arrives in the old queue when its last packet does: one round trip later,
/// over a slow line this much.
const HANDSHAKES: Duration = Duration::from_secs(1);
/// How often the kernel is asked.
const PERIOD: Duration = Duration::from_millis(25);
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
    /// The app's port.
    port: u16,
    /// Where the queues are.
    sharing: Rc<RefCell<Sharing>>,
    /// By process group.
    draining: RefCell<HashMap<u32, Draining>>,
    watching: Cell<bool>,
    /// No worker stays: what waits in the queues is theirs to take.
    stopping: Cell<bool>,
}

struct Draining {
    generation: Generation,
    begun: Instant,
    tell: Box<dyn FnOnce()>,
}

impl Drains {
    /// Nothing drains.
    pub(crate) fn new(port: u16, sharing: Rc<RefCell<Sharing>>) -> Self {
        Self(Rc::new(Inner {
            port,
            sharing,
            draining: RefCell::default(),
            watching: Cell::new(false),
            stopping: Cell::new(false),
        }))
    }

    /// Watches a worker from now on; tells when it has nothing left to do. It is
    /// stopped then, and must be sent SIGCONT after the signal that ends it.
    pub(crate) fn add(&self, group: u32, generation: Generation, tell: impl FnOnce() + 'static) {
        let draining = Draining {
            generation,
            begun: Instant::now(),
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
        let mut known = connections::peers(self.0.port);
        while last.elapsed() < quiet && begun.elapsed() < most {
            sleep(ARRIVALS.min(quiet)).await;
            let peers = connections::peers(self.0.port);
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

impl Inner {
    async fn watch(self: Rc<Self>) {
        loop {
            sleep(PERIOD).await;
            let groups: Vec<u32> = self.draining.borrow().keys().copied().collect();
            if groups.is_empty() {
                self.watching.set(false);
                return;
            }
            let idle = self.idle(&groups);
            if !idle.is_empty() {
                self.end(&idle).await;
            }
        }
    }

    /// Those that have nothing to do at this moment.
    fn idle(&self, groups: &[u32]) -> Vec<u32> {
        let held = connections::held_by_groups(groups, &connections::carrying(self.port));
        let draining = self.draining.borrow();
        let idle = |group: &u32| {
            let worker = draining.get(group);
            let holds = held.get(group).is_some_and(|count| *count > 0);
            !holds && worker.is_some_and(|worker| self.may_leave(worker))
        };
        groups.iter().copied().filter(idle).collect()
    }

    /// Whether nobody counts on the worker's taking more from its queue.
    fn may_leave(&self, worker: &Draining) -> bool {
        let sharing = self.sharing.borrow();
        if sharing.is_active(worker.generation) && !self.stopping.get() {
            // Those that stay in its generation take the next ones.
            return true;
        }
        let turned = self.stopping.get() || worker.begun.elapsed() >= HANDSHAKES;
        turned && sharing.queued(worker.generation) == 0
    }

    /// Stops workers that looked idle, and tells of those that are.
    async fn end(&self, groups: &[u32]) {
        for group in groups {
            signal_group(*group, Signal::STOP);
        }
        let (looks, pause) = STOPS;
        let mut stopped = connections::stopped(groups);
        for _look in 0..looks {
            if stopped.len() == groups.len() {
                break;
            }
            sleep(pause).await;
            stopped = connections::stopped(groups);
        }
        let idle = self.idle(groups);
        for group in groups {
            let is_done = idle.contains(group) && stopped.contains(group);
            let told = is_done.then(|| self.draining.borrow_mut().remove(group));
            match told.flatten() {
                Some(worker) => (worker.tell)(),
                // Also one that was forgotten meanwhile, since it was told to end.
                None => signal_group(*group, Signal::CONT),
            }
        }
    }
}
