//! Schedules: at which times there are at least so many pods, whatever the load is.
//!
//! A schedule begins at each occurrence of its cron pattern, in its own time zone. With `for`, it
//! lasts that long in elapsed time: eight hours stay eight hours on the night of a clock change.
//! Without `for`, it lasts until another schedule without `for` begins, so that a pair says "six
//! from eight o'clock, one from twenty o'clock". A single schedule without `for` would never end,
//! which nobody intends; [`check`] refuses it.
//!
//! Of schedules that overlap, the larger number counts. Where a clock change leaves a time of day
//! out, the occurrence is the first moment after the gap; where it repeats one, a pattern with a
//! fixed time occurs once, at the first of both.

use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

/// The longest time that a schedule may last.
const MAX_LENGTH: Duration = Duration::from_hours(24 * 7);

/// Why a schedule is refused; each message names the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The pattern is not a cron pattern of five fields.
    #[error(
        "{cron:?} is not a cron pattern ({why}): write five fields, minute, hour, day of month, month and day of week, such as \"0 8 * * 1-5\" for 08:00 from Monday to Friday"
    )]
    Pattern {
        /// What the user wrote.
        cron: String,
        /// What the parser says.
        why: String,
    },
    /// The pattern matches no day at all.
    #[error("{cron:?} never occurs: name a day that exists, such as \"0 8 1 * *\"")]
    Never {
        /// What the user wrote.
        cron: String,
    },
    /// The time zone is unknown.
    #[error(
        "{zone:?} is not a time zone: write a name of the IANA database, such as Europe/Rome or UTC"
    )]
    Zone {
        /// What the user wrote.
        zone: String,
    },
    /// The length is zero or too long.
    #[error("a schedule cannot last {}: write between 1s and 168h", scaledapp_units::duration::format(*.0))]
    Length(Duration),
    /// The only schedule without an end.
    #[error(
        "{cron:?} would never end: add for: 10h to it, or a second schedule that begins when it shall end"
    )]
    Endless {
        /// What the user wrote.
        cron: String,
    },
}

/// One schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    text: String,
    cron: Cron,
    zone: TimeZone,
    min_pods: u32,
    length: Option<Duration>,
}

impl Schedule {
    /// Parses a schedule. `zone` is UTC if it is `None`; `length` is the field `for`.
    ///
    /// # Errors
    /// A part cannot be understood, or the schedule can never begin.
    pub fn new(
        cron: &str,
        zone: Option<&str>,
        min_pods: u32,
        length: Option<Duration>,
    ) -> Result<Self, ScheduleError> {
        let pattern = |why: String| ScheduleError::Pattern {
            cron: cron.to_owned(),
            why,
        };
        if cron.len() > 200 {
            return Err(pattern("it is longer than 200 bytes".to_owned()));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let parsed = parser.parse(cron);
        let parsed = parsed.map_err(|error| pattern(error.to_string()))?;
        let name = zone.unwrap_or("UTC");
        // The database that is built in, so that a container without zoneinfo files has it, too.
        let zone = TimeZoneDatabase::bundled().get(name);
        let zone = zone.map_err(|_| ScheduleError::Zone {
            zone: name.to_owned(),
        })?;
        if length.is_some_and(|length| length.is_zero() || length > MAX_LENGTH) {
            return Err(ScheduleError::Length(length.unwrap_or_default()));
        }
        let schedule = Self {
            text: cron.to_owned(),
            cron: parsed,
            zone,
            min_pods,
            length,
        };
        if schedule.next(Timestamp::UNIX_EPOCH).is_none() {
            return Err(ScheduleError::Never {
                cron: cron.to_owned(),
            });
        }
        Ok(schedule)
    }

    /// The cron pattern as the user wrote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first occurrence after `now`.
    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let now = Zoned::new(now, self.zone.clone());
        let found = self.cron.find_next_occurrence(&now, false).ok()?;
        Some(found.timestamp())
    }

    /// The last occurrence at or before `now`.
    fn last(&self, now: Timestamp) -> Option<Timestamp> {
        let now = Zoned::new(now, self.zone.clone());
        let found = self.cron.find_previous_occurrence(&now, true).ok()?;
        Some(found.timestamp())
    }
}

/// Refuses schedules that do not work together.
///
/// # Errors
/// There is only one schedule without `for`.
pub fn check(schedules: &[Schedule]) -> Result<(), ScheduleError> {
    let mut endless = schedules
        .iter()
        .filter(|schedule| schedule.length.is_none());
    match (endless.next(), endless.next()) {
        (Some(only), None) => Err(ScheduleError::Endless {
            cron: only.text.clone(),
        }),
        _ => Ok(()),
    }
}

/// The schedules with what is known of them until the next change, because finding an occurrence
/// costs more than all other decisions together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calendar {
    /// From when to when `floor` holds.
    valid: Option<(Timestamp, Timestamp)>,
    floor: Option<u32>,
}

impl Calendar {
    /// The smallest number of pods that the schedules ask for at `now`; `None` if none is in force.
    pub(crate) fn floor(&mut self, schedules: &[Schedule], now: Timestamp) -> Option<u32> {
        if schedules.is_empty() {
            return None;
        }
        if !self
            .valid
            .is_some_and(|(from, to)| (from..to).contains(&now))
        {
            let (floor, to) = at(schedules, now);
            (self.floor, self.valid) = (floor, Some((now, to)));
        }
        self.floor
    }
}

/// What the schedules ask for at `now`, and until when at least this cannot change.
fn at(schedules: &[Schedule], now: Timestamp) -> (Option<u32>, Timestamp) {
    let mut floor = None;
    let mut until = Timestamp::MAX;
    let mut endless: Option<(Timestamp, u32)> = None;
    for schedule in schedules {
        if let Some(next) = schedule.next(now) {
            until = until.min(next);
        }
        let Some(begin) = schedule.last(now) else {
            continue;
        };
        match schedule.length {
            Some(length) => {
                let end = begin
                    .saturating_add(jiff::SignedDuration::try_from(length).unwrap_or_default());
                let end = end.unwrap_or(Timestamp::MAX);
                if now < end {
                    until = until.min(end);
                    floor = floor.max(Some(schedule.min_pods));
                }
            }
            // Of two that begin at the same time, the larger number counts.
            None => endless = endless.max(Some((begin, schedule.min_pods))),
        }
    }
    (floor.max(endless.map(|(_, pods)| pods)), until)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn rome(cron: &str, min_pods: u32, hours: Option<u32>) -> Schedule {
        Schedule::new(cron, Some("Europe/Rome"), min_pods, hours.map(|n| HOUR * n)).unwrap()
    }

    fn floor(schedules: &[Schedule], now: &str) -> Option<u32> {
        let fresh = at(schedules, now.parse().unwrap()).0;
        let kept = Calendar::default().floor(schedules, now.parse().unwrap());
        assert_eq!(fresh, kept);
        fresh
    }

    #[test]
    fn a_schedule_lasts_as_long_as_it_says() {
        let week = [rome("0 8 * * 1-5", 6, Some(10))];
        check(&week).unwrap();
        // 2026-12-01 is a Tuesday; Rome is an hour ahead of UTC in winter.
        for (now, expected) in [
            ("2026-12-01T06:59:59Z", None),
            ("2026-12-01T07:00:00Z", Some(6)),
            ("2026-12-01T16:59:59Z", Some(6)),
            ("2026-12-01T17:00:00Z", None),
            ("2026-12-05T09:00:00Z", None),
        ] {
            assert_eq!(floor(&week, now), expected, "{now}");
        }
    }

    #[test]
    fn a_pair_without_for_takes_turns() {
        let pair = [rome("0 8 * * 1-5", 6, None), rome("0 20 * * 1-5", 1, None)];
        check(&pair).unwrap();
        for (now, expected) in [
            ("2026-12-01T08:00:00Z", Some(6)),
            ("2026-12-01T20:00:00Z", Some(1)),
            // From Friday evening to Monday morning.
            ("2026-12-06T12:00:00Z", Some(1)),
        ] {
            assert_eq!(floor(&pair, now), expected, "{now}");
        }
    }

    #[test]
    fn the_larger_of_two_that_overlap_counts() {
        let both = [
            rome("0 8 * * *", 6, Some(10)),
            rome("0 12 * * *", 9, Some(1)),
            rome("0 12 * * *", 2, Some(1)),
        ];
        assert_eq!(floor(&both, "2026-12-01T11:30:00Z"), Some(9));
        assert_eq!(floor(&both, "2026-12-01T12:30:00Z"), Some(6));
    }

    #[test]
    fn an_hour_that_a_clock_change_leaves_out_begins_after_the_gap() {
        // 2026-03-29, Rome: 02:00 becomes 03:00, which is 01:00 UTC.
        let night = [rome("30 2 * * *", 6, Some(2))];
        assert_eq!(floor(&night, "2026-03-29T00:59:59Z"), None);
        assert_eq!(floor(&night, "2026-03-29T01:00:00Z"), Some(6));
        assert_eq!(floor(&night, "2026-03-29T02:59:59Z"), Some(6));
        assert_eq!(floor(&night, "2026-03-29T03:00:00Z"), None);
    }

    #[test]
    fn an_hour_that_a_clock_change_repeats_begins_once() {
        // 2026-10-25, Rome: 03:00 becomes 02:00, which is 01:00 UTC. 02:30 is 00:30 UTC, and again
        // 01:30 UTC.
        let night = [rome("30 2 * * *", 6, Some(1))];
        assert_eq!(floor(&night, "2026-10-25T00:29:59Z"), None);
        assert_eq!(floor(&night, "2026-10-25T00:30:00Z"), Some(6));
        assert_eq!(floor(&night, "2026-10-25T01:29:59Z"), Some(6));
        assert_eq!(floor(&night, "2026-10-25T01:30:00Z"), None);
    }

    #[test]
    fn eight_hours_stay_eight_hours_when_clocks_change() {
        // 22:00 on the evening before is 21:00 UTC in winter and 20:00 UTC in summer.
        let night = [rome("0 22 * * *", 6, Some(8))];
        assert_eq!(floor(&night, "2026-03-29T04:59:59Z"), Some(6));
        assert_eq!(floor(&night, "2026-03-29T05:00:00Z"), None);
        assert_eq!(floor(&night, "2026-10-25T03:59:59Z"), Some(6));
        assert_eq!(floor(&night, "2026-10-25T04:00:00Z"), None);
    }

    #[test]
    fn a_calendar_agrees_with_a_fresh_look_over_a_year() {
        let all = [
            rome("0 8 * * 1-5", 6, None),
            rome("30 2 * * *", 3, Some(3)),
            rome("0 20 * * 1-5", 1, None),
        ];
        let mut calendar = Calendar::default();
        let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for _ in 0..(365 * 24 * 2) {
            assert_eq!(calendar.floor(&all, now), at(&all, now).0, "{now}");
            now += HOUR / 2;
        }
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_the_cure() {
        let new = |cron: &str, zone, length| Schedule::new(cron, zone, 1, length);
        for (refused, words) in [
            (new("8 o'clock", None, None), "five fields"),
            (new("0 0 8 * * 1", None, None), "five fields"),
            (new("0 8 30 2 *", None, None), "never occurs"),
            (new("0 8 * * *", Some("Mars/Olympus"), None), "Europe/Rome"),
            (new("0 8 * * *", None, Some(Duration::ZERO)), "between 1s"),
            (new(&"0".repeat(300), None, None), "200 bytes"),
        ] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        let message = check(&[rome("0 8 * * 1-5", 6, None)]).unwrap_err();
        assert!(message.to_string().contains("add for: 10h"), "{message}");
    }
}
