//! How fast the requests that waited for a first endpoint are let go when there is one.
//!
//! Thousands of requests may have waited. An endpoint that got them all in the same moment would
//! refuse connections, because its listen queue is short, and its first answer would come after
//! all of them were read. So only a few may be unanswered at first. Each answer shows that the
//! endpoint copes, and lets one more go than before: the number doubles with each round of
//! answers, as TCP's slow start does. Time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

/// How many may be unanswered at first, for each unit of capacity (a worker). A worker that works
/// on one request at a time then never idles between two of them.
const FIRST: u32 = 8;
/// The most that may be unanswered, for each unit of capacity. The listen queues of common servers
/// have room for 511 (Node, nginx) or 128 connections (older kernels); requests over kept
/// connections need none.
const MOST: u32 = 128;
/// After this long an unanswered request no longer counts, and lets another one go: it may be a
/// stream, which is answered for hours.
const PATIENCE: Duration = Duration::from_secs(1);
/// Requests that were let go within this time are counted together.
const GRAIN: Duration = Duration::from_millis(50);

/// What a request that was let go keeps until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone(u64);

/// The state of a release.
#[derive(Debug, Default)]
pub(crate) struct Release {
    capacity: u32,
    /// By how much the number of unanswered requests has grown.
    grown: u32,
    /// The unanswered requests by the time at which they were let go, in grains; oldest first.
    unanswered: VecDeque<(u64, u32)>,
    count: u32,
    /// The latest time that was told, in grains.
    now: u64,
}

impl Release {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            capacity: capacity.max(1),
            ..Self::default()
        }
    }

    /// The capacity of all endpoints that serve has become this.
    pub(crate) fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity.max(1);
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.now = self.now.max((now.as_millis() / GRAIN.as_millis()) as u64);
        let patience = (PATIENCE.as_millis() / GRAIN.as_millis()) as u64;
        while let Some((at, count)) = self.unanswered.front().copied()
            && at + patience <= self.now
        {
            self.unanswered.pop_front();
            self.count -= count;
            self.grow(count);
        }
    }

    /// Whether another request may go.
    pub(crate) fn may_go(&self) -> bool {
        let first = self.capacity.saturating_mul(FIRST);
        self.count < first.saturating_add(self.grown)
    }

    /// A request goes.
    pub(crate) fn goes(&mut self) -> Gone {
        self.count += 1;
        match self.unanswered.back_mut() {
            Some((at, count)) if *at == self.now => *count += 1,
            _ => self.unanswered.push_back((self.now, 1)),
        }
        Gone(self.now)
    }

    /// A request has been answered, or else it could not be sent, so that it says nothing good
    /// about the endpoint.
    pub(crate) fn is_over(&mut self, Gone(at): Gone, is_answered: bool) {
        let mut unanswered = self.unanswered.iter_mut();
        if let Some((_, count)) = unanswered.find(|(since, count)| *since == at && *count > 0) {
            *count -= 1;
            self.count -= 1;
        }
        if is_answered {
            self.grow(1);
        } else {
            self.grown = 0;
        }
    }

    fn grow(&mut self, by: u32) {
        let most = self.capacity.saturating_mul(MOST - FIRST);
        self.grown = self.grown.saturating_add(by).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go_all(release: &mut Release) -> Vec<Gone> {
        let mut gone = Vec::new();
        while release.may_go() {
            gone.push(release.goes());
        }
        gone
    }

    #[test]
    fn the_number_doubles_with_each_round_of_answers_up_to_a_bound() {
        let mut release = Release::new(2);
        let mut sizes = Vec::new();
        for _ in 0..7 {
            let gone = go_all(&mut release);
            sizes.push(gone.len());
            for one in gone {
                release.is_over(one, true);
            }
        }
        assert_eq!(sizes, [16, 32, 64, 128, 256, 256, 256]);
        release.set_capacity(4);
        let gone = go_all(&mut release);
        assert_eq!(gone.len(), 272, "more pods take more");
        release.is_over(gone[0], false);
        assert!(!release.may_go(), "a pod that accepts nothing begins anew");
    }

    #[test]
    fn streams_that_are_never_answered_hold_up_nobody_for_long() {
        let mut release = Release::new(1);
        let (mut all, mut now) = (0, Duration::ZERO);
        while all < 10_000 {
            all += go_all(&mut release).len();
            now += Duration::from_millis(100);
            release.tick(now);
            assert!(now < Duration::from_mins(3), "{all}");
        }
        assert!(now > Duration::from_secs(10), "they are not let go at once");
        // An answer after the patience has ended is not counted twice.
        let late = Gone(0);
        let before = release.count;
        release.is_over(late, true);
        assert_eq!(release.count, before);
    }
}
