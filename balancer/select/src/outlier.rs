//! Outlier detection: which endpoints are ejected for a while because requests to them
//! have failed.
//!
//! The decision depends on outcomes and on the time that is passed in; the caller decides
//! what counts as a failure. An ejected endpoint comes back by itself. Its first success
//! then clears its record; another failure of the same kind ejects it for twice as long.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// This many failures in a row ([`Outcome::Broken`]) eject an endpoint: its pod may have
/// been deleted.
const MAX_FAILURES: u32 = 3;
/// This many 5xx answers without a good answer in between eject an endpoint (Envoy's
/// default).
const MAX_ERRORS: u32 = 5;
/// How long the first ejection lasts; each further one lasts twice as long.
pub const FIRST_EJECTION: Duration = Duration::from_secs(1);
/// The longest ejection: after this time at the latest, an endpoint that is still listed
/// may be tried again.
const MAX_EJECTION: Duration = Duration::from_mins(1);

/// How a request at an endpoint turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, and the answer shows no failure of the server.
    Answered,
    /// The answer shows a failure of the server, such as a status of 500 or more.
    Error,
    /// No process listens there.
    Refused,
    /// The connection broke, or no answer came in time.
    Broken,
}

impl Outcome {
    /// The reason of an ejection, for the log.
    pub fn words(self) -> &'static str {
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

/// The record of one endpoint. All threads write to it. If two write at the same time, one
/// update may be lost; the endpoint is then ejected one failure later, which is harmless.
#[derive(Debug, Default)]
pub struct Outlier {
    failures: AtomicU32,
    errors: AtomicU32,
    ejections: AtomicU32,
    /// Until when it is ejected, in milliseconds on the process's clock; 0 if it is not.
    until: AtomicU64,
}

impl Outlier {
    /// Records an outcome. Returns the number of ejections in a row if this outcome ejects
    /// the endpoint. `counts_errors` says whether 5xx answers count against the endpoint.
    pub fn note(&self, outcome: Outcome, now: Duration, counts_errors: bool) -> Option<u32> {
        match outcome {
            Outcome::Answered => self.forgive(),
            Outcome::Error if !counts_errors => self.forgive(),
            Outcome::Error => {
                self.failures.store(0, Ordering::Relaxed);
                let errors = self.errors.fetch_add(1, Ordering::Relaxed) + 1;
                return (errors >= MAX_ERRORS).then(|| self.eject(now))?;
            }
            // One refused connection is enough: it shows that no process listens.
            Outcome::Refused => return self.eject(now),
            Outcome::Broken => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                return (failures >= MAX_FAILURES).then(|| self.eject(now))?;
            }
        }
        None
    }

    /// Clears the record.
    pub fn forgive(&self) {
        // Reading first avoids a write to a shared cache line in the usual case.
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
            // Requests that were already in flight at the ejection say nothing new.
            return None;
        }
        let before = self.ejections.fetch_add(1, Ordering::Relaxed);
        let time = FIRST_EJECTION
            .saturating_mul(1 << before.min(6))
            .min(MAX_EJECTION);
        self.until
            .store((now + time).as_millis() as u64, Ordering::Relaxed);
        Some(before + 1)
    }

    /// Whether it is ejected at `now`.
    pub fn is_ejected(&self, now: Duration) -> bool {
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
    fn three_broken_connections_in_a_row_eject_for_a_second() {
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
                "already ejected"
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
        assert!(!outlier.is_ejected(now + FIRST_EJECTION));
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
