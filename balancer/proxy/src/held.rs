//! Requests that are held because there is no endpoint yet: how many bytes they may keep, and what
//! is counted of them.
//!
//! How many may be held and in which order they go on is decided in `scaledapp-select`; how long,
//! in `http::exchange` and `tcp`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Hold;
use crate::metrics::{add, count, shift};
use crate::thread::Thread;

/// How holding a request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It goes to an endpoint.
    Served,
    TimedOut,
    /// It needed too many bytes.
    Refused,
    /// Its client has left.
    Left,
}

/// A request that is held. Dropping it is the end of holding.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    thread: &'a Thread,
    limit: u64,
    bytes: u64,
    since: Duration,
    outcome: Outcome,
}

impl<'a> Held<'a> {
    pub(crate) fn begin(thread: &'a Thread, limits: &Hold) -> Self {
        count(&thread.counts.held_total);
        shift(&thread.counts.held, 1);
        Self {
            thread,
            limit: limits.bytes,
            bytes: 0,
            since: thread.clock.now(),
            outcome: Outcome::Left,
        }
    }

    /// The request now keeps `bytes`. Returns whether it may.
    pub(crate) fn keeps(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        if bytes == self.bytes {
            return true;
        }
        let change = bytes.wrapping_sub(self.bytes);
        let all = self.thread.held_bytes.fetch_add(change, Ordering::Relaxed);
        self.bytes = bytes;
        all.wrapping_add(change) <= self.limit
    }

    /// How holding it ends.
    pub(crate) fn ends(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let Thread {
            counts, held_bytes, ..
        } = self.thread;
        held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        shift(&counts.held, -1);
        let counter: &AtomicU64 = match self.outcome {
            Outcome::Served => &counts.held_served,
            Outcome::TimedOut => &counts.held_timed_out,
            Outcome::Refused => &counts.held_refused,
            Outcome::Left => &counts.held_left,
        };
        count(counter);
        let time = self.thread.clock.now().saturating_sub(self.since);
        add(&counts.held_time, time.as_nanos() as u64);
    }
}
