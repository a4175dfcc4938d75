//! Time on the forwarding path: one clock of the process, and deadlines that
//! cost nothing until they pass.
//!
//! A timer for each step of each request would cost more than the step. So a
//! thread's deadlines are looked at together, every [`TICK`] (every [`REST`]
//! while nothing is under way); they pass up to that much late. What happens
//! then is the caller's matter.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How often deadlines are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// How often while nothing is under way.
pub(crate) const REST: Duration = Duration::from_secs(1);

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
    waker: RefCell<Option<Waker>>,
}

/// A thread's deadlines.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    now: Cell<Duration>,
    deadlines: RefCell<Vec<Weak<Deadline>>>,
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
    /// Whether anything is under way that has one.
    pub(crate) fn tick(&self, now: Duration, ends_idle: bool) -> bool {
        self.now.set(now);
        let mut is_busy = false;
        self.deadlines.borrow_mut().retain(|deadline| {
            let Some(deadline) = deadline.upgrade() else {
                return false;
            };
            if ends_idle && deadline.idle.get() {
                deadline.at.set(Duration::ZERO);
            }
            if deadline.at.get() <= now {
                deadline.wake();
            }
            is_busy |=
                !deadline.idle.get() && !deadline.lax.get() && deadline.at.get() < Duration::MAX;
            true
        });
        is_busy
    }

    /// Lets the deadlines of those pass that were to be idle for `time` and have been
    /// for `least` of it.
    pub(crate) fn end_idle(&self, time: Duration, least: Duration) {
        let until = self.now.get().saturating_add(time.saturating_sub(least));
        let deadlines = self.deadlines.borrow();
        for deadline in deadlines.iter().filter_map(Weak::upgrade) {
            if deadline.idle.get() && deadline.at.get() <= until {
                deadline.at.set(Duration::ZERO);
                deadline.wake();
            }
        }
    }

    /// A deadline that is far away.
    pub(crate) fn deadline(self: &Rc<Self>) -> Rc<Deadline> {
        let deadline = Rc::new(Deadline {
            clock: Rc::clone(self),
            at: Cell::new(Duration::MAX),
            idle: Cell::new(false),
            lax: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.deadlines.borrow_mut().push(Rc::downgrade(&deadline));
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
        self.idle.set(false);
        self.lax.set(false);
        self.at.set(at);
    }

    /// As [`Self::set_at`], where a second more or less is no matter ([`REST`]).
    pub(crate) fn set_lax(&self, at: Duration) {
        self.set_at(at);
        self.lax.set(true);
    }

    /// As [`Self::set`], for a connection on which nothing is under way.
    pub(crate) fn set_idle(&self, time: Duration) {
        self.set(time);
        self.idle.set(true);
    }

    /// Whoever waits for it looks again.
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it has passed.
    pub(crate) fn has_passed(&self) -> bool {
        self.at.get() <= self.clock.now()
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
        assert!(clock.tick(seconds(1), true), "one is under way");
        assert!(idle.has_passed() && !busy.has_passed());
        busy.set(Duration::MAX);
        assert!(
            !clock.tick(seconds(1), true),
            "it has no end that must be seen"
        );
        busy.set_lax(seconds(60));
        assert!(!clock.tick(seconds(1), true), "it may be seen later");
        assert!(!busy.has_passed(), "it is not idle");
        clock.tick(seconds(60), false);
        assert!(busy.has_passed());
        drop((idle, busy));
        clock.tick(seconds(2), false);
        assert!(clock.deadlines.borrow().is_empty());
    }

    #[test]
    fn those_that_have_been_idle_for_a_while_end_before_others() {
        let clock = Rc::new(Clock::default());
        let (old, new, busy) = (clock.deadline(), clock.deadline(), clock.deadline());
        old.set_idle(seconds(75));
        busy.set(seconds(9));
        clock.set(seconds(2));
        new.set_idle(seconds(75));
        clock.end_idle(seconds(75), seconds(1));
        assert!(old.has_passed() && !new.has_passed() && !busy.has_passed());
        clock.set(seconds(3));
        clock.end_idle(seconds(75), seconds(1));
        assert!(new.has_passed());
    }
}
