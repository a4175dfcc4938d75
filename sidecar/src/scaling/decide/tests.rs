//! Tables and simulated loads. In a simulation a worker does one unit of work at a time, and what
//! exceeds the ready workers waits.

use proptest::prelude::*;

use super::*;
use crate::scaling::look::Hold;

const RULES: Rules = Rules {
    utilization: 70,
    idle: Duration::from_secs(30),
};

const fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn bounds(min: u32, max: u32) -> Bounds {
    Bounds { min, max }
}

/// `desired` workers, all ready and idle, with memory and cores for many more.
fn idle(desired: u32) -> Look {
    Look {
        desired,
        ready: desired,
        free_cores: 16.0,
        boots: 32,
        room: 1000,
        may_stop: true,
        ..Look::default()
    }
}

fn to(decision: Decision) -> Option<u32> {
    match decision {
        Decision::Change { to, .. } => Some(to),
        _ => None,
    }
}

/// A pod whose workers need `boot` to be ready.
struct Pod {
    scaler: Scaler,
    bounds: Bounds,
    desired: u32,
    ready: u32,
    boot: Duration,
    booting: Vec<Duration>,
    room: u32,
    /// (when, from, to)
    changes: Vec<(Duration, u32, u32)>,
}

impl Pod {
    fn new(min: u32, max: u32) -> Self {
        Self {
            scaler: Scaler::new(RULES),
            bounds: bounds(min, max),
            desired: min,
            ready: min,
            boot: ms(300),
            booting: Vec::new(),
            room: 1000,
            changes: Vec::new(),
        }
    }

    /// One look while the load is `demand`, in workers.
    fn look(&mut self, now: Duration, demand: f64) -> Decision {
        let before = self.booting.len();
        self.booting.retain(|ready| *ready > now);
        self.ready += (before - self.booting.len()) as u32;
        let ready = f64::from(self.ready);
        let busy = demand.min(ready);
        let look = Look {
            ready: self.ready,
            busy,
            occupied: busy,
            waiting: (demand - ready).max(0.0).ceil() as u32,
            room: self.room.saturating_sub(self.desired),
            ..idle(self.desired)
        };
        let decision = self.scaler.look(now, self.bounds, &look);
        if let Some(to) = to(decision) {
            self.changes.push((now, self.desired, to));
            if to > self.desired {
                let more = (to - self.desired) as usize;
                self.booting.extend(vec![now + self.boot; more]);
            } else {
                // The highest slot stops; it may be one that is not ready yet.
                for _ in to..self.desired {
                    if self.booting.pop().is_none() {
                        self.ready -= 1;
                    }
                }
            }
            self.desired = to;
        }
        decision
    }

    /// Looks ten times a second for `time`.
    fn run(&mut self, from: Duration, time: Duration, demand: impl Fn(Duration) -> f64) {
        let mut now = from;
        while now < from + time {
            self.look(now, demand(now));
            now += ms(100);
        }
    }

    fn stops(&self) -> usize {
        self.changes
            .iter()
            .filter(|(_, from, to)| to < from)
            .count()
    }
}

#[test]
fn a_queue_of_a_moment_starts_nothing_and_one_of_50_ms_starts_what_it_needs() {
    let mut scaler = Scaler::new(RULES);
    let waits = |waiting| Look { waiting, ..idle(1) };
    for (at, waiting, expected) in [
        (0, 9, None),
        (49, 0, None),
        (60, 4, None),
        (100, 4, None),
        (109, 4, None),
        (110, 4, Some(5)),
    ] {
        let decision = scaler.look(ms(at), bounds(1, 8), &waits(waiting));
        assert_eq!(to(decision), expected, "at {at} ms: {decision:?}");
    }
    let reason = Reason::Waiting {
        requests: 4,
        since: ms(52),
    };
    assert_eq!(
        reason.to_string(),
        "the queue has not been empty for 52 ms (4 waiting)"
    );
}

#[test]
fn the_next_look_comes_as_soon_as_the_queue_is_old_enough() {
    let mut scaler = Scaler::new(RULES);
    assert_eq!(scaler.next_look(ms(0), ms(100)), ms(100));
    scaler.look(
        ms(100),
        bounds(1, 4),
        &Look {
            waiting: 1,
            ..idle(1)
        },
    );
    assert_eq!(scaler.next_look(ms(100), ms(100)), ms(150));
    scaler.look(
        ms(150),
        bounds(1, 4),
        &Look {
            waiting: 1,
            ..idle(2)
        },
    );
    assert_eq!(scaler.next_look(ms(150), ms(100)), ms(250));
}

#[test]
fn a_load_that_grows_fivefold_is_met_in_one_step() {
    let mut pod = Pod::new(1, 16);
    pod.run(ms(0), ms(5000), |_| 0.5);
    assert_eq!(pod.changes, []);
    pod.run(ms(5000), ms(5000), |_| 5.0);
    let (at, from, to) = pod.changes[0];
    assert!(at <= ms(5100), "{at:?}");
    assert_eq!((from, to), (1, 5));
    // Five workers would be busy all the time, which is more than 70 %.
    assert_eq!(pod.desired, 8, "{:?}", pod.changes);
}

#[test]
fn workers_that_are_busier_than_they_should_be_get_another_one() {
    let mut pod = Pod::new(2, 16);
    pod.run(ms(0), ms(20_000), |_| 1.39);
    assert_eq!(pod.changes, [], "69.5 % is not more than 70 %");
    pod.run(ms(20_000), ms(20_000), |_| 1.5);
    assert_eq!(pod.desired, 3, "{:?}", pod.changes);
    let reason = Reason::Busy {
        percent: 75,
        target: 70,
    };
    assert_eq!(
        reason.to_string(),
        "the workers are 75 % busy, more than 70 %"
    );
}

#[test]
fn few_fast_requests_never_start_a_worker() {
    let mut pod = Pod::new(1, 8);
    // Every third look finds a busy moment.
    pod.run(ms(0), ms(120_000), |now| {
        if now.as_millis() % 300 == 0 { 0.9 } else { 0.0 }
    });
    assert_eq!(pod.changes, []);
}

#[test]
fn workers_that_are_not_needed_stop_one_by_one_after_the_time_and_never_below_the_range() {
    let mut pod = Pod::new(2, 8);
    pod.run(ms(0), ms(10_000), |_| 5.0);
    let most = pod.desired;
    assert_eq!(most, 8);
    let before = pod.changes.len();
    pod.run(ms(10_000), ms(60_000), |_| 0.1);
    let stops = &pod.changes[before..];
    let (first, ..) = stops[0];
    assert!(first >= ms(39_000) && first <= ms(42_000), "{first:?}");
    assert!(stops.iter().all(|(_, from, to)| from - to == 1));
    assert!(stops.windows(2).all(|two| two[1].0 >= two[0].0 + ms(1000)));
    assert_eq!(pod.desired, 2);
}

#[test]
fn a_load_at_the_boundary_changes_nothing_for_ever() {
    for base in [0.70, 1.40, 2.10, 2.80, 0.595, 1.19] {
        let mut pod = Pod::new(1, 8);
        // The load varies by 2 %, with a period of a minute.
        let load = |now: Duration| base * (1.0 + 0.02 * (now.as_secs_f64() / 10.0).sin());
        pod.run(ms(0), ms(1_800_000), load);
        assert_eq!(pod.stops(), 0, "{base}: {:?}", pod.changes);
        let late = pod.changes.iter().filter(|(at, ..)| *at > ms(90_000));
        assert_eq!(late.count(), 0, "{base}: {:?}", pod.changes);
    }
}

#[test]
fn nothing_starts_while_something_forbids_it() {
    let base = Look {
        waiting: 9,
        busy: 1.0,
        occupied: 1.0,
        ..idle(1)
    };
    let table = [
        (
            Look {
                hold: Some(Hold::Crashing(0)),
                ..base
            },
            Hold::Crashing(0),
        ),
        (
            Look {
                hold: Some(Hold::SlowBoot(0)),
                ..base
            },
            Hold::SlowBoot(0),
        ),
        (
            Look {
                hold: Some(Hold::Replacing),
                ..base
            },
            Hold::Replacing,
        ),
        (
            Look {
                free_cores: 0.2,
                ..base
            },
            Hold::Cores,
        ),
        (Look { room: 0, ..base }, Hold::Memory),
        (Look { ready: 0, ..base }, Hold::NoneReady),
    ];
    for (look, hold) in table {
        let mut scaler = Scaler::new(RULES);
        for at in 0..600 {
            let decision = scaler.look(ms(at * 100), bounds(1, 8), &look);
            assert_eq!(to(decision), None);
            if at > 0 {
                assert_eq!(decision, Decision::Held(hold));
            }
        }
        // Workers start as soon as that is over.
        let decision = scaler.look(ms(60_000), bounds(1, 8), &base);
        assert_eq!(to(decision), Some(5));
    }
    let mut scaler = Scaler::new(RULES);
    let decisions = [0, 100].map(|at| scaler.look(ms(at), bounds(1, 1), &base));
    assert_eq!(decisions[1], Decision::Held(Hold::Most));
}

#[test]
fn memory_and_boots_bound_a_step() {
    for (room, boots, most, expected) in [(2, 8, 8, 3), (8, 1, 8, 2), (8, 8, 4, 4)] {
        let mut scaler = Scaler::new(RULES);
        let look = Look {
            waiting: 9,
            room,
            boots,
            ..idle(1)
        };
        scaler.look(ms(0), bounds(1, most), &look);
        let decision = scaler.look(ms(60), bounds(1, most), &look);
        assert_eq!(to(decision), Some(expected));
    }
}

#[test]
fn free_cores_bound_a_step_of_workers_that_compute_but_not_of_those_that_wait() {
    for (free_cores, cores_each, expected) in [(0.9, 1.0, 2), (2.0, 0.9, 3), (1.9, 0.02, 9)] {
        let mut scaler = Scaler::new(RULES);
        let look = Look {
            ready: 2,
            waiting: 20,
            free_cores,
            cores_each,
            ..idle(1)
        };
        scaler.look(ms(0), bounds(1, 9), &look);
        let decision = scaler.look(ms(60), bounds(1, 9), &look);
        assert_eq!(to(decision), Some(expected));
    }
}

#[test]
fn a_lack_of_memory_does_not_keep_workers_that_are_not_needed() {
    let mut scaler = Scaler::new(RULES);
    let look = Look {
        room: 0,
        hold: Some(Hold::Crashing(3)),
        ..idle(4)
    };
    let mut decisions = (0..400).map(|at| scaler.look(ms(at * 100), bounds(1, 8), &look));
    assert_eq!(decisions.find_map(to), Some(3));
}

#[test]
fn no_worker_stops_while_another_slot_is_without_one_or_workers_are_replaced() {
    let base = idle(4);
    for look in [
        Look {
            may_stop: false,
            ..base
        },
        Look {
            hold: Some(Hold::Replacing),
            ..base
        },
    ] {
        let mut scaler = Scaler::new(RULES);
        let mut decisions = (0..900).map(|at| scaler.look(ms(at * 100), bounds(1, 8), &look));
        assert!(decisions.all(|decision| decision == Decision::Stay));
    }
}

#[test]
fn a_range_that_moves_takes_the_number_with_it() {
    let mut scaler = Scaler::new(RULES);
    let reason = Reason::Range;
    for (range, expected) in [
        (bounds(1, 2), Some(2)),
        (bounds(5, 8), Some(5)),
        (bounds(1, 8), None),
    ] {
        let decision = scaler.look(ms(0), range, &idle(4));
        let expected = expected.map(|to| Decision::Change { to, reason });
        assert_eq!(decision, expected.unwrap_or(Decision::Stay));
    }
}

#[test]
fn of_several_slots_that_keep_failing_one_is_left() {
    for (desired, crashing, min, expected) in [
        (5, 4, 1, Some(2)),
        (5, 1, 1, None),
        (5, 4, 4, Some(4)),
        (3, 3, 1, Some(1)),
    ] {
        let mut scaler = Scaler::new(RULES);
        let look = Look {
            crashing,
            waiting: 9,
            hold: Some(Hold::Crashing(1)),
            ..idle(desired)
        };
        let decision = scaler.look(ms(0), bounds(min, 8), &look);
        assert_eq!(to(decision), expected);
    }
}

#[test]
fn a_new_range_is_watched_before_a_worker_stops() {
    let mut scaler = Scaler::new(RULES);
    assert_eq!(to(scaler.look(ms(0), bounds(1, 8), &idle(4))), None);
    scaler.begin_anew();
    let mut later = (400..690).map(|at| scaler.look(ms(at * 100), bounds(1, 8), &idle(4)));
    assert!(later.all(|decision| decision == Decision::Stay));
    let decision = scaler.look(ms(70_000), bounds(1, 8), &idle(4));
    assert_eq!(to(decision), Some(3));
}

#[test]
fn requests_that_occupy_workers_keep_them_without_cpu_time() {
    let mut scaler = Scaler::new(RULES);
    let look = Look {
        occupied: 2.0,
        ..idle(4)
    };
    let mut decisions = (0..900).map(|at| scaler.look(ms(at * 100), bounds(1, 8), &look));
    assert!(decisions.all(|decision| decision == Decision::Stay));
}

/// On for `on`, off for the rest of each `period`.
fn square(now: Duration, period: Duration, on: Duration, high: f64) -> f64 {
    if now.as_millis() % period.as_millis() < on.as_millis() {
        high
    } else {
        0.02
    }
}

#[test]
fn pauses_a_little_longer_than_the_idle_time_stop_workers_only_at_first() {
    for seconds in [29, 30, 31, 33, 36, 45, 59, 61] {
        let mut pod = Pod::new(1, 4);
        let period = Duration::from_secs(seconds + 5);
        let on = Duration::from_secs(5);
        pod.run(ms(0), ms(580_000), |now| square(now, period, on, 3.0));
        let dips = pod.changes.windows(2).filter(|two| {
            let (down, up) = (two[0], two[1]);
            down.2 < down.1 && up.2 > up.1
        });
        assert!(dips.count() <= 2, "{seconds}: {:?}", pod.changes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the period: within half an hour, workers are missed soon after they were stopped
    /// only a few times.
    #[test]
    fn no_periodic_load_makes_workers_flap(
        period in 1_u64..300,
        share in 1_u64..100,
        high in 1_u32..8,
        boot in 0_u64..5000,
    ) {
        let mut pod = Pod::new(1, 8);
        pod.boot = ms(boot);
        let period = Duration::from_secs(period);
        let on = period * share as u32 / 100;
        pod.run(ms(0), ms(1_800_000), |now| square(now, period, on, f64::from(high)));
        let missed = pod.changes.windows(2).filter(|two| {
            let (down, up) = (two[0], two[1]);
            down.2 < down.1 && up.2 > up.1 && up.0 <= down.0 + RULES.idle
        });
        // Four steps of caution, and one for each that is forgiven.
        prop_assert!(missed.count() <= 8, "{:?}", pod.changes);
    }

    #[test]
    fn the_number_is_always_within_the_range_and_the_memory(
        loads in prop::collection::vec((0.0..20.0_f64, 1_u64..100), 1..60),
        min in 1_u32..4,
        more in 0_u32..8,
        room in 0_u32..12,
    ) {
        let mut pod = Pod::new(min, min + more);
        pod.room = room;
        let mut now = Duration::ZERO;
        for (load, looks) in loads {
            for _ in 0..looks {
                pod.look(now, load);
                prop_assert!(pod.desired >= min && pod.desired <= min + more);
                prop_assert!(pod.desired <= room.max(min), "{} workers", pod.desired);
                now += ms(100);
            }
        }
    }

    /// With the same history, a higher load never leads to fewer workers.
    #[test]
    fn more_load_never_means_fewer_workers(
        history in prop::collection::vec(0.0..6.0_f64, 0..400),
        load in 0.0..6.0_f64,
        more in 0.0..6.0_f64,
    ) {
        let mut pod = Pod::new(1, 8);
        let mut now = Duration::ZERO;
        for load in history {
            pod.look(now, load);
            now += ms(100);
        }
        let after = |load: f64| {
            let mut scaler = pod.scaler.clone();
            let ready = f64::from(pod.ready);
            let look = Look {
                ready: pod.ready,
                busy: load.min(ready),
                occupied: load.min(ready),
                waiting: (load - ready).max(0.0).ceil() as u32,
                ..idle(pod.desired)
            };
            to(scaler.look(now, pod.bounds, &look)).unwrap_or(pod.desired)
        };
        prop_assert!(after(load + more) >= after(load));
    }
}
