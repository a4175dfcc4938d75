//! Time on the forwarding path: one clock of the process, and deadlines that cost nothing
//! until they pass.
//!
//! A timer for each step of each request would cost more than the step itself. So all
//! deadlines of a thread are checked together, every [`TICK_INTERVAL`] (every
//! [`REST_INTERVAL`] while the thread is idle), and take effect up to that much late. They
//! are in one array, which each check reads from end to end. Idle connections are in an
//! ordered list, and so are connections whose client does not send or read, so that the
//! oldest of each list can be ended without a search. A parked connection has no task to
//! wake; instead its slot is reported. The caller decides what follows when a deadline
//! passes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub(crate) use crate::order::Slot;
use crate::order::{List, Order};

/// How often deadlines are checked.
pub(crate) const TICK_INTERVAL: Duration = Duration::from_millis(50);
/// How often deadlines are checked while no connection is busy.
pub(crate) const REST_INTERVAL: Duration = Duration::from_secs(1);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time since the process first read its clock.
pub(crate) fn now() -> Duration {
    START.elapsed()
}

/// A point in time on the process's clock.
pub(crate) fn at(moment: Instant) -> Duration {
    moment.saturating_duration_since(*START)
}

/// When the current step of a connection must be done.
#[derive(Debug)]
pub(crate) struct Deadline {
    clock: Rc<Clock>,
    slot: Slot,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is busy.
    Busy,
    /// It is busy, but its deadline may take effect a second late.
    Lax,
    /// It is idle. Idle connections are the first to end.
    Idle,
    /// It waits for its client, which does not send or read.
    Stalled,
}

/// Why a connection ends although it is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Memory is short.
    Memory,
    /// It makes room for a new connection.
    Room,
}

/// Whether bytes have moved recently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Moves,
    /// No byte has moved since the last check.
    Still,
    /// No byte has moved for longer: the connection must give back memory that it does not
    /// need.
    Squeezed,
    /// The connection has been notified to give the memory back.
    Slim,
}

/// The current step of a connection.
#[derive(Debug)]
struct Step {
    at: Duration,
    /// Since when the connection has been idle, or since when its client has not sent or read.
    since: Duration,
    waker: Option<Waker>,
    /// Bytes of memory that the connection holds.
    held: u32,
    kind: Kind,
    pace: Pace,
    cut: Option<Cut>,
    /// No task waits for the deadline: the connection is parked, and its slot is reported
    /// instead.
    is_parked: bool,
}

/// The step of a slot without a connection.
const NOTHING: Step = Step {
    at: Duration::MAX,
    since: Duration::ZERO,
    waker: None,
    held: 0,
    kind: Kind::Busy,
    pace: Pace::Moves,
    cut: None,
    is_parked: false,
};

/// The steps of all connections of a thread, by slot.
#[derive(Debug, Default)]
struct Steps {
    all: Vec<Step>,
    order: Order,
    /// Parked connections whose deadline has passed and that have not been reported yet.
    passed: Vec<Slot>,
}

/// The result of a check of all deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick {
    /// Whether any busy connection has a deadline.
    pub(crate) is_busy: bool,
    /// Bytes that all connections hold.
    pub(crate) held: u64,
}

/// The deadlines of a thread.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    now: Cell<Duration>,
    steps: RefCell<Steps>,
    /// Notified when the deadline of a parked connection has passed.
    parked_passed: Notify,
}

impl Clock {
    /// The time of the last tick or request. Reading it costs no system call; it is late by
    /// up to [`TICK_INTERVAL`] while any connection is busy.
    pub(crate) fn now(&self) -> Duration {
        self.now.get()
    }

    /// A connection or request begins, and its deadlines count from `now`.
    pub(crate) fn set(&self, now: Duration) {
        self.now.set(now);
    }

    /// Checks all deadlines. With `ends_idle`, the deadlines of all idle connections pass now.
    pub(crate) fn tick(&self, now: Duration, ends_idle: bool) -> Tick {
        self.now.set(now);
        let (mut is_busy, mut held) = (false, 0);
        let mut woken = Vec::new();
        let mut steps = self.steps.borrow_mut();
        let Steps { all, passed, .. } = &mut *steps;
        for (at, step) in all.iter_mut().enumerate() {
            if ends_idle && step.kind == Kind::Idle {
                step.at = Duration::ZERO;
            }
            if step.at <= now {
                woken.extend(step.pass(Slot::of(at), passed));
            }
            is_busy |= matches!(step.kind, Kind::Busy | Kind::Stalled) && step.at < Duration::MAX;
            held += u64::from(step.held);
        }
        drop(steps);
        self.wake(woken);
        Tick { is_busy, held }
    }

    /// Wakes, once, each connection on which no byte has moved for one or two checks, so
    /// that it gives back the memory that it does not need.
    pub(crate) fn squeeze(&self) {
        let mut woken = Vec::new();
        for step in &mut self.steps.borrow_mut().all {
            match step.pace {
                Pace::Moves => step.pace = Pace::Still,
                Pace::Still if step.held > 0 || step.kind == Kind::Idle => {
                    step.pace = Pace::Squeezed;
                    woken.extend(step.waker.take());
                }
                Pace::Still | Pace::Squeezed | Pace::Slim => {}
            }
        }
        self.wake(woken);
    }

    /// Ends the connections that hold the most, until this many bytes will be free. Returns
    /// how many have ended.
    pub(crate) fn end_largest(&self, bytes: u64) -> u64 {
        let mut steps = self.steps.borrow_mut();
        let holding = steps.all.iter_mut().enumerate();
        let mut holding: Vec<_> = holding
            .filter(|(_, step)| step.held > 0)
            .map(|(at, step)| (step.held, Slot::of(at)))
            .collect();
        holding.sort_by_key(|(held, _)| std::cmp::Reverse(*held));
        let (mut free, mut ended) = (0, Vec::new());
        for (held, slot) in holding {
            if free >= bytes {
                break;
            }
            free += u64::from(held);
            ended.push(steps.cut(slot, Cut::Memory));
        }
        drop(steps);
        let count = ended.len() as u64;
        self.wake(ended.into_iter().flatten());
        count
    }

    /// Ends all connections that have been idle for at least `least`. Returns how many have
    /// ended.
    pub(crate) fn end_idle(&self, least: Duration) -> u64 {
        let mut ended = 0;
        while self.end_oldest_idle(least) {
            ended += 1;
        }
        ended
    }

    /// Ends the connection that has been idle longest, if it has been idle for at least
    /// `least`. Returns whether there was one.
    pub(crate) fn end_oldest_idle(&self, least: Duration) -> bool {
        let Some(slot) = self.oldest(List::Idle, least) else {
            return false;
        };
        let waker = self.steps.borrow_mut().end(slot);
        self.wake(waker);
        true
    }

    /// Ends the connection whose client has not sent or read for the longest time, if that
    /// time is at least `grace`. Returns whether there was one.
    pub(crate) fn end_longest_stalled(&self, grace: Duration) -> bool {
        let Some(slot) = self.oldest(List::Stalled, grace) else {
            return false;
        };
        self.end_for_room(slot);
        true
    }

    /// Ends a connection to make room, even if it is busy.
    pub(crate) fn end_for_room(&self, slot: Slot) {
        let waker = self.steps.borrow_mut().cut(slot, Cut::Room);
        self.wake(waker);
    }

    /// Whether any connection is idle.
    pub(crate) fn has_idle(&self) -> bool {
        self.oldest(List::Idle, Duration::ZERO).is_some()
    }

    /// Whether any client has not sent or read for at least `grace`.
    pub(crate) fn has_stalled(&self, grace: Duration) -> bool {
        self.oldest(List::Stalled, grace).is_some()
    }

    /// The connection that has been in a list for the longest time, if that time is at
    /// least `least`.
    fn oldest(&self, list: List, least: Duration) -> Option<Slot> {
        let steps = self.steps.borrow();
        let first = steps.order.first(list)?;
        let since = steps.all[first.index()].since;
        (self.now.get().saturating_sub(since) >= least).then_some(first)
    }

    /// Must be called with nothing borrowed, because wakers run other code.
    fn wake(&self, wakers: impl IntoIterator<Item = Waker>) {
        for waker in wakers {
            waker.wake();
        }
        if !self.steps.borrow().passed.is_empty() {
            self.parked_passed.notify_one();
        }
    }

    /// Waits for parked connections whose deadline has passed since the last call, and
    /// returns their slots.
    pub(crate) async fn passed(&self) -> Vec<Slot> {
        self.parked_passed.notified().await;
        std::mem::take(&mut self.steps.borrow_mut().passed)
    }

    /// A deadline that is not set yet.
    pub(crate) fn deadline(self: &Rc<Self>) -> Deadline {
        let mut steps = self.steps.borrow_mut();
        let slot = steps.order.slot();
        if slot.index() == steps.all.len() {
            steps.all.push(NOTHING);
        }
        drop(steps);
        Deadline {
            clock: Rc::clone(self),
            slot,
        }
    }
}

impl Steps {
    /// Lets the deadline of a connection pass, and takes the connection off its list, so that
    /// it is not chosen again to make room. Returns its waker.
    fn end(&mut self, slot: Slot) -> Option<Waker> {
        self.order.leave(slot);
        let step = &mut self.all[slot.index()];
        step.at = Duration::ZERO;
        step.pass(slot, &mut self.passed)
    }

    /// Ends a connection even if it is busy. Its memory no longer counts afterwards, so the
    /// connection is not cut twice.
    fn cut(&mut self, slot: Slot, why: Cut) -> Option<Waker> {
        let step = &mut self.all[slot.index()];
        step.held = 0;
        step.cut = Some(why);
        self.end(slot)
    }
}

impl Step {
    /// The deadline has passed. Returns the waker of its task; if the connection is parked,
    /// its slot is recorded instead. A second call does neither.
    fn pass(&mut self, slot: Slot, parked: &mut Vec<Slot>) -> Option<Waker> {
        if std::mem::take(&mut self.is_parked) {
            parked.push(slot);
        }
        self.waker.take()
    }
}

impl Deadline {
    /// The slot of the connection, until the deadline is dropped.
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    fn with<T>(&self, then: impl FnOnce(&mut Step) -> T) -> T {
        then(&mut self.clock.steps.borrow_mut().all[self.slot.index()])
    }

    /// The step that begins now may take `time`.
    pub(crate) fn set(&self, time: Duration) {
        // `Duration::MAX` stays as it is and means no deadline.
        self.set_at(self.clock.now().saturating_add(time));
    }

    /// The current step must be done at the time `at`.
    pub(crate) fn set_at(&self, at: Duration) {
        self.put(at, Kind::Busy, Duration::ZERO);
    }

    /// As [`Self::set_at`]; if `since` is given, the client has not sent or read since
    /// then.
    pub(crate) fn set_stalled(&self, at: Duration, since: Option<Duration>) {
        match since {
            Some(since) => self.put(at, Kind::Stalled, since),
            None => self.set_at(at),
        }
    }

    /// As [`Self::set_at`], where a delay of one more second does not matter
    /// ([`REST_INTERVAL`]).
    pub(crate) fn set_lax(&self, at: Duration) {
        self.put(at, Kind::Lax, Duration::ZERO);
    }

    /// As [`Self::set`], for an idle connection.
    pub(crate) fn set_idle(&self, time: Duration) {
        let now = self.clock.now();
        self.release();
        self.put(now.saturating_add(time), Kind::Idle, now);
    }

    fn put(&self, at: Duration, kind: Kind, since: Duration) {
        let steps = &mut *self.clock.steps.borrow_mut();
        let step = &mut steps.all[self.slot.index()];
        step.at = at;
        let before = (step.kind, step.since);
        (step.kind, step.since) = (kind, since);
        let is_cut = step.cut.is_some();
        let list = match kind {
            Kind::Busy | Kind::Lax => None,
            Kind::Idle => Some(List::Idle),
            Kind::Stalled if before == (kind, since) => return,
            Kind::Stalled => Some(List::Stalled).filter(|_| !is_cut),
        };
        if let Some(list) = list {
            steps.order.join(self.slot, list);
        } else if matches!(before.0, Kind::Idle | Kind::Stalled) {
            steps.order.leave(self.slot);
        }
    }

    /// Records how much memory the connection holds while it waits.
    pub(crate) fn holds(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.with(|step| {
            if std::mem::replace(&mut step.held, bytes) != bytes {
                step.pace = Pace::Moves;
            }
        });
    }

    /// There is no memory for what the connection needs: it must end.
    pub(crate) fn end_for_memory(&self) {
        let waker = self.clock.steps.borrow_mut().cut(self.slot, Cut::Memory);
        drop(waker);
    }

    /// Whether the connection must end although it is busy, and why.
    pub(crate) fn cut(&self) -> Option<Cut> {
        self.with(|step| step.cut)
    }

    /// Clears the recorded memory, because the connection is idle.
    fn release(&self) {
        self.with(|step| {
            step.held = 0;
            step.cut = None;
            step.pace = Pace::Moves;
        });
    }

    /// Whether the connection has waited for long and must give back the memory that it
    /// does not need. Returns `true` only once.
    pub(crate) fn is_squeezed(&self) -> bool {
        self.with(|step| {
            let is_squeezed = step.pace == Pace::Squeezed;
            if is_squeezed {
                step.pace = Pace::Slim;
            }
            is_squeezed
        })
    }

    /// From here on no task waits for the deadline; once it has passed, [`Clock::passed`]
    /// reports the slot. A later call of [`Self::poll`] makes a task wait again.
    pub(crate) fn park(&self) -> Slot {
        let waker = self.with(|step| {
            step.is_parked = true;
            step.pace = Pace::Slim;
            step.waker.take()
        });
        // The waker is dropped here, with nothing borrowed.
        drop(waker);
        self.slot
    }

    /// Whether the connection has waited for long and holds no memory.
    pub(crate) fn is_slim(&self) -> bool {
        self.with(|step| step.pace == Pace::Slim && step.held == 0)
    }

    /// Ready when the deadline has passed; otherwise the task is woken when it passes.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let now = self.clock.now();
        let before = self.with(|step| {
            step.is_parked = false;
            if step.at <= now || step.cut.is_some() {
                return Err(());
            }
            let is_known = |waker: &Waker| waker.will_wake(context.waker());
            if step.waker.as_ref().is_some_and(is_known) {
                return Ok(None);
            }
            Ok(step.waker.replace(context.waker().clone()))
        });
        // The old waker is dropped here, with nothing borrowed.
        before.map_or(Poll::Ready(()), |_waker| Poll::Pending)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut steps = self.clock.steps.borrow_mut();
        steps.order.give_back(self.slot);
        let gone = std::mem::replace(&mut steps.all[self.slot.index()], NOTHING);
        drop(steps);
        drop(gone);
    }
}

#[cfg(test)]
mod tests;
