//! A queue that stands: clients that send nothing while they wait.
//!
//! Connection pools, job queues and most load generators send the next request when the last one is
//! answered. In front of them, the rate of arrivals shows what the app can do and not what its
//! clients want: if it answers ten requests a second, ten arrive. What shows such clients is that
//! requests pass and as many are present as before. In front of clients that do not wait for each
//! other, the number changes by chance alone by the square root of what has passed, and it grows or
//! shrinks steadily unless capacity and load are exactly equal.
//!
//! This file decides how many of the waiting requests are demand. What they need in workers is
//! decided in `estimate.rs`.

use std::time::Duration;

/// A change of up to this many standard deviations of chance is no change. If arrivals are
/// independent and the load is exactly what the app can do, one observation in eight is within it.
const SAME: f64 = 0.15;
/// A queue shorter than this part of the requests at workers comes and goes with chance, unless a
/// longer one has stood before.
const MIN_SHARE: f64 = 1.0;
/// Two observations that are compared are at least this far apart. They come about once a second;
/// one that is made early, because a request waits for an app without pods, is not compared.
const MIN_SPACING: Duration = Duration::from_millis(700);
/// Each observation in a row doubles what is believed, up to this many times.
const MAX_DOUBLINGS: i32 = 6;

/// What is present at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Present {
    /// Requests that balancers have sent or hold. What pods report is from another moment, and the
    /// sum with it would change when nothing does.
    pub(crate) all: f64,
    /// Requests at workers, as far as they have room for them.
    pub(crate) at_workers: f64,
    /// All others.
    pub(crate) waiting: f64,
    /// The requests that workers have room for.
    pub(crate) room: f64,
}

/// What is remembered of the queue.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StandingQueue {
    before: Option<(Duration, Present)>,
    /// For how many observations in a row it has stood.
    times: i32,
    /// How many of the waiting requests are demand.
    demand: f64,
}

impl StandingQueue {
    /// Takes in what is present at `now`. `passed` is how many requests have come and how many have
    /// left, added up, since the last call. Returns how many of the waiting requests are demand, in
    /// addition to those at workers.
    pub(crate) fn observe(&mut self, now: Duration, present: Present, passed: f64) -> f64 {
        if self
            .before
            .is_some_and(|(before, _)| now < before + MIN_SPACING)
        {
            // What has passed until now is left out of the next comparison, which is so stricter.
            self.demand = self.demand.min(present.waiting);
            return self.demand;
        }
        let stood = self.times;
        self.times = self.before.map_or(0, |(_, before)| {
            let is_long =
                |present: Present| present.waiting >= (present.at_workers * MIN_SHARE).max(1.0);
            let stands = passed > 0.0
                && present.waiting >= 1.0
                && (present.all - before.all).abs() <= SAME * passed.sqrt();
            let is_same_room = (before.room - present.room).abs() < 1e-9;
            match (stands, is_same_room) {
                // A queue that has grown turns when new pods are ready, and stands for a moment.
                (true, false) => stood,
                (true, true) if stood > 0 || is_long(before) && is_long(present) => {
                    (stood + 1).min(MAX_DOUBLINGS)
                }
                (false, _) | (true, true) => 0,
            }
        });
        self.before = Some((now, present));
        let believed = present.at_workers.max(1.0) * (2.0_f64.powi(self.times) - 1.0);
        self.demand = present.waiting.min(believed);
        self.demand
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// What is believed after each second, of these numbers of waiting requests behind 10 at workers.
    fn believed(waiting: &[f64], passed: f64) -> Vec<f64> {
        let mut queue = StandingQueue::default();
        let mut believed = Vec::new();
        for (second, waiting) in (0..).zip(waiting) {
            let present = Present {
                all: 10.0 + *waiting,
                at_workers: 10.0,
                waiting: *waiting,
                room: 10.0,
            };
            believed.push(queue.observe(seconds(second), present, passed));
        }
        believed
    }

    #[test]
    fn a_queue_that_stands_is_believed_twice_as_much_each_second() {
        let believed = believed(&[90.0; 6], 200.0);
        assert_eq!(believed, [0.0, 10.0, 30.0, 70.0, 90.0, 90.0]);
    }

    #[test]
    fn a_queue_that_grows_or_shrinks_is_a_backlog_and_no_demand() {
        assert_eq!(believed(&[10.0, 20.0, 30.0, 40.0], 200.0), [0.0; 4]);
        assert_eq!(believed(&[40.0, 30.0, 20.0, 10.0], 200.0), [0.0; 4]);
    }

    #[test]
    fn new_room_neither_begins_nor_ends_what_is_believed() {
        let mut queue = StandingQueue::default();
        let mut believed = Vec::new();
        for (second, room) in [(0, 10.0), (1, 10.0), (2, 20.0), (3, 20.0), (4, 30.0)] {
            let present = Present {
                all: 30.0,
                at_workers: room,
                waiting: 30.0 - room,
                room,
            };
            believed.push(queue.observe(seconds(second), present, room * 20.0));
        }
        assert_eq!(believed, [0.0, 10.0, 10.0, 10.0, 0.0]);
        let mut queue = StandingQueue::default();
        for (second, room) in [(0, 10.0), (1, 11.0), (2, 12.0)] {
            let present = Present {
                all: 90.0,
                at_workers: room,
                waiting: 90.0 - room,
                room,
            };
            assert!(queue.observe(seconds(second), present, 200.0).abs() < 1e-9);
        }
    }

    #[test]
    fn a_queue_that_nobody_passes_says_nothing_of_clients() {
        assert_eq!(believed(&[40.0; 4], 0.0), [0.0; 4]);
    }

    #[test]
    fn a_short_queue_is_no_demand() {
        assert_eq!(believed(&[0.0; 4], 200.0), [0.0; 4]);
        assert_eq!(believed(&[4.0; 4], 200.0), [0.0; 4]);
        assert!(believed(&[40.0, 40.0, 0.0, 40.0], 200.0)[3].abs() < 1e-9);
    }

    #[test]
    fn an_observation_that_comes_early_is_not_compared() {
        let mut queue = StandingQueue::default();
        let present = Present {
            all: 100.0,
            at_workers: 10.0,
            waiting: 90.0,
            room: 10.0,
        };
        for millis in (0..690).step_by(30) {
            let demand = queue.observe(Duration::from_millis(millis), present, 5.0);
            assert!(demand.abs() < 1e-9);
        }
        assert!((queue.observe(seconds(1), present, 5.0) - 10.0).abs() < 1e-9);
    }
}
