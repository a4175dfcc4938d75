//! For how long new connections are held back, and how long they are let go in
//! between. Decides by the time that is passed in; `drain` drops the SYNs.
//!
//! A client whose SYN was dropped sends it again by itself: 1, 3, 7, 15 s after the
//! first (RFC 6298: one second, doubled), 1, 2, 3, 4, 5, 7 s (Linux from 6.5 on,
//! `tcp_syn_linear_timeouts`), 3, 9, 21 s (RFC 1122, and Windows still). Holds that come
//! again at a fixed distance can meet every one of these. So the rest after a hold
//! is as long as the hold was, and one first retry more. In whichever moment of the
//! hold a client has tried last, it has been at it for no longer than the hold and
//! waits for no longer than that and its first retry: its next SYN falls into the
//! rest. A client meets one hold and never two, also where we came late to end it.
//!
//! The price is a delay of a second for who comes in a hold, of three at most where
//! the first hold does not do. It is inherent: nobody else may take the connection.

use std::time::Duration;

/// The first hold: over before a client tries again after a second.
const FIRST: Duration = Duration::from_millis(800);
/// Later ones, where that was in vain: over well before its second try, after three.
const LATER: Duration = Duration::from_secs(2);
/// The longest time until a client's first retry (RFC 1122 section 4.2.3.1).
const FIRST_RETRY: Duration = Duration::from_secs(3);
/// For so much clients' timers and ours may be late on a busy machine.
const LATE: Duration = Duration::from_millis(500);

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// No new connection begins from now on; it is time to let go after so long.
    Hold(Duration),
    /// They begin again.
    LetGo,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// Since when, and until when at most.
    held: Option<(Duration, Duration)>,
    /// There is no hold before.
    rested: Duration,
    /// The last one did not suffice.
    was_in_vain: bool,
}

impl Hold {
    /// What follows at the time `now` (since any fixed moment) if holding is
    /// `wanted`.
    pub(crate) fn look(&mut self, now: Duration, wanted: bool) -> Option<Turn> {
        match self.held {
            None if wanted && now >= self.rested => {
                let most = if self.was_in_vain { LATER } else { FIRST };
                self.held = Some((now, now + most));
                Some(Turn::Hold(most))
            }
            Some((since, until)) if !wanted || now >= until => {
                self.held = None;
                self.rested = now + now.saturating_sub(since) + FIRST_RETRY + LATE;
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

    /// Seconds from a SYN to the next.
    const SCHEDULES: [&[u64]; 3] = [
        &[1, 2, 4, 8, 16, 32],
        &[1, 1, 1, 1, 1, 2, 4, 8, 16],
        &[3, 6, 12, 24],
    ];

    /// Holds that came of looks at these distances; each with what was wanted. `late`
    /// is how much later than due a hold ends where no look ends it.
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

    /// The holds that a client meets, and for how long it waits.
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

    /// One of each schedule that begins at each of these milliseconds.
    fn clients(starts: &[u64]) -> impl Iterator<Item = (&'static [u64], Duration)> {
        SCHEDULES.iter().flat_map(move |gaps| {
            let starts = starts.iter().map(|start| MILLI * *start as u32);
            starts.map(move |start| (*gaps, start))
        })
    }

    fn looks() -> impl Strategy<Value = Vec<(u64, bool)>> {
        // Mostly wanted, and mostly looked in time.
        let distance = prop_oneof![8 => 10_u64..120, 1 => 100_u64..6000];
        prop::collection::vec((distance, prop::bool::weighted(0.9)), 200..800)
    }

    proptest! {
        #[test]
        fn a_client_of_any_schedule_meets_one_hold_at_most(
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
        fn it_is_through_after_three_seconds_where_holds_end_in_time(
            looks in looks(),
            overrun in 0_u64..900,
            starts in prop::collection::vec(0_u64..60_000, 20),
            late in prop::collection::vec(0_u64..=500, 5),
        ) {
            let holds = holds(&looks, MILLI * overrun as u32);
            for (gaps, start) in clients(&starts) {
                let (met, waited) = connect(&holds, start, gaps, &late);
                let retries = met.len() as u32;
                prop_assert!(waited <= Duration::from_secs(3) + LATE * retries, "{waited:?}");
            }
        }

        #[test]
        fn whoever_needs_quiet_for_two_seconds_has_it_soon(
            distances in prop::collection::vec(10_u64..120, 1000),
            need in 1_u64..1900,
        ) {
            // Wanted until connections were held back for as long as it needs.
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
                    prop_assert!(now <= FIRST * 2 + FIRST_RETRY + LATE + LATER + LATE * 2, "{now:?}");
                    return Ok(());
                }
            }
            prop_assert!(false, "never");
        }
    }

    #[test]
    fn two_seconds_with_one_of_rest_can_meet_a_client_for_ever() {
        // What was done before: why the rest has to grow with the hold.
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
    fn a_hold_is_short_at_first_and_longer_when_that_was_in_vain() {
        let mut hold = Hold::default();
        let at = |millis| MILLI * millis;
        assert_eq!(hold.look(at(0), false), None);
        assert_eq!(hold.look(at(10), true), Some(Turn::Hold(FIRST)));
        assert_eq!(hold.look(at(800), true), None);
        assert_eq!(hold.look(at(820), true), Some(Turn::LetGo));
        // As long as it was, and 3.5 s.
        assert_eq!(hold.look(at(5120), true), None);
        assert_eq!(hold.look(at(5130), true), Some(Turn::Hold(LATER)));
        // Ended early, since nobody wants it any more.
        assert_eq!(hold.look(at(5430), false), Some(Turn::LetGo));
        assert_eq!(hold.look(at(9220), true), None);
        assert_eq!(hold.look(at(9230), true), Some(Turn::Hold(FIRST)));
    }
}
