//! Time on the forwarding path: one clock of the process, and deadlines that
//! cost nothing until they pass.
//!
//! A timer for each step of each request would cost more than the step. So all deadlines
//! of a thread are looked at together, every [`TICK_INTERVAL`] (every [`REST_INTERVAL`]
//! while nothing is under way), and pass up to that much late. They lie in one piece of
//! memory, which each look reads from end to end. Idle connections, and those whose client
//! keeps us waiting, are each in an ordered list, so that the oldest can be ended without a
//! look at the others. A parked connection has no task to wake, so its slot is told
//! instead. What follows when a deadline passes is decided by the caller.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub(crate) use crate::order::Slot;
use crate::order::{List, Order};

/// How often deadlines are looked at.
pub(crate) const TICK_INTERVAL: Duration = Duration::from_millis(50);
/// How often while nothing is under way.
pub(crate) const REST_INTERVAL: Duration = Duration::from_secs(1);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time since the process first looked at its clock.
pub(crate) fn now() -> Duration {
    START.elapsed()
}

/// A moment on the process's clock.
pub(crate) fn at(moment: Instant) -> Duration {
    moment.saturating_duration_since(*START)
}

/// When the current step of a connection must be done.
#[derive(Debug)]
pub(crate) struct Deadline {
    clock: Rc<Clock>,
    slot: Slot,
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Something is under way.
    Busy,
    /// The same, but its deadline may be noticed a second late.
    Lax,
    /// Nothing is under way. Such connections end first.
    Idle,
    /// Its client keeps us waiting.
    Stalled,
}

/// Why a connection ends although something is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Memory is short.
    Memory,
    /// It gives way to a new connection.
    Room,
}

/// Whether anything has moved lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Moves,
    /// Not since the last look.
    Still,
    /// Nothing for longer: it is to give back the memory that it does not need.
    Squeezed,
    /// It has given it back.
    Slim,
}

/// The current step of a connection.
#[derive(Debug)]
struct Step {
    at: Duration,
    /// Since when it is idle, or the client has kept us waiting.
    since: Duration,
    waker: Option<Waker>,
    /// Bytes of memory that the connection holds.
    held: u32,
    kind: Kind,
    pace: Pace,
    cut: Option<Cut>,
    /// No task waits for it: the connection is parked, and its slot is told instead.
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
    /// Parked connections whose deadline has passed and that were not told yet.
    passed: Vec<Slot>,
}

/// The result of a look at all deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick {
    /// Anything is under way that has a deadline.
    pub(crate) is_busy: bool,
    /// Bytes that all connections hold.
    pub(crate) held: u64,
}

/// A thread's deadlines.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    now: Cell<Duration>,
    steps: RefCell<Steps>,
    /// A deadline of a parked connection has passed.
    parked_passed: Notify,
}

impl Clock {
    /// The time as of the last tick or request. It costs no system call, and is late by up
    /// to [`TICK_INTERVAL`] while anything is under way.
    pub(crate) fn now(&self) -> Duration {
        self.now.get()
    }

    /// Something begins, and its deadlines count from `now`.
    pub(crate) fn set(&self, now: Duration) {
        self.now.set(now);
    }

    /// Looks at all deadlines; `ends_idle` lets those of idle connections pass.
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

    /// Wakes each connection on which nothing has moved for a look or two, once, so that it
    /// gives back the memory that it does not need.
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

    /// Ends the connections that hold the most, until so many bytes will be free; how many
    /// ended.
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

    /// Ends all connections that have been idle for so long; how many ended.
    pub(crate) fn end_idle(&self, least: Duration) -> u64 {
        let mut ended = 0;
        while self.end_oldest_idle(least) {
            ended += 1;
        }
        ended
    }

    /// Ends the connection that has been idle for longest, if that is so long; whether
    /// there was one.
    pub(crate) fn end_oldest_idle(&self, least: Duration) -> bool {
        let Some(slot) = self.oldest(List::Idle, least) else {
            return false;
        };
        let waker = self.steps.borrow_mut().end(slot);
        self.wake(waker);
        true
    }

    /// Ends the connection whose client has kept us waiting for longest, if that is longer
    /// than `grace`; whether there was one.
    pub(crate) fn end_longest_stalled(&self, grace: Duration) -> bool {
        let Some(slot) = self.oldest(List::Stalled, grace) else {
            return false;
        };
        let waker = self.steps.borrow_mut().cut(slot, Cut::Room);
        self.wake(waker);
        true
    }

    /// Whether any connection is idle.
    pub(crate) fn has_idle(&self) -> bool {
        self.oldest(List::Idle, Duration::ZERO).is_some()
    }

    /// Whether any client has kept us waiting for so long.
    pub(crate) fn has_stalled(&self, grace: Duration) -> bool {
        self.oldest(List::Stalled, grace).is_some()
    }

    /// The connection that has been in a list for longest, if that is so long.
    fn oldest(&self, list: List, least: Duration) -> Option<Slot> {
        let steps = self.steps.borrow();
        let first = steps.order.first(list)?;
        let since = steps.all[first.index()].since;
        (self.now.get().saturating_sub(since) >= least).then_some(first)
    }

    /// To be called with nothing borrowed, because wakers run code of others.
    fn wake(&self, wakers: impl IntoIterator<Item = Waker>) {
        for waker in wakers {
            waker.wake();
        }
        if !self.steps.borrow().passed.is_empty() {
            self.parked_passed.notify_one();
        }
    }

    /// The slots of parked connections whose deadline has passed since the last call,
    /// once there are any.
    pub(crate) async fn passed(&self) -> Vec<Slot> {
        self.parked_passed.notified().await;
        std::mem::take(&mut self.steps.borrow_mut().passed)
    }

    /// A deadline that is far away.
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
    /// The deadline of a connection passes, and it is not offered again to make room; its
    /// waker.
    fn end(&mut self, slot: Slot) -> Option<Waker> {
        self.order.leave(slot);
        let step = &mut self.all[slot.index()];
        step.at = Duration::ZERO;
        step.pass(slot, &mut self.passed)
    }

    /// The same whatever is under way. It is not counted any more, and not cut twice.
    fn cut(&mut self, slot: Slot, why: Cut) -> Option<Waker> {
        let step = &mut self.all[slot.index()];
        step.held = 0;
        step.cut = Some(why);
        self.end(slot)
    }
}

impl Step {
    /// Its deadline has passed: its task is to be woken, or its slot is told if it is
    /// parked; once.
    fn pass(&mut self, slot: Slot, parked: &mut Vec<Slot>) -> Option<Waker> {
        if std::mem::take(&mut self.is_parked) {
            parked.push(slot);
        }
        self.waker.take()
    }
}

impl Deadline {
    fn with<T>(&self, then: impl FnOnce(&mut Step) -> T) -> T {
        then(&mut self.clock.steps.borrow_mut().all[self.slot.index()])
    }

    /// The step that begins now may take so long.
    pub(crate) fn set(&self, time: Duration) {
        // `MAX` stays what it is: no deadline.
        self.set_at(self.clock.now().saturating_add(time));
    }

    /// The step that goes on must be done by then.
    pub(crate) fn set_at(&self, at: Duration) {
        self.put(at, Kind::Busy, Duration::ZERO);
    }

    /// As [`Self::set_at`]; if `since` is given the client has kept us waiting since
    /// then.
    pub(crate) fn set_stalled(&self, at: Duration, since: Option<Duration>) {
        match since {
            Some(since) => self.put(at, Kind::Stalled, since),
            None => self.set_at(at),
        }
    }

    /// As [`Self::set_at`], where a second more does not matter ([`REST_INTERVAL`]).
    pub(crate) fn set_lax(&self, at: Duration) {
        self.put(at, Kind::Lax, Duration::ZERO);
    }

    /// As [`Self::set`], for a connection on which nothing is under way.
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

    /// The connection holds so much memory while it waits.
    pub(crate) fn holds(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.with(|step| {
            if std::mem::replace(&mut step.held, bytes) != bytes {
                step.pace = Pace::Moves;
            }
        });
    }

    /// Whether, and why, it is to end whatever is under way.
    pub(crate) fn cut(&self) -> Option<Cut> {
        self.with(|step| step.cut)
    }

    /// Forgets what was held, because nothing is under way.
    fn release(&self) {
        self.with(|step| {
            step.held = 0;
            step.cut = None;
            step.pace = Pace::Moves;
        });
    }

    /// Whether it has waited for long and is to give back the memory that it does not
    /// need; said once.
    pub(crate) fn is_squeezed(&self) -> bool {
        self.with(|step| {
            let is_squeezed = step.pace == Pace::Squeezed;
            if is_squeezed {
                step.pace = Pace::Slim;
            }
            is_squeezed
        })
    }

    /// No task waits for it from here on; once it has passed [`Clock::passed`] tells its
    /// slot. A later call of [`Self::poll`] has a task wait again.
    pub(crate) fn park(&self) -> Slot {
        let waker = self.with(|step| {
            step.is_parked = true;
            step.pace = Pace::Slim;
            step.waker.take()
        });
        // Dropped here, with nothing borrowed.
        drop(waker);
        self.slot
    }

    /// Whether it has waited for long and holds no memory.
    pub(crate) fn is_slim(&self) -> bool {
        self.with(|step| step.pace == Pace::Slim && step.held == 0)
    }

    /// Ready when it has passed; else the task is woken then.
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
        // Dropped here, with nothing borrowed.
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
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn has_passed(deadline: &Deadline) -> bool {
        let context = Context::from_waker(Waker::noop());
        deadline.poll(&context).is_ready()
    }

    #[test]
    fn a_deadline_passes_at_the_tick_after_it() {
        let clock = Rc::new(Clock::default());
        clock.tick(seconds(100), false);
        let deadline = clock.deadline();
        let context = Context::from_waker(Waker::noop());
        assert!(deadline.poll(&context).is_pending());
        deadline.set(seconds(5));
        clock.tick(seconds(104), false);
        assert!(deadline.poll(&context).is_pending());
        clock.tick(seconds(105), false);
        assert!(deadline.poll(&context).is_ready());
        deadline.set(seconds(5));
        assert!(deadline.poll(&context).is_pending(), "it can be set again");
    }

    #[test]
    fn idle_ones_end_when_told_and_gone_ones_are_forgotten() {
        let clock = Rc::new(Clock::default());
        let (idle, busy) = (clock.deadline(), clock.deadline());
        idle.set_idle(seconds(60));
        busy.set(seconds(60));
        assert!(clock.tick(seconds(1), true).is_busy, "one is under way");
        assert!(has_passed(&idle) && !has_passed(&busy));
        busy.set(Duration::MAX);
        assert!(
            !clock.tick(seconds(1), true).is_busy,
            "it has no end that must be seen"
        );
        busy.set_lax(seconds(60));
        assert!(
            !clock.tick(seconds(1), true).is_busy,
            "it may be seen later"
        );
        assert!(!has_passed(&busy), "it is not idle");
        clock.tick(seconds(60), false);
        assert!(has_passed(&busy));
        drop((idle, busy));
        clock.tick(seconds(2), false);
        assert!(!clock.has_idle());
        let _again = (clock.deadline(), clock.deadline());
        assert_eq!(
            clock.steps.borrow().all.len(),
            2,
            "their places are used again"
        );
    }

    #[test]
    fn those_that_have_been_idle_for_longest_end_first() {
        let clock = Rc::new(Clock::default());
        let (old, new, busy) = (clock.deadline(), clock.deadline(), clock.deadline());
        old.set_idle(seconds(75));
        busy.set(seconds(9));
        clock.set(seconds(2));
        // One that expects less patience is no older for it.
        new.set_idle(seconds(10));
        clock.end_idle(seconds(1));
        assert!(has_passed(&old) && !has_passed(&new) && !has_passed(&busy));
        clock.set(seconds(3));
        clock.end_idle(seconds(1));
        assert!(has_passed(&new));
        assert!(
            !clock.end_oldest_idle(Duration::ZERO),
            "both have their word already"
        );
        old.set_idle(seconds(75));
        busy.set_idle(seconds(75));
        old.set(seconds(9));
        assert!(clock.end_oldest_idle(Duration::ZERO) && has_passed(&busy));
        assert!(!clock.has_idle() && !has_passed(&old));
    }

    #[test]
    fn what_waits_gives_back_and_what_holds_the_most_ends_first() {
        let clock = Rc::new(Clock::default());
        let all = [10, 30, 20].map(|held| {
            let deadline = clock.deadline();
            deadline.set(seconds(60));
            deadline.holds(held);
            deadline
        });
        assert_eq!(clock.tick(seconds(1), false).held, 60);
        clock.squeeze();
        all[0].holds(11);
        clock.squeeze();
        let squeezed = [0, 1, 2].map(|at: usize| all[at].is_squeezed());
        assert_eq!(squeezed, [false, true, true]);
        clock.squeeze();
        assert!(!all[1].is_squeezed(), "once");
        assert_eq!(clock.end_largest(35), 2);
        let ended = [0, 1, 2].map(|at: usize| has_passed(&all[at]));
        assert_eq!(ended, [false, true, true]);
        assert_eq!(clock.tick(seconds(1), false).held, 11);
    }

    #[test]
    fn who_has_kept_us_waiting_for_longest_gives_way_and_nobody_else_does() {
        let clock = Rc::new(Clock::default());
        let (old, new, works, answered) = (
            clock.deadline(),
            clock.deadline(),
            clock.deadline(),
            clock.deadline(),
        );
        works.set(seconds(3600));
        answered.set_stalled(seconds(60), Some(seconds(0)));
        old.set_stalled(seconds(60), Some(seconds(0)));
        clock.set(seconds(1));
        new.set_stalled(seconds(60), Some(seconds(1)));
        // It is waited for no more.
        answered.set_at(seconds(60));
        // A look in between changes nothing.
        old.set_stalled(seconds(61), Some(seconds(0)));
        assert!(!clock.end_longest_stalled(seconds(2)), "none for so long");
        clock.set(seconds(2));
        assert!(clock.has_stalled(seconds(2)));
        assert!(clock.end_longest_stalled(seconds(2)));
        assert_eq!(old.cut(), Some(Cut::Room));
        assert!(has_passed(&old) && !has_passed(&new));
        // What it still does is not waited for, and it is no place for two.
        old.set_stalled(seconds(90), Some(seconds(2)));
        assert!(has_passed(&old));
        clock.set(seconds(3));
        assert!(clock.end_longest_stalled(seconds(2)) && has_passed(&new));
        clock.set(seconds(59));
        assert!(!clock.end_longest_stalled(seconds(2)));
        assert!(!has_passed(&works) && !has_passed(&answered));
    }

    #[test]
    fn of_parked_ones_the_slot_is_told_once() {
        let clock = Rc::new(Clock::default());
        let (late, evicted, unparked) = (clock.deadline(), clock.deadline(), clock.deadline());
        for deadline in [&evicted, &late, &unparked] {
            deadline.set_idle(seconds(60));
        }
        let slots = [late.park(), evicted.park()];
        unparked.park();
        assert!(!has_passed(&unparked), "a task waits for it again");
        let told = || std::mem::take(&mut clock.steps.borrow_mut().passed);
        clock.squeeze();
        clock.tick(seconds(1), false);
        assert_eq!(told(), []);
        assert!(clock.end_oldest_idle(Duration::ZERO));
        assert_eq!(told(), [slots[1]]);
        assert!(has_passed(&evicted));
        clock.tick(seconds(60), false);
        assert_eq!(told(), [slots[0]], "the other was told of");
        clock.tick(seconds(61), false);
        assert_eq!(told(), []);
    }

    #[test]
    fn a_connection_costs_little_here() {
        assert!(size_of::<Step>() <= 56, "{}", size_of::<Step>());
        assert!(size_of::<Deadline>() <= 16);
    }
}
