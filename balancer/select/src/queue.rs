//! The line of requests that wait for an endpoint: one for all threads of a
//! proxy, first come, first served.
//!
//! Decides whose turn it is to look. Only the one in front ever looks, and only
//! when there is news, so that a slot that becomes free wakes one request.
//! Whether the look finds an endpoint is `thread`'s to say.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::config::Limits;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Line {
    /// Requests in flight at one endpoint at most.
    limit: Option<NonZeroU32>,
    /// Of those who come for the first time.
    most: usize,
    /// As in the queue, for those who only want to know whether anybody waits.
    length: AtomicU32,
    queue: Mutex<Queue>,
}

/// Who comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comer {
    /// It has not been at an endpoint.
    New,
    /// It has, and must go on elsewhere; with the place that it had before.
    Again(Option<Place>),
}

/// The lower one is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

#[derive(Debug)]
struct Queue {
    /// By place.
    waiting: VecDeque<Waiting>,
    /// The next place at either end.
    ends: (u64, u64),
    /// Slots that became free and for which nobody has looked yet.
    freed: u32,
    /// Counts what may concern all of them: another table, a moment later.
    news: u64,
    /// At this news one of them found that there is nothing for anybody.
    settled: u64,
}

#[derive(Debug)]
struct Waiting {
    place: Place,
    /// The news at its last look.
    seen: u64,
    waker: Option<Waker>,
}

/// One who waits; leaves the line when dropped.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    line: &'a Line,
    place: Place,
    /// What it looks for in this turn: so many slots, and this news.
    turn: (u32, u64),
}

impl Line {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            limit: limits.in_flight,
            most: limits.waiting as usize,
            length: AtomicU32::new(0),
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                ends: (u64::MAX / 2, u64::MAX / 2 + 1),
                freed: 0,
                news: 1,
                settled: 0,
            }),
        }
    }

    /// Requests in flight at one endpoint at most.
    pub(crate) fn limit(&self) -> Option<NonZeroU32> {
        self.limit
    }

    /// Whether somebody must be let pass first. Without a limit per endpoint
    /// those who wait do not wait for each other.
    pub(crate) fn goes_before(&self) -> bool {
        self.limit.is_some() && !self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.length.load(Ordering::SeqCst) == 0
    }

    /// Stands in line; `None` if it is full. Who comes again is older than all
    /// who are new, and never refused: the bound on connections bounds them.
    pub(crate) fn join(&self, comer: Comer) -> Option<Ticket<'_>> {
        let mut queue = self.lock();
        if comer == Comer::New && queue.waiting.len() >= self.most {
            return None;
        }
        let place = queue.join(comer);
        self.unlock(queue, None);
        // Either we see a slot that becomes free now, or who frees it sees us.
        fence(Ordering::SeqCst);
        Some(Ticket {
            line: self,
            place,
            turn: (0, 0),
        })
    }

    /// A slot has become free.
    pub(crate) fn freed(&self) {
        if self.limit.is_none() || self.is_empty() {
            return;
        }
        let mut queue = self.lock();
        let waker = queue.freed();
        self.unlock(queue, waker);
    }

    /// Something has changed that may concern all of them.
    pub(crate) fn news(&self) {
        if self.is_empty() {
            return;
        }
        let mut queue = self.lock();
        queue.news += 1;
        let waker = queue.due();
        self.unlock(queue, waker);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No step can panic half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unlock(&self, queue: MutexGuard<'_, Queue>, waker: Option<Waker>) {
        let length = queue.waiting.len() as u32;
        self.length.store(length, Ordering::SeqCst);
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Queue {
    fn join(&mut self, comer: Comer) -> Place {
        let was_empty = self.waiting.is_empty();
        if was_empty {
            // Between its look and now something may have become free.
            self.news += 1;
        }
        let place = match comer {
            Comer::New => {
                self.ends.1 += 1;
                Place(self.ends.1)
            }
            Comer::Again(Some(place)) => place,
            Comer::Again(None) => {
                self.ends.0 -= 1;
                Place(self.ends.0)
            }
        };
        // An endpoint that has just failed it is not looked at again at once.
        let may_look = was_empty || comer == Comer::New;
        let waiting = Waiting {
            place,
            seen: self.news - u64::from(may_look),
            waker: None,
        };
        self.waiting.insert(self.position(place), waiting);
        place
    }

    fn position(&self, place: Place) -> usize {
        self.waiting
            .partition_point(|waiting| waiting.place < place)
    }

    fn freed(&mut self) -> Option<Waker> {
        if self.waiting.is_empty() {
            return None;
        }
        self.freed += 1;
        self.due()
    }

    /// Whether the one in front has a reason to look.
    fn has_turn(&self) -> bool {
        let Some(front) = self.waiting.front() else {
            return false;
        };
        self.freed > 0 || self.news > front.seen.max(self.settled)
    }

    /// The one in front, to be woken if it has a reason to look.
    fn due(&mut self) -> Option<Waker> {
        if !self.has_turn() {
            return None;
        }
        self.waiting.front_mut()?.waker.take()
    }

    fn poll_turn(&mut self, place: Place, context: &Context<'_>) -> Poll<(u32, u64)> {
        let has_turn = self.has_turn();
        let position = self.position(place);
        let Some(waiting) = self.waiting.get_mut(position) else {
            return Poll::Pending;
        };
        if position == 0 && has_turn {
            waiting.seen = self.news;
            return Poll::Ready((std::mem::take(&mut self.freed), self.news));
        }
        waiting.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Leaves with so many slots unused; who is to be woken.
    fn leave(&mut self, place: Place, unused: u32) -> Option<Waker> {
        let position = self.position(place);
        self.waiting.remove(position);
        if self.waiting.is_empty() {
            self.freed = 0;
            return None;
        }
        self.freed += unused;
        self.due()
    }
}

impl Ticket<'_> {
    /// To come back to it.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Ready when it is this one's turn to look, at once.
    pub(crate) fn poll_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        let turn = self.line.lock().poll_turn(self.place, context);
        turn.map(|turn| self.turn = turn)
    }

    /// It has an endpoint; the next one may have a turn now.
    pub(crate) fn found(mut self) {
        self.turn.0 = self.turn.0.saturating_sub(1);
    }

    /// There is none for it; nor for `anybody`, if it has looked at all of them.
    pub(crate) fn found_nothing(&mut self, anybody: bool) {
        let mut queue = self.line.lock();
        let (freed, news) = std::mem::take(&mut self.turn);
        if anybody {
            queue.settled = queue.settled.max(news);
        } else {
            queue.freed += freed;
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queue = self.line.lock();
        let waker = queue.leave(self.place, self.turn.0);
        self.line.unlock(queue, waker);
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

    fn line(limit: u32, waiting: u32) -> Line {
        Line::new(&Limits {
            in_flight: NonZeroU32::new(limit),
            waiting,
            ..Limits::default()
        })
    }

    struct One<'a> {
        ticket: Ticket<'a>,
        woken: Arc<Woken>,
    }

    impl<'a> One<'a> {
        fn join(line: &'a Line, comer: Comer) -> Self {
            Self {
                ticket: line.join(comer).unwrap(),
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
    fn waiting(line: &Line, count: usize) -> Vec<One<'_>> {
        let mut all: Vec<_> = (0..count).map(|_| One::join(line, Comer::New)).collect();
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
        let line = line(1, 9);
        let mut all = waiting(&line, 4);
        for _ in 0..3 {
            line.freed();
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
        let line = line(1, 9);
        let mut all = waiting(&line, 3);
        line.freed();
        line.freed();
        assert_eq!(times(&all), [1, 0, 0]);
        // Who comes now may not overtake.
        assert!(line.goes_before());
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
    fn news_concern_all_until_one_finds_nothing() {
        let line = line(0, 9);
        let mut all = waiting(&line, 4);
        line.news();
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
        line.freed();
        assert!(!all[0].has_turn(), "without a limit there are no slots");
    }

    #[test]
    fn who_comes_again_has_its_place_back_and_is_not_refused() {
        let line = line(1, 2);
        let mut all = waiting(&line, 2);
        assert!(line.join(Comer::New).is_none());
        let mut older = One::join(&line, Comer::Again(None));
        assert!(!older.has_turn(), "what has failed it is not new");
        line.freed();
        assert!(older.has_turn() && !all[0].has_turn());
        // The slot is where it must not go: the next one may.
        older.ticket.found_nothing(false);
        drop(older);
        assert!(all[0].has_turn());
        let place = all[0].ticket.place();
        all.remove(0).ticket.found();
        let _again = One::join(&line, Comer::Again(Some(place)));
        line.freed();
        assert!(!all[0].has_turn());
        assert_eq!(line.length.load(Ordering::SeqCst), 2);
    }

    proptest! {
        /// Whatever happens: who waits longest is served first, nobody waits
        /// while there is a slot, and nobody is served without one.
        #[test]
        fn no_slot_is_lost_and_nobody_overtakes(steps in prop::collection::vec(0..5_u8, 1..200)) {
            let line = line(1, 1000);
            let (mut free, mut busy) = (2_u32, 0_u32);
            let mut all: Vec<One<'_>> = Vec::new();
            let mut places = Vec::new();
            for step in steps {
                match step {
                    0 | 1 if !line.goes_before() && free > 0 => {
                        (free, busy) = (free - 1, busy + 1);
                    }
                    0 | 1 => all.push(One::join(&line, Comer::New)),
                    2 if busy > 0 => {
                        (free, busy) = (free + 1, busy - 1);
                        line.freed();
                    }
                    3 => line.news(),
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
                    places.push(all[0].ticket.place());
                    all.remove(0).ticket.found();
                }
                prop_assert!(free == 0 || all.is_empty());
            }
            prop_assert!(places.is_sorted());
        }
    }
}
