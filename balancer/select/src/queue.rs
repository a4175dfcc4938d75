//! The queue of requests that wait for an endpoint: one for all threads of a proxy,
//! first come, first served.
//!
//! Decides which request may search for an endpoint now. Only the first request in the
//! queue searches, and only after something has changed. An endpoint that gets room for one
//! more request therefore wakes one request, not all of them. The caller decides whether
//! that request finds an endpoint. While there has never been an endpoint that serves, requests
//! may be held; how fast they go later is decided in `release`.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::release::{Gone, Release};

/// The requests that wait for an endpoint.
#[derive(Debug)]
pub struct Queue {
    /// The largest number of requests in flight at one endpoint.
    limit: Option<NonZeroU32>,
    /// How many requests may wait; a new one beyond that is refused.
    max_waiting: usize,
    /// As `max_waiting`, while requests are held.
    max_held: usize,
    /// A [`Holding`], readable without the lock.
    holding: AtomicU8,
    /// The number of waiting requests, readable without the lock.
    length: AtomicU32,
    waiters: Mutex<Waiters>,
}

/// Whether there are endpoints, as far as holding requests depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Supply {
    /// An endpoint serves, or has served since endpoints were last missing.
    #[default]
    Served,
    /// There is none yet: requests are held.
    None,
    /// It is not known whether one serves: requests are held, and may try.
    Unsure,
}

/// What becomes of requests that find no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Holding {
    /// They wait as usual.
    No,
    /// They are held, and those at the front may search.
    Open,
    /// They are held, and none may search.
    Shut,
}

/// Why a request joins the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// It has not been sent to an endpoint yet.
    First,
    /// It has not been sent to an endpoint, because it could reach none, and has not waited before.
    Unreached,
    /// It has lost its endpoint and needs another one. If it has waited before, it gets its
    /// earlier position back.
    Again(Option<Position>),
}

/// The position of a request in the queue; the lowest is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

#[derive(Debug)]
struct Waiters {
    /// Ordered by position.
    waiting: VecDeque<Waiting>,
    /// The last positions given at the front and at the end.
    ends: (u64, u64),
    /// The number of requests that have ended at an endpoint since a waiting request last
    /// searched for the room that ended requests have left.
    freed: u32,
    /// Counts the changes that may concern all waiting requests: a new table, or passed
    /// time.
    changes: u64,
    /// The change after which a request found that no endpoint has room.
    settled: u64,
    holding: Holding,
    supply: Supply,
    release: Release,
}

#[derive(Debug)]
struct Waiting {
    position: Position,
    /// The latest change at the time of its last search.
    seen: u64,
    waker: Option<Waker>,
}

/// A waiting request. Dropping it takes the request out of the queue.
#[derive(Debug)]
pub struct Ticket<'a> {
    queue: &'a Queue,
    position: Position,
    /// The reasons for its current search: the number of requests that have ended at
    /// endpoints, and the latest change.
    turn: (u32, u64),
    /// No other request waited when it joined.
    is_first: bool,
}

impl Queue {
    /// `limit` is the largest number of requests in flight at one endpoint. At most
    /// `max_waiting` requests may wait; a new one beyond that is refused.
    pub fn new(limit: Option<NonZeroU32>, max_waiting: usize) -> Self {
        Self {
            limit,
            max_waiting,
            max_held: max_waiting,
            holding: AtomicU8::new(Holding::No as u8),
            length: AtomicU32::new(0),
            waiters: Mutex::new(Waiters {
                waiting: VecDeque::new(),
                ends: (u64::MAX / 2, u64::MAX / 2 + 1),
                freed: 0,
                changes: 1,
                settled: 0,
                holding: Holding::No,
                supply: Supply::Served,
                release: Release::default(),
            }),
        }
    }

    /// The same queue, in which at most `max_held` requests may be held.
    #[must_use]
    pub fn holding(self, max_held: usize) -> Self {
        Self { max_held, ..self }
    }

    /// Says whether there are endpoints, and the capacity of those that serve. As long as this is
    /// not called, no request is held.
    pub fn set_supply(&self, supply: Supply, capacity: u32) {
        let mut waiters = self.lock();
        if supply != Supply::Served && waiters.supply == Supply::Served {
            waiters.release = Release::new(capacity);
        }
        waiters.supply = supply;
        waiters.release.set_capacity(capacity);
        waiters.holding = match (supply, waiters.holding) {
            (Supply::None, _) => Holding::Shut,
            (Supply::Served, Holding::No) => Holding::No,
            (Supply::Served, _) if waiters.waiting.is_empty() => Holding::No,
            // Those that were held go one after the other, and new ones after them.
            (Supply::Unsure | Supply::Served, _) => Holding::Open,
        };
        waiters.changes += 1;
        let waker = waiters.due();
        self.unlock(waiters, waker);
    }

    /// Whether a request that waits now is held: there is no endpoint yet, or requests that were
    /// held are before it.
    pub fn is_holding(&self) -> bool {
        self.holding.load(Ordering::Relaxed) != Holding::No as u8
    }

    /// A request that was held has been answered, or could not be sent.
    pub fn is_over(&self, gone: Gone, is_answered: bool) {
        let mut waiters = self.lock();
        waiters.release.is_over(gone, is_answered);
        let waker = waiters.due();
        self.unlock(waiters, waker);
    }

    /// The largest number of requests in flight at one endpoint.
    pub fn limit(&self) -> Option<NonZeroU32> {
        self.limit
    }

    /// Whether a new request must queue behind others. Without a limit per endpoint,
    /// requests do not wait for each other, unless they are held.
    pub fn is_contended(&self) -> bool {
        let holding = self.holding.load(Ordering::SeqCst);
        if holding == Holding::No as u8 {
            return self.limit.is_some() && !self.is_empty();
        }
        holding == Holding::Shut as u8 || !self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.length.load(Ordering::SeqCst) == 0
    }

    /// Joins the queue; `None` if it is full. A request that was at an endpoint or has waited is
    /// older than every new one, so it is not refused. The number of these requests is bounded by
    /// the limit of connections.
    pub fn join(&self, visit: Visit) -> Option<Ticket<'_>> {
        let mut waiters = self.lock();
        let is_new = matches!(visit, Visit::First | Visit::Unreached);
        let most = match waiters.holding {
            Holding::No => self.max_waiting,
            Holding::Open | Holding::Shut => self.max_held,
        };
        if is_new && waiters.waiting.len() >= most {
            return None;
        }
        let is_first = waiters.waiting.is_empty();
        let position = waiters.join(visit);
        self.unlock(waiters, None);
        // Either this thread sees the room that another thread frees, or the other thread
        // sees this request in the queue.
        fence(Ordering::SeqCst);
        Some(Ticket {
            queue: self,
            position,
            turn: (0, 0),
            is_first,
        })
    }

    /// A request has ended at an endpoint, so there is room for another one.
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
        // No step can panic half-way, so a poisoned lock still guards consistent data.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unlock(&self, waiters: MutexGuard<'_, Waiters>, waker: Option<Waker>) {
        let length = waiters.waiting.len() as u32;
        self.length.store(length, Ordering::SeqCst);
        self.holding.store(waiters.holding as u8, Ordering::SeqCst);
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
            // An endpoint may have got room between the request's last search and now.
            self.changes += 1;
        }
        let position = match visit {
            Visit::First | Visit::Unreached => {
                self.ends.1 += 1;
                Position(self.ends.1)
            }
            Visit::Again(Some(position)) => position,
            Visit::Again(None) => {
                self.ends.0 -= 1;
                Position(self.ends.0)
            }
        };
        // A request that has just lost or missed its endpoint does not search immediately: it could
        // find the same endpoint again.
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

    /// Whether the first request has a reason to search for an endpoint.
    fn has_turn(&self) -> bool {
        let Some(front) = self.waiting.front() else {
            return false;
        };
        let may_search = match self.holding {
            Holding::No => true,
            Holding::Open => self.release.may_go(),
            Holding::Shut => false,
        };
        if !may_search {
            return false;
        }
        self.freed > 0 || self.changes > front.seen.max(self.settled)
    }

    /// Returns the waker of the first request if the request has a reason to search for an
    /// endpoint.
    fn due(&mut self) -> Option<Waker> {
        if !self.has_turn() {
            return None;
        }
        self.waiting.front_mut()?.waker.take()
    }

    fn poll_turn(
        &mut self,
        position: Position,
        context: &Context<'_>,
        now: Duration,
    ) -> Poll<(u32, u64)> {
        if self.holding == Holding::Open {
            self.release.tick(now);
        }
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

    /// Takes the request out; the room that was made for `unused` requests is free again.
    /// Returns the waker of the request that is next.
    fn leave(&mut self, position: Position, unused: u32) -> Option<Waker> {
        let index = self.index_of(position);
        self.waiting.remove(index);
        if self.waiting.is_empty() {
            self.freed = 0;
            if self.supply == Supply::Served {
                self.holding = Holding::No;
            }
            return None;
        }
        self.freed += unused;
        self.due()
    }
}

impl Ticket<'_> {
    /// The position, which the request can have again if it comes back.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whether no other request waited when it joined.
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// Ready when it is this request's turn; the request must then search immediately. `now` is
    /// the time on any clock that all requests share.
    pub fn poll_turn(&mut self, context: &Context<'_>, now: Duration) -> Poll<()> {
        let mut waiters = self.queue.lock();
        let turn = waiters.poll_turn(self.position, context, now);
        turn.map(|turn| self.turn = turn)
    }

    /// The request has found an endpoint, so the next one may have its turn. If it was held, the
    /// queue must be told with [`Queue::is_over`] when it is answered.
    pub fn found(mut self) -> Option<Gone> {
        self.turn.0 = self.turn.0.saturating_sub(1);
        let mut waiters = self.queue.lock();
        if waiters.holding == Holding::No {
            return None;
        }
        Some(waiters.release.goes())
    }

    /// The request has found no endpoint. `all` says whether every endpoint was allowed for it; if
    /// so, no other request would find an endpoint either.
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

    /// Counts how often a request has been woken.
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
                .poll_turn(&Context::from_waker(&waker), Duration::ZERO)
                .is_ready()
        }
    }

    /// `count` waiting requests, the first of which has found no endpoint.
    fn waiting(queue: &Queue, count: usize) -> Vec<One<'_>> {
        let mut all: Vec<_> = (0..count).map(|_| One::join(queue, Visit::First)).collect();
        assert!(all[0].has_turn(), "it has not looked since it joined");
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
    fn each_freed_place_wakes_only_the_first_request() {
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
                assert!(!one.has_turn(), "there was one place");
            }
        }
    }

    #[test]
    fn places_freed_together_wake_one_request_after_the_other() {
        let queue = queue(1, 9);
        let mut all = waiting(&queue, 3);
        queue.freed();
        queue.freed();
        assert_eq!(times(&all), [1, 0, 0]);
        // A request that arrives now may not overtake.
        assert!(queue.is_contended());
        let mut first = all.remove(0);
        assert!(first.has_turn());
        first.ticket.found();
        assert_eq!(times(&all), [1, 0]);
        // The request is dropped before it searches, so it is the next request's turn.
        drop(all.remove(0));
        assert_eq!(times(&all), [1]);
        assert!(all[0].has_turn());
    }

    #[test]
    fn a_change_concerns_all_requests_until_one_finds_no_endpoint() {
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
        assert!(!all[0].has_turn(), "there is no room for any request");
        queue.freed();
        assert!(!all[0].has_turn(), "without a limit no place is freed");
    }

    #[test]
    fn a_request_that_comes_back_has_its_position_again_and_is_not_refused() {
        let queue = queue(1, 2);
        let mut all = waiting(&queue, 2);
        assert!(queue.join(Visit::First).is_none());
        let mut older = One::join(&queue, Visit::Again(None));
        assert!(
            !older.has_turn(),
            "the endpoint that failed it is no reason to look"
        );
        queue.freed();
        assert!(older.has_turn() && !all[0].has_turn());
        // The room is at the endpoint that this request must avoid, so the next request may
        // search.
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

    /// A server that is down refuses every request before the request waits.
    #[test]
    fn a_request_that_reached_no_endpoint_is_new_and_does_not_search_at_once() {
        let queue = queue(1, 2);
        let first = One::join(&queue, Visit::Unreached);
        let mut second = One::join(&queue, Visit::Unreached);
        assert!(queue.join(Visit::Unreached).is_none(), "the queue is full");
        assert!(!second.has_turn());
        assert!(first.ticket.position() < second.ticket.position());
    }

    proptest! {
        /// In every order of events, the request that has waited longest is served first,
        /// no request waits while there is room, and no request is served without room.
        #[test]
        fn no_place_is_lost_and_no_request_overtakes(steps in prop::collection::vec(0..5_u8, 1..200)) {
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
                    // One of the requests is cancelled.
                    4 if !all.is_empty() => drop(all.remove(all.len() / 2)),
                    _ => {}
                }
                // The runtime polls the requests that were woken or have just arrived.
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
