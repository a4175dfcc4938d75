//! The queue of requests that wait for an endpoint: one for all threads of a proxy,
//! first come, first served.
//!
//! Decides which request may look for an endpoint now. Only the first one ever looks,
//! and only after something has changed, so that an endpoint with room for one more
//! request wakes one request and not all. Whether it finds an endpoint is decided by
//! the caller.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// See the module.
#[derive(Debug)]
pub struct Queue {
    /// Requests in flight at one endpoint at most.
    limit: Option<NonZeroU32>,
    /// Requests that may wait before a new one is refused.
    max_waiting: usize,
    /// The number of waiting requests, to be read without the lock.
    length: AtomicU32,
    waiters: Mutex<Waiters>,
}

/// Whether a request joins the queue for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// It has not been at an endpoint.
    First,
    /// It has lost its endpoint and needs another one. It gets the position back that it
    /// had, if it has waited before.
    Again(Option<Position>),
}

/// The position of a request in the queue; the lowest is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

#[derive(Debug)]
struct Waiters {
    /// Ordered by position.
    waiting: VecDeque<Waiting>,
    /// The positions given last, in front and at the end.
    ends: (u64, u64),
    /// Requests that have ended at an endpoint and left room that no one has looked for.
    freed: u32,
    /// Counts changes that may concern all: another table, or some time gone by.
    changes: u64,
    /// After this change a request has found that no endpoint has room.
    settled: u64,
}

#[derive(Debug)]
struct Waiting {
    position: Position,
    /// The latest change when it looked last.
    seen: u64,
    waker: Option<Waker>,
}

/// A waiting request; it leaves the queue when this is dropped.
#[derive(Debug)]
pub struct Ticket<'a> {
    queue: &'a Queue,
    position: Position,
    /// What its look is about: room for so many requests, and the latest change.
    turn: (u32, u64),
}

impl Queue {
    /// `limit`: requests in flight at one endpoint; `max_waiting`: requests that wait,
    /// before a new one is refused.
    pub fn new(limit: Option<NonZeroU32>, max_waiting: usize) -> Self {
        Self {
            limit,
            max_waiting,
            length: AtomicU32::new(0),
            waiters: Mutex::new(Waiters {
                waiting: VecDeque::new(),
                ends: (u64::MAX / 2, u64::MAX / 2 + 1),
                freed: 0,
                changes: 1,
                settled: 0,
            }),
        }
    }

    /// Requests in flight at one endpoint at most.
    pub fn limit(&self) -> Option<NonZeroU32> {
        self.limit
    }

    /// Whether a new request must let others pass first. Without a limit per endpoint
    /// requests do not wait for each other.
    pub fn is_contended(&self) -> bool {
        self.limit.is_some() && !self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.length.load(Ordering::SeqCst) == 0
    }

    /// Joins the queue; `None` if it is full. A request that comes again is older than
    /// every new one, and is never refused: the limit of connections bounds their number.
    pub fn join(&self, visit: Visit) -> Option<Ticket<'_>> {
        let mut waiters = self.lock();
        if visit == Visit::First && waiters.waiting.len() >= self.max_waiting {
            return None;
        }
        let position = waiters.join(visit);
        self.unlock(waiters, None);
        // Either we see room that is made now, or the thread that makes it sees us.
        fence(Ordering::SeqCst);
        Some(Ticket {
            queue: self,
            position,
            turn: (0, 0),
        })
    }

    /// A request has ended at an endpoint, which has room for another one now.
    pub fn freed(&self) {
        if self.limit.is_none() || self.is_empty() {
            return;
        }
        let mut waiters = self.lock();
        let waker = waiters.freed();
        self.unlock(waiters, waker);
    }

    /// Something has changed that may concern every waiting request.
    pub fn changed(&self) {
        if self.is_empty() {
            return;
        }
        let mut waiters = self.lock();
        waiters.changes += 1;
        let waker = waiters.due();
        self.unlock(waiters, waker);
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // No step can panic half-way.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unlock(&self, waiters: MutexGuard<'_, Waiters>, waker: Option<Waker>) {
        let length = waiters.waiting.len() as u32;
        self.length.store(length, Ordering::SeqCst);
        drop(waiters);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Waiters {
    fn join(&mut self, visit: Visit) -> Position {
        let was_empty = self.waiting.is_empty();
        if was_empty {
            // Room may have been made between its look and now.
            self.changes += 1;
        }
        let position = match visit {
            Visit::First => {
                self.ends.1 += 1;
                Position(self.ends.1)
            }
            Visit::Again(Some(position)) => position,
            Visit::Again(None) => {
                self.ends.0 -= 1;
                Position(self.ends.0)
            }
        };
        // A request does not look again at once at the endpoint that has just failed it.
        let may_look = was_empty || visit == Visit::First;
        let waiting = Waiting {
            position,
            seen: self.changes - u64::from(may_look),
            waker: None,
        };
        self.waiting.insert(self.index_of(position), waiting);
        position
    }

    fn index_of(&self, position: Position) -> usize {
        self.waiting
            .partition_point(|waiting| waiting.position < position)
    }

    fn freed(&mut self) -> Option<Waker> {
        if self.waiting.is_empty() {
            return None;
        }
        self.freed += 1;
        self.due()
    }

    /// Whether the first request has a reason to look.
    fn has_turn(&self) -> bool {
        let Some(front) = self.waiting.front() else {
            return false;
        };
        self.freed > 0 || self.changes > front.seen.max(self.settled)
    }

    /// Wakes the first request, if it has a reason to look.
    fn due(&mut self) -> Option<Waker> {
        if !self.has_turn() {
            return None;
        }
        self.waiting.front_mut()?.waker.take()
    }

    fn poll_turn(&mut self, position: Position, context: &Context<'_>) -> Poll<(u32, u64)> {
        let has_turn = self.has_turn();
        let index = self.index_of(position);
        let Some(waiting) = self.waiting.get_mut(index) else {
            return Poll::Pending;
        };
        if index == 0 && has_turn {
            waiting.seen = self.changes;
            return Poll::Ready((std::mem::take(&mut self.freed), self.changes));
        }
        waiting.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Leaves, with room for so many requests unused; what is to be woken then.
    fn leave(&mut self, position: Position, unused: u32) -> Option<Waker> {
        let index = self.index_of(position);
        self.waiting.remove(index);
        if self.waiting.is_empty() {
            self.freed = 0;
            return None;
        }
        self.freed += unused;
        self.due()
    }
}

impl Ticket<'_> {
    /// Its position, to come back to.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Ready when it is this request's turn; it must look at once then.
    pub fn poll_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        let turn = self.queue.lock().poll_turn(self.position, context);
        turn.map(|turn| self.turn = turn)
    }

    /// It has found an endpoint; the next request may have its turn now.
    pub fn found(mut self) {
        self.turn.0 = self.turn.0.saturating_sub(1);
    }

    /// It has found none; if it has looked at `all` endpoints, no other request would.
    pub fn found_nothing(&mut self, all: bool) {
        let mut waiters = self.queue.lock();
        let (freed, changes) = std::mem::take(&mut self.turn);
        if all {
            waiters.settled = waiters.settled.max(changes);
        } else {
            waiters.freed += freed;
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut waiters = self.queue.lock();
        let waker = waiters.leave(self.position, self.turn.0);
        self.queue.unlock(waiters, waker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Debug, Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn queue(limit: u32, waiting: usize) -> Queue {
        Queue::new(NonZeroU32::new(limit), waiting)
    }

    struct One<'a> {
        ticket: Ticket<'a>,
        woken: Arc<Woken>,
    }

    impl<'a> One<'a> {
        fn join(queue: &'a Queue, visit: Visit) -> Self {
            Self {
                ticket: queue.join(visit).unwrap(),
                woken: Arc::default(),
            }
        }

        fn has_turn(&mut self) -> bool {
            let waker = Waker::from(Arc::clone(&self.woken));
            self.ticket
                .poll_turn(&Context::from_waker(&waker))
                .is_ready()
        }
    }

    /// So many that have looked in vain and wait.
    fn waiting(queue: &Queue, count: usize) -> Vec<One<'_>> {
        let mut all: Vec<_> = (0..count).map(|_| One::join(queue, Visit::First)).collect();
        assert!(all[0].has_turn(), "it has not looked since it stands here");
        all[0].ticket.found_nothing(true);
        for one in &mut all {
            assert!(!one.has_turn());
        }
        all
    }

    fn times(all: &[One<'_>]) -> Vec<usize> {
        all.iter().map(|one| one.woken.times()).collect()
    }

    #[test]
    fn each_slot_that_becomes_free_wakes_the_one_in_front_and_nobody_else() {
        let queue = queue(1, 9);
        let mut all = waiting(&queue, 4);
        for _ in 0..3 {
            queue.freed();
            assert_eq!(times(&all).iter().sum::<usize>(), 1, "one is woken");
            assert!(!all[1].has_turn(), "the second must let the first pass");
            let mut first = all.remove(0);
            assert_eq!(first.woken.times(), 1);
            assert!(first.has_turn());
            first.ticket.found();
            for one in &mut all {
                assert_eq!(one.woken.times(), 0);
                assert!(!one.has_turn(), "there was one slot");
            }
        }
    }

    #[test]
    fn slots_that_become_free_together_wake_one_after_the_other() {
        let queue = queue(1, 9);
        let mut all = waiting(&queue, 3);
        queue.freed();
        queue.freed();
        assert_eq!(times(&all), [1, 0, 0]);
        // Who comes now may not overtake.
        assert!(queue.is_contended());
        let mut first = all.remove(0);
        assert!(first.has_turn());
        first.ticket.found();
        assert_eq!(times(&all), [1, 0]);
        // It goes away instead of looking: the next one has its turn.
        drop(all.remove(0));
        assert_eq!(times(&all), [1]);
        assert!(all[0].has_turn());
    }

    #[test]
    fn changes_concern_all_until_one_finds_nothing() {
        let queue = queue(0, 9);
        let mut all = waiting(&queue, 4);
        queue.changed();
        assert_eq!(times(&all), [1, 0, 0, 0]);
        let mut first = all.remove(0);
        assert!(first.has_turn());
        first.ticket.found();
        assert_eq!(times(&all), [1, 0, 0]);
        assert!(all[0].has_turn());
        all[0].ticket.found_nothing(true);
        assert!(!all[0].has_turn());
        drop(all.remove(0));
        assert!(!all[0].has_turn(), "there is nothing for anybody");
        queue.freed();
        assert!(!all[0].has_turn(), "without a limit there are no slots");
    }

    #[test]
    fn who_comes_again_has_its_place_back_and_is_not_refused() {
        let queue = queue(1, 2);
        let mut all = waiting(&queue, 2);
        assert!(queue.join(Visit::First).is_none());
        let mut older = One::join(&queue, Visit::Again(None));
        assert!(!older.has_turn(), "what has failed it is not new");
        queue.freed();
        assert!(older.has_turn() && !all[0].has_turn());
        // The slot is where it must not go: the next one may.
        older.ticket.found_nothing(false);
        drop(older);
        assert!(all[0].has_turn());
        let place = all[0].ticket.position();
        all.remove(0).ticket.found();
        let _again = One::join(&queue, Visit::Again(Some(place)));
        queue.freed();
        assert!(!all[0].has_turn());
        assert_eq!(queue.length.load(Ordering::SeqCst), 2);
    }

    proptest! {
        /// Whatever happens: who waits longest is served first, nobody waits
        /// while there is a slot, and nobody is served without one.
        #[test]
        fn no_slot_is_lost_and_nobody_overtakes(steps in prop::collection::vec(0..5_u8, 1..200)) {
            let queue = queue(1, 1000);
            let (mut free, mut busy) = (2_u32, 0_u32);
            let mut all: Vec<One<'_>> = Vec::new();
            let mut places = Vec::new();
            for step in steps {
                match step {
                    0 | 1 if !queue.is_contended() && free > 0 => {
                        (free, busy) = (free - 1, busy + 1);
                    }
                    0 | 1 => all.push(One::join(&queue, Visit::First)),
                    2 if busy > 0 => {
                        (free, busy) = (free + 1, busy - 1);
                        queue.freed();
                    }
                    3 => queue.changed(),
                    // Any of them goes away.
                    4 if !all.is_empty() => drop(all.remove(all.len() / 2)),
                    _ => {}
                }
                // The runtime polls those that were woken or have just come.
                while let Some(at) = all.iter_mut().position(One::has_turn) {
                    prop_assert_eq!(at, 0);
                    if free == 0 {
                        all[0].ticket.found_nothing(true);
                        continue;
                    }
                    (free, busy) = (free - 1, busy + 1);
                    places.push(all[0].ticket.position());
                    all.remove(0).ticket.found();
                }
                prop_assert!(free == 0 || all.is_empty());
            }
            prop_assert!(places.is_sorted());
        }
    }
}
