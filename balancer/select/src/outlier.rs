//! Who is left alone for a while: an endpoint that fails several times in a row.
//!
//! Decides from outcomes alone, time passed in; what counts as a failure is the
//! exchange's to say. An ejected endpoint comes back by itself; the first
//! success clears its record, a failure ejects it again for twice as long.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Refused or reset connections in a row (a pod that is gone).
const FAILURES: u32 = 3;
/// Answers with 5xx in a row (that of Envoy).
const ERRORS: u32 = 5;
/// Of the first ejection; twice that for each one more.
pub(crate) const FIRST: Duration = Duration::from_secs(1);
/// An endpoint that is listed is looked at again at least so often.
const LONGEST: Duration = Duration::from_mins(1);

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Any answer below 500.
    Answered,
    /// An answer of 500 or more.
    Error,
    /// Nobody listens there.
    Refused,
    /// The connection broke, or nothing came in time.
    Broken,
}

impl Outcome {
    /// What an endpoint that is ejected for it has done.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Refused => "the endpoint refuses connections (does its server run?)",
            Self::Error => "the endpoint has answered with 5xx several times in a row",
            Self::Broken => {
                "the endpoint has broken off, or not answered in time, several times in a row"
            }
            Self::Answered => "the endpoint has answered",
        }
    }
}

/// The record of one endpoint. All threads write to it; a lost update of two at
/// once makes it forgive a little, which is harmless.
#[derive(Debug, Default)]
pub(crate) struct Outlier {
    failures: AtomicU32,
    errors: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds of the process's clock; 0: not ejected.
    until: AtomicU64,
}

impl Outlier {
    /// Notes an outcome; if it ejects the endpoint, how often in a row.
    pub(crate) fn note(&self, outcome: Outcome, now: Duration, counts_errors: bool) -> Option<u32> {
        match outcome {
            Outcome::Answered => self.forgive(),
            Outcome::Error if !counts_errors => self.forgive(),
            Outcome::Error => {
                self.failures.store(0, Ordering::Relaxed);
                let errors = self.errors.fetch_add(1, Ordering::Relaxed) + 1;
                return (errors >= ERRORS).then(|| self.eject(now))?;
            }
            // Nobody there is no matter of chance.
            Outcome::Refused => return self.eject(now),
            Outcome::Broken => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                return (failures >= FAILURES).then(|| self.eject(now))?;
            }
        }
        None
    }

    /// Clears the record.
    pub(crate) fn forgive(&self) {
        // Read first: the usual case writes nothing into a shared cache line.
        for counter in [&self.failures, &self.errors, &self.ejections] {
            if counter.load(Ordering::Relaxed) != 0 {
                counter.store(0, Ordering::Relaxed);
            }
        }
        if self.until.load(Ordering::Relaxed) != 0 {
            self.until.store(0, Ordering::Relaxed);
        }
    }

    fn eject(&self, now: Duration) -> Option<u32> {
        if self.is_ejected(now) {
            // Requests that were under way already say nothing new.
            return None;
        }
        let before = self.ejections.fetch_add(1, Ordering::Relaxed);
        let time = FIRST.saturating_mul(1 << before.min(6)).min(LONGEST);
        self.until
            .store((now + time).as_millis() as u64, Ordering::Relaxed);
        Some(before + 1)
    }

    /// Whether it is left alone.
    pub(crate) fn is_ejected(&self, now: Duration) -> bool {
        self.until.load(Ordering::Relaxed) > now.as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn three_broken_in_a_row_eject_for_a_second() {
        let outlier = Outlier::default();
        assert_eq!(outlier.note(Outcome::Broken, at(10), true), None);
        assert_eq!(outlier.note(Outcome::Broken, at(10), true), None);
        outlier.note(Outcome::Answered, at(10), true);
        for _ in 0..2 {
            assert_eq!(outlier.note(Outcome::Broken, at(20), true), None);
        }
        assert!(outlier.note(Outcome::Broken, at(20), true).is_some());
        assert!(outlier.is_ejected(at(1019)));
        assert!(!outlier.is_ejected(at(1020)));
    }

    #[test]
    fn each_ejection_lasts_twice_as_long_up_to_a_minute_and_a_success_clears() {
        let outlier = Outlier::default();
        let mut now = at(0);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(outlier.note(Outcome::Refused, now, true).is_some());
            assert_eq!(
                outlier.note(Outcome::Refused, now, true),
                None,
                "already out"
            );
            now += Duration::from_secs(seconds);
            assert!(
                outlier.is_ejected(now.checked_sub(at(1)).unwrap()),
                "{seconds}"
            );
            assert!(!outlier.is_ejected(now), "{seconds}");
        }
        outlier.note(Outcome::Answered, now, true);
        assert!(outlier.note(Outcome::Refused, now, true).is_some());
        assert!(!outlier.is_ejected(now + FIRST));
    }

    #[test]
    fn errors_eject_only_where_they_count() {
        let outlier = Outlier::default();
        for _ in 0..20 {
            assert_eq!(outlier.note(Outcome::Error, at(0), false), None);
        }
        for _ in 0..4 {
            assert_eq!(outlier.note(Outcome::Error, at(0), true), None);
        }
        assert!(outlier.note(Outcome::Error, at(0), true).is_some());
    }
}
