//! Writes wall-clock times in UTC, as the two formats of the access log need them. This module
//! does not read the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A time in the calendar. Times before 1970 count as 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Calendar {
    year: u64,
    /// From 1.
    month: u64,
    day: u64,
    /// Since midnight.
    time: Duration,
}

impl Calendar {
    pub(super) fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let days = since.as_secs() / 86_400;
        let (year, month, day) = date(days);
        Self {
            year,
            month,
            day,
            time: since.saturating_sub(Duration::from_secs(days * 86_400)),
        }
    }

    fn clock(self) -> (u64, u64, u64) {
        let seconds = self.time.as_secs();
        (seconds / 3600, seconds / 60 % 60, seconds % 60)
    }

    /// Such as `2026-11-25T01:02:03.456Z` (RFC 3339).
    pub(super) fn rfc3339(self) -> String {
        let Self {
            year, month, day, ..
        } = self;
        let (hour, minute, second) = self.clock();
        let millis = self.time.subsec_millis();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }

    /// Such as `25/Nov/2026:01:02:03 +0000`, as NCSA's servers wrote it.
    pub(super) fn ncsa(self) -> String {
        let Self { year, day, .. } = self;
        let month = MONTHS[self.month as usize - 1];
        let (hour, minute, second) = self.clock();
        format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
    }
}

/// The proleptic Gregorian date that is `days` after 1970-01-01, by Howard Hinnant's
/// `civil_from_days`: years begin in March, so that the leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, expected, ncsa) in [
            (0, "1970-01-01T00:00:00.007Z", "01/Jan/1970:00:00:00 +0000"),
            (
                951_782_399,
                "2000-02-28T23:59:59.007Z",
                "28/Feb/2000:23:59:59 +0000",
            ),
            (
                951_782_400,
                "2000-02-29T00:00:00.007Z",
                "29/Feb/2000:00:00:00 +0000",
            ),
            (
                1_764_031_523,
                "2025-11-25T00:45:23.007Z",
                "25/Nov/2025:00:45:23 +0000",
            ),
            (
                1_735_689_599,
                "2024-12-31T23:59:59.007Z",
                "31/Dec/2024:23:59:59 +0000",
            ),
            (
                4_107_542_400,
                "2100-03-01T00:00:00.007Z",
                "01/Mar/2100:00:00:00 +0000",
            ),
            (
                16_725_225_600,
                "2500-01-01T00:00:00.007Z",
                "01/Jan/2500:00:00:00 +0000",
            ),
        ] {
            let time = UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7);
            let calendar = Calendar::of(time);
            assert_eq!(calendar.rfc3339(), expected);
            assert_eq!(calendar.ncsa(), ncsa);
        }
        let before = Calendar::of(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(before.rfc3339(), "1970-01-01T00:00:00.000Z");
    }
}
