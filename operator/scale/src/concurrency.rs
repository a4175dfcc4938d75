//! How many requests one worker serves well at the same time, learnt from latency against load.
//!
//! While workers have room, an answer takes as long with four requests at a worker as with one.
//! Beyond that, requests wait for each other, and answers take longer. The number grows while
//! latency stays near the lowest that was seen, and shrinks by the ratio of the two latencies (the
//! gradient). It changes only while workers have enough requests to show something, and never from
//! reports with many failures: an error is often faster than an answer, and says nothing of room.

use std::collections::VecDeque;
use std::time::Duration;

/// The number before anything is learnt.
const FIRST: f64 = 8.0;
const MIN: f64 = 1.0;
const MAX: f64 = 1000.0;
/// Latency up to this many times the lowest counts as good.
const TOLERANCE: f64 = 1.5;
/// The part of a proposed change that one observation makes.
const STEP: f64 = 0.1;
/// The lowest latency is remembered for [`PARTS`] parts of this length, and not for ever: a new
/// release may be slower than the last one for good.
const PART: Duration = Duration::from_mins(2);
const PARTS: usize = 5;
/// Fewer answers than this in an observation say nothing.
const MIN_ANSWERS: f64 = 5.0;
/// More failures than this, per answer, make an observation useless.
const MAX_FAILURES: f64 = 0.01;

/// What has been learnt.
#[derive(Debug, Clone)]
pub(crate) struct Concurrency {
    fixed: Option<f64>,
    learnt: f64,
    /// The lowest latency of each part of the past, in seconds, with the time at which it begins.
    lowest: VecDeque<(Duration, f64)>,
}

/// What the pods have shown since the last observation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    /// Requests at each worker, on average.
    pub(crate) at_worker: f64,
    /// Good answers, and the time that they took, in seconds.
    pub(crate) answers: f64,
    pub(crate) answer_seconds: f64,
    /// Failed requests.
    pub(crate) failures: f64,
}

impl Concurrency {
    /// `fixed` is the user's number; `learnt` is the number that an earlier operator has written
    /// into the status.
    pub(crate) fn new(fixed: Option<u32>, learnt: Option<f64>) -> Self {
        let learnt = learnt.filter(|number| number.is_finite());
        Self {
            fixed: fixed.map(f64::from),
            learnt: learnt.unwrap_or(FIRST).clamp(MIN, MAX),
            lowest: VecDeque::new(),
        }
    }

    /// Sets another number of the user's, or removes it.
    pub(crate) fn fix(&mut self, fixed: Option<u32>) {
        self.fixed = fixed.map(f64::from);
    }

    /// The number in use.
    pub(crate) fn get(&self) -> f64 {
        self.fixed.unwrap_or(self.learnt)
    }

    /// Learns from what the pods have shown.
    pub(crate) fn observe(&mut self, now: Duration, shown: Shown) {
        if shown.answers < MIN_ANSWERS || shown.failures > shown.answers * MAX_FAILURES {
            return;
        }
        let latency = shown.answer_seconds / shown.answers;
        if !latency.is_finite() || latency <= 0.0 {
            return;
        }
        match self.lowest.back_mut() {
            Some((begin, lowest)) if now < *begin + PART => *lowest = lowest.min(latency),
            _ => self.lowest.push_back((now, latency)),
        }
        if self.lowest.len() > PARTS {
            self.lowest.pop_front();
        }
        let lowest = self.lowest.iter().map(|(_, lowest)| *lowest);
        let lowest = lowest.fold(f64::INFINITY, f64::min);
        let gradient = (TOLERANCE * lowest / latency).clamp(0.5, 1.0);
        let proposed = if gradient < 1.0 && shown.at_worker >= 1.0 {
            // This many requests are too many. The ratio of the latencies tells by how much.
            self.learnt.min(shown.at_worker) * gradient
        } else if gradient >= 1.0 && shown.at_worker >= self.learnt / 2.0 {
            // With fewer than half of the learnt number, a worker would show nothing of its limit.
            self.learnt + self.learnt.sqrt()
        } else {
            return;
        };
        self.learnt = (self.learnt + STEP * (proposed - self.learnt)).clamp(MIN, MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that serves `room` requests at once in 20 ms each; with more, all take longer.
    fn learn(room: f64, most: f64, failures: f64) -> f64 {
        let mut concurrency = Concurrency::new(None, None);
        for second in 0_u32..1200 {
            // The load comes and goes, as real load does.
            let phase = f64::from(second % 120) / 120.0;
            let at_worker = most * phase.max(0.05);
            let latency = 0.02 * (at_worker / room).max(1.0);
            let answers = 100.0;
            concurrency.observe(
                Duration::from_secs(u64::from(second)),
                Shown {
                    at_worker,
                    answers,
                    answer_seconds: answers * latency,
                    failures,
                },
            );
        }
        concurrency.get()
    }

    #[test]
    fn the_number_is_near_what_a_worker_has_room_for() {
        for room in [1.0, 4.0, 20.0, 100.0] {
            let learnt = learn(room, room * 2.0, 0.0);
            assert!(
                learnt >= room * 0.8 && learnt <= room * 2.0,
                "{room}: {learnt}"
            );
        }
    }

    #[test]
    fn failures_teach_nothing() {
        let before = Concurrency::new(None, None).get();
        assert!((learn(1.0, 50.0, 5.0) - before).abs() < 1e-9);
    }

    #[test]
    fn an_idle_app_teaches_nothing() {
        let before = Concurrency::new(None, None).get();
        assert!((learn(1.0, 0.9, 0.0) - before).abs() < 1e-9);
    }

    #[test]
    fn the_users_number_wins() {
        let mut concurrency = Concurrency::new(Some(20), Some(3.0));
        assert!((concurrency.get() - 20.0).abs() < 1e-9);
        concurrency.fix(None);
        assert!((concurrency.get() - 3.0).abs() < 1e-9);
    }
}
