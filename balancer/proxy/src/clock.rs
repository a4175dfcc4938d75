//! Time on the forwarding path: one clock of the process, and deadlines that
//! cost nothing until they pass.
//!
//! A timer for each step of each request would cost more than the step. So a
//! thread's deadlines are looked at together, every [`TICK`] (every [`REST`]
//! while nothing is under way); they pass up to that much late. What happens
//! then is the caller's matter. Connections on which nothing goes on stand in an
//! order, so that the oldest of them can be ended without a look at the others.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::order::{Order, Slot};

/// How often deadlines are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// How often while nothing is under way.
pub(crate) const REST: Duration = Duration::from_secs(1);

/// Deadlines that are kept for the next connections.
const SPARE: usize = 64;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Since the process's first look at the clock.
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
    at: Cell<Duration>,
    /// Nothing is under way: such connections end first when all must.
    idle: Cell<bool>,
    /// It is no reason to look often.
    lax: Cell<bool>,
    /// Since when it is idle.
    since: Cell<Duration>,
    slot: Slot,
    /// Bytes of memory that the connection holds.
    held: Cell<u32>,
    /// It ends, whatever is under way, for want of memory.
    shed: Cell<bool>,
    pace: Cell<Pace>,
    waker: RefCell<Option<Waker>>,
}

/// Whether anything has moved lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Moves,
    /// Not since the last look.
    Still,
    /// For longer: it is to give back what it holds in vain.
    Squeezed,
    /// It has.
    Slim,
}

/// What a look at all deadlines has found.
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
    /// By slot; what is in a free one is gone.
    deadlines: RefCell<Vec<Weak<Deadline>>>,
    /// The idle ones, the oldest first.
    idle: RefCell<Order>,
    /// Of connections that are over.
    spare: RefCell<Vec<Rc<Deadline>>>,
}

impl Clock {
    /// As of the last tick, or of the last request: late by up to [`TICK`]
    /// while anything is under way, and free of charge.
    pub(crate) fn now(&self) -> Duration {
        self.now.get()
    }

    /// Something begins: the time that its deadlines count from.
    pub(crate) fn set(&self, now: Duration) {
        self.now.set(now);
    }

    /// Looks at all deadlines; `ends_idle` lets those of idle connections pass.
    pub(crate) fn tick(&self, now: Duration, ends_idle: bool) -> Tick {
        self.now.set(now);
        let (mut is_busy, mut held) = (false, 0);
        for place in self.deadlines.borrow_mut().iter_mut() {
            let Some(deadline) = place.upgrade() else {
                // Its memory is there for as long as anything points to it.
                *place = Weak::new();
                continue;
            };
            if ends_idle && deadline.idle.get() {
                deadline.at.set(Duration::ZERO);
            }
            if deadline.at.get() <= now {
                deadline.wake();
            }
            is_busy |=
                !deadline.idle.get() && !deadline.lax.get() && deadline.at.get() < Duration::MAX;
            held += u64::from(deadline.held.get());
        }
        Tick { is_busy, held }
    }

    /// Wakes those on which nothing has moved for a look or two, once, so that they
    /// give back what they hold in vain.
    pub(crate) fn squeeze(&self) {
        let deadlines = self.deadlines.borrow();
        for deadline in deadlines.iter().filter_map(Weak::upgrade) {
            match deadline.pace.get() {
                Pace::Moves => deadline.pace.set(Pace::Still),
                Pace::Still if deadline.held.get() > 0 || deadline.idle.get() => {
                    deadline.pace.set(Pace::Squeezed);
                    deadline.wake();
                }
                Pace::Still | Pace::Squeezed | Pace::Slim => {}
            }
        }
    }

    /// Lets the deadlines of those pass that hold the most, until so many bytes will be
    /// free; how many those are.
    pub(crate) fn end_largest(&self, bytes: u64) -> u64 {
        let deadlines = self.deadlines.borrow();
        let alive = deadlines.iter().filter_map(Weak::upgrade);
        let mut holding: Vec<_> = alive.filter(|deadline| deadline.held.get() > 0).collect();
        holding.sort_by_key(|deadline| std::cmp::Reverse(deadline.held.get()));
        let (mut free, mut ended) = (0, 0);
        for deadline in holding {
            if free >= bytes {
                break;
            }
            free += u64::from(deadline.held.get());
            ended += 1;
            // It is counted no more, and asked no second time.
            deadline.held.set(0);
            deadline.shed.set(true);
            deadline.end();
        }
        ended
    }

    /// Lets the deadlines of those pass that have been idle for so long; how many.
    pub(crate) fn end_idle(&self, least: Duration) -> u64 {
        let mut ended = 0;
        while let Some(oldest) = self.oldest_idle()
            && self.now.get().saturating_sub(oldest.since.get()) >= least
        {
            oldest.end();
            ended += 1;
        }
        ended
    }

    /// Lets the deadline of the one pass that has been idle for longest; whether there
    /// was one.
    pub(crate) fn end_oldest_idle(&self) -> bool {
        let oldest = self.oldest_idle();
        oldest.inspect(|oldest| oldest.end()).is_some()
    }

    /// Whether any is idle.
    pub(crate) fn has_idle(&self) -> bool {
        self.idle.borrow().first().is_some()
    }

    fn oldest_idle(&self) -> Option<Rc<Deadline>> {
        let first = self.idle.borrow().first()?;
        self.deadlines.borrow()[first.index()].upgrade()
    }

    /// Takes the deadline of a connection that is over, for the next one.
    pub(crate) fn put_back(&self, deadline: Rc<Deadline>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE && Rc::strong_count(&deadline) == 1 {
            deadline.rest();
            spare.push(deadline);
        }
    }

    /// A deadline that is far away.
    pub(crate) fn deadline(self: &Rc<Self>) -> Rc<Deadline> {
        if let Some(spare) = self.spare.borrow_mut().pop() {
            return spare;
        }
        let slot = self.idle.borrow_mut().slot();
        let deadline = Rc::new(Deadline {
            clock: Rc::clone(self),
            at: Cell::new(Duration::MAX),
            idle: Cell::new(false),
            lax: Cell::new(false),
            since: Cell::new(Duration::ZERO),
            slot,
            held: Cell::new(0),
            shed: Cell::new(false),
            pace: Cell::new(Pace::Moves),
            waker: RefCell::new(None),
        });
        let mut deadlines = self.deadlines.borrow_mut();
        if slot.index() == deadlines.len() {
            deadlines.push(Weak::new());
        }
        deadlines[slot.index()] = Rc::downgrade(&deadline);
        drop(deadlines);
        deadline
    }
}

impl Deadline {
    /// The step that begins now may take so long.
    pub(crate) fn set(&self, time: Duration) {
        // `MAX` stays what it is: no deadline.
        self.set_at(self.clock.now().saturating_add(time));
    }

    /// The step that goes on must be done by then.
    pub(crate) fn set_at(&self, at: Duration) {
        if self.idle.replace(false) {
            self.clock.idle.borrow_mut().leave(self.slot);
        }
        self.lax.set(false);
        self.at.set(at);
    }

    /// The connection holds so much memory while it waits.
    pub(crate) fn holds(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.held.replace(bytes) != bytes {
            self.pace.set(Pace::Moves);
        }
    }

    /// Whether it is to end for want of memory.
    pub(crate) fn is_shed(&self) -> bool {
        self.shed.get()
    }

    /// Nothing is held, since nothing is under way.
    fn release(&self) {
        self.held.set(0);
        self.shed.set(false);
        self.pace.set(Pace::Moves);
    }

    /// Whether it has waited for long and is to give back what it holds in vain; said
    /// once.
    pub(crate) fn is_squeezed(&self) -> bool {
        let is_squeezed = self.pace.get() == Pace::Squeezed;
        if is_squeezed {
            self.pace.set(Pace::Slim);
        }
        is_squeezed
    }

    /// As [`Self::set_at`], where a second more or less is no matter ([`REST`]).
    pub(crate) fn set_lax(&self, at: Duration) {
        self.set_at(at);
        self.lax.set(true);
    }

    /// As [`Self::set`], for a connection on which nothing is under way.
    pub(crate) fn set_idle(&self, time: Duration) {
        self.idle.set(true);
        self.lax.set(false);
        self.release();
        self.since.set(self.clock.now());
        self.at.set(self.clock.now().saturating_add(time));
        self.clock.idle.borrow_mut().join(self.slot);
    }

    /// There is no connection.
    pub(crate) fn rest(&self) {
        self.release();
        self.set(Duration::MAX);
    }

    /// It passes, and is not idle for anybody who looks for room.
    fn end(&self) {
        self.clock.idle.borrow_mut().leave(self.slot);
        self.at.set(Duration::ZERO);
        self.wake();
    }

    /// Whoever waits for it looks again.
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it has passed.
    pub(crate) fn has_passed(&self) -> bool {
        self.at.get() <= self.clock.now() || self.shed.get()
    }

    /// Ready when it has passed; else the task is woken then.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.has_passed() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clock.idle.borrow_mut().give_back(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
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
        assert!(idle.has_passed() && !busy.has_passed());
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
        assert!(!busy.has_passed(), "it is not idle");
        clock.tick(seconds(60), false);
        assert!(busy.has_passed());
        drop((idle, busy));
        clock.tick(seconds(2), false);
        assert!(!clock.has_idle());
        let _again = (clock.deadline(), clock.deadline());
        assert_eq!(
            clock.deadlines.borrow().len(),
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
        assert!(old.has_passed() && !new.has_passed() && !busy.has_passed());
        clock.set(seconds(3));
        clock.end_idle(seconds(1));
        assert!(new.has_passed());
        assert!(!clock.end_oldest_idle(), "both have their word already");
        old.set_idle(seconds(75));
        busy.set_idle(seconds(75));
        old.set(seconds(9));
        assert!(clock.end_oldest_idle() && busy.has_passed());
        assert!(!clock.has_idle() && !old.has_passed());
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
        let ended = [0, 1, 2].map(|at: usize| all[at].has_passed());
        assert_eq!(ended, [false, true, true]);
        assert_eq!(clock.tick(seconds(1), false).held, 11);
    }
}
