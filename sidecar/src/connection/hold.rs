//! Decides how long a SYN hold lasts, and how long the pause after it is. The caller passes
//! the time in; `drain` drops the SYNs.
//!
//! A client whose SYN was dropped repeats it by itself: 1, 3, 7, 15 s after the first (RFC
//! 6298: one second, doubled), 1, 2, 3, 4, 5, 7 s (Linux from 6.5 on,
//! `tcp_syn_linear_timeouts`), 3, 9, 21 s (RFC 1122, and still Windows). Holds at a fixed
//! interval could coincide with every one of these retries. So the pause after a hold lasts
//! as long as the hold plus one first-retry interval. A client that tried during a hold has
//! been trying for at most the length of the hold, so it waits at most that long plus its
//! first retry, and its next SYN falls into the pause. A client therefore meets one hold
//! and never two, even if the hold ended late.
//!
//! The price is a delay for clients that connect during a hold: usually one second, and at most
//! about three if the holds end in time. The delay cannot be avoided, because no other process may
//! take the connection.

use std::time::Duration;

/// The length of the first hold, which ends before a client repeats its SYN after one second.
const FIRST_HOLD: Duration = Duration::from_millis(800);
/// The length of later holds, which begin if the first did not suffice. They end well before a
/// client's second retry after three seconds.
const LATER_HOLD: Duration = Duration::from_secs(2);
/// The longest time until a client's first retry (RFC 1122 section 4.2.3.1).
const FIRST_RETRY: Duration = Duration::from_secs(3);
/// How late the timers of clients and of the supervisor may be on a busy machine.
const TIMER_SLACK: Duration = Duration::from_millis(500);

/// What the caller has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Drop new connections from now on, and end the hold after this time.
    Hold(Duration),
    /// Let connections begin again.
    LetGo,
}

/// The state of the hold; see the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// When the hold began, and when it has to end.
    held: Option<(Duration, Duration)>,
    /// No hold begins before this time.
    rested: Duration,
    /// Whether the last hold did not suffice.
    was_in_vain: bool,
}

impl Hold {
    /// What to do at the time `now`, which is measured from any fixed moment. `wanted` says whether
    /// a hold is wanted.
    pub(crate) fn look(&mut self, now: Duration, wanted: bool) -> Option<Turn> {
        match self.held {
            None if wanted && now >= self.rested => {
                let most = if self.was_in_vain {
                    LATER_HOLD
                } else {
                    FIRST_HOLD
                };
                self.held = Some((now, now + most));
                Some(Turn::Hold(most))
            }
            Some((since, until)) if !wanted || now >= until => {
                self.held = None;
                self.rested = now + now.saturating_sub(since) + FIRST_RETRY + TIMER_SLACK;
                self.was_in_vain = wanted;
                Some(Turn::LetGo)
            }
            None if !wanted => {
                self.was_in_vain = false;
                None
            }
            _ => None,
        }
    }

    /// Whether new connections are held back.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// Pauses between the SYNs of a client, in seconds.
    const SCHEDULES: [&[u64]; 3] = [
        &[1, 2, 4, 8, 16, 32],
        &[1, 1, 1, 1, 1, 2, 4, 8, 16],
        &[3, 6, 12, 24],
    ];

    /// The holds that follow from calls of `look`. Each call is given by the milliseconds since the
    /// previous call and by whether a hold is wanted. `late` is how late the timer ends a hold if
    /// no call ends it.
    fn holds(looks: &[(u64, bool)], late: Duration) -> Vec<(Duration, Duration)> {
        let mut hold = Hold::default();
        let (mut now, mut due, mut begun) = (Duration::ZERO, None, None);
        let mut all = Vec::new();
        let mut end = |at: Duration, begun: &mut Option<Duration>| {
            all.push((begun.take().unwrap(), at));
        };
        for (distance, wanted) in looks {
            now += MILLI * *distance as u32;
            if let Some(at) = due.filter(|at| *at <= now) {
                assert_eq!(hold.look(at, true), Some(Turn::LetGo));
                end(at, &mut begun);
                due = None;
            }
            match hold.look(now, *wanted) {
                Some(Turn::Hold(most)) => (begun, due) = (Some(now), Some(now + most + late)),
                Some(Turn::LetGo) => {
                    end(now, &mut begun);
                    due = None;
                }
                None => {}
            }
        }
        if let Some(at) = due {
            end(at, &mut begun);
        }
        all
    }

    /// The holds that a client meets, and how long the client waits.
    fn connect(
        holds: &[(Duration, Duration)],
        start: Duration,
        gaps: &[u64],
        late: &[u64],
    ) -> (Vec<usize>, Duration) {
        let (mut met, mut now) = (Vec::new(), start);
        for (gap, late) in gaps.iter().zip(late.iter().cycle()) {
            let within = |(begun, ended): &(Duration, Duration)| *begun <= now && now < *ended;
            let Some(index) = holds.iter().position(within) else {
                return (met, now.saturating_sub(start));
            };
            met.push(index);
            now += Duration::from_secs(*gap) + MILLI * *late as u32;
        }
        panic!("a client gave up at {now:?}: {holds:?}");
    }

    /// One client of each schedule, starting at each of these milliseconds.
    fn clients(starts: &[u64]) -> impl Iterator<Item = (&'static [u64], Duration)> {
        SCHEDULES.iter().flat_map(move |gaps| {
            let starts = starts.iter().map(|start| MILLI * *start as u32);
            starts.map(move |start| (*gaps, start))
        })
    }

    fn looks() -> impl Strategy<Value = Vec<(u64, bool)>> {
        // Holds are mostly wanted, and calls mostly come in time.
        let distance = prop_oneof![8 => 10_u64..120, 1 => 100_u64..6000];
        prop::collection::vec((distance, prop::bool::weighted(0.9)), 200..800)
    }

    proptest! {
        #[test]
        fn a_client_of_any_schedule_meets_at_most_one_hold(
            looks in looks(),
            overrun in 0_u64..5000,
            starts in prop::collection::vec(0_u64..60_000, 20),
            late in prop::collection::vec(0_u64..=500, 5),
        ) {
            let holds = holds(&looks, MILLI * overrun as u32);
            for (gaps, start) in clients(&starts) {
                let (mut met, _) = connect(&holds, start, gaps, &late);
                met.dedup();
                prop_assert!(met.len() <= 1, "{met:?} of {holds:?}");
            }
        }

        #[test]
        fn a_client_is_connected_after_three_seconds_if_holds_end_in_time(
            looks in looks(),
            overrun in 0_u64..900,
            starts in prop::collection::vec(0_u64..60_000, 20),
            late in prop::collection::vec(0_u64..=500, 5),
        ) {
            let holds = holds(&looks, MILLI * overrun as u32);
            for (gaps, start) in clients(&starts) {
                let (met, waited) = connect(&holds, start, gaps, &late);
                let retries = met.len() as u32;
                prop_assert!(waited <= Duration::from_secs(3) + TIMER_SLACK * retries, "{waited:?}");
            }
        }

        #[test]
        fn a_hold_that_needs_two_quiet_seconds_gets_them_soon(
            distances in prop::collection::vec(10_u64..120, 1000),
            need in 1_u64..1900,
        ) {
            // A hold is wanted until connections were held back for as long as necessary.
            let mut hold = Hold::default();
            let (mut now, mut since) = (Duration::ZERO, None);
            for distance in distances {
                now += MILLI * distance as u32;
                let quiet = since.is_some_and(|since| now.saturating_sub(since) >= MILLI * need as u32);
                match hold.look(now, !quiet) {
                    Some(Turn::Hold(_)) => since = Some(now),
                    Some(Turn::LetGo) => since = None,
                    None => {}
                }
                if quiet {
                    prop_assert!(!hold.is_held());
                    prop_assert!(now <= FIRST_HOLD * 2 + FIRST_RETRY + TIMER_SLACK + LATER_HOLD + TIMER_SLACK * 2, "{now:?}");
                    return Ok(());
                }
            }
            prop_assert!(false, "never");
        }
    }

    #[test]
    fn holds_of_two_seconds_with_pauses_of_one_can_block_a_client_for_ever() {
        // The earlier algorithm, which shows why the pause has to grow with the hold.
        let holds: Vec<(u64, u64)> = (0..40).map(|turn| (turn * 3, turn * 3 + 2)).collect();
        let dropped = |at: u64| {
            holds
                .iter()
                .any(|(begun, ended)| *begun <= at && at < *ended)
        };
        let doubling = [0, 1, 3, 7, 15, 31];
        assert!(doubling.iter().all(|at| dropped(*at)));
    }

    #[test]
    fn a_hold_is_short_at_first_and_longer_if_the_first_did_not_suffice() {
        let mut hold = Hold::default();
        let at = |millis| MILLI * millis;
        assert_eq!(hold.look(at(0), false), None);
        assert_eq!(hold.look(at(10), true), Some(Turn::Hold(FIRST_HOLD)));
        assert_eq!(hold.look(at(800), true), None);
        assert_eq!(hold.look(at(820), true), Some(Turn::LetGo));
        // The pause is as long as the hold, plus 3.5 s.
        assert_eq!(hold.look(at(5120), true), None);
        assert_eq!(hold.look(at(5130), true), Some(Turn::Hold(LATER_HOLD)));
        // The hold ends early, because it is no longer wanted.
        assert_eq!(hold.look(at(5430), false), Some(Turn::LetGo));
        assert_eq!(hold.look(at(9220), true), None);
        assert_eq!(hold.look(at(9230), true), Some(Turn::Hold(FIRST_HOLD)));
    }
}
