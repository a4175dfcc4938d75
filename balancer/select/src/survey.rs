//! What is known of all endpoints together: which of them serve, how many are new, and how busy
//! those of the proxy's own zone are.
//!
//! To look at every endpoint for each request would cost more than the request. So the caller
//! makes a survey from time to time, and `choice` uses the last one. A survey decides only where
//! to look first. Whether an endpoint may be chosen is checked at the choice itself.

use std::time::Duration;

use crate::candidate::Candidate;
use crate::warmth::Warmth;

/// An endpoint whose load is lower than this has room: fewer requests than four fifths of its
/// workers. In thousandths, as [`Candidate::load`].
pub(crate) const ROOM: u64 = 800;

/// How long a survey is used, for each endpoint in it. Looking at an endpoint takes some
/// nanoseconds, so surveys take less than a thousandth of a core's time.
const TIME_PER_ENDPOINT: Duration = Duration::from_micros(20);

/// A survey of all endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    count: usize,
    taken: Duration,
    /// The indices of the endpoints that serve.
    pub(crate) serving: Vec<u32>,
    /// Those of them that are in the proxy's zone, and those that are not. Both are empty unless
    /// there are some of both kinds.
    pub(crate) local: Vec<u32>,
    pub(crate) others: Vec<u32>,
    /// The average load in the proxy's zone.
    local_load: u64,
    /// How many of those that serve are colder than the warmest.
    cold: u64,
    warmest: Warmth,
}

impl Default for Survey {
    /// A survey of no endpoints.
    fn default() -> Self {
        Self {
            count: 0,
            taken: Duration::ZERO,
            serving: Vec::new(),
            local: Vec::new(),
            others: Vec::new(),
            local_load: 0,
            cold: 0,
            warmest: Warmth::FULL,
        }
    }
}

impl Survey {
    /// A survey of `count` endpoints; `see` returns the candidate at an index.
    pub fn of(count: usize, see: impl Fn(usize) -> Candidate) -> Self {
        let mut survey = Self::default();
        survey.renew(Duration::ZERO, count, see);
        survey
    }

    /// Whether it is time for a new survey, at `now` on the clock of [`Self::renew`].
    pub fn is_due(&self, now: Duration) -> bool {
        now.saturating_sub(self.taken) >= TIME_PER_ENDPOINT * self.count as u32
    }

    /// Looks at all endpoints again.
    pub fn renew(&mut self, now: Duration, count: usize, see: impl Fn(usize) -> Candidate) {
        (self.count, self.taken) = (count, now);
        self.serving.clear();
        self.local.clear();
        self.others.clear();
        let (mut load, mut warmest) = (0, None);
        for at in 0..count {
            let seen = see(at);
            if !seen.serves() {
                continue;
            }
            let index = at as u32;
            self.serving.push(index);
            warmest = warmest.max(Some(seen.warmth));
            if seen.is_local {
                self.local.push(index);
                load += seen.load;
            } else {
                self.others.push(index);
            }
        }
        self.warmest = warmest.unwrap_or(Warmth::FULL);
        let is_cold = |at: &&u32| see(**at as usize).warmth < self.warmest;
        self.cold = match warmest {
            // In most surveys all endpoints are warm.
            Some(_) if self.has_cold(&see) => self.serving.iter().filter(is_cold).count() as u64,
            _ => 0,
        };
        self.local_load = load / self.local.len().max(1) as u64;
        if self.local.is_empty() || self.others.is_empty() {
            self.local.clear();
            self.others.clear();
        }
    }

    fn has_cold(&self, see: &impl Fn(usize) -> Candidate) -> bool {
        let mut serving = self.serving.iter();
        serving.any(|at| see(*at as usize).warmth < self.warmest)
    }

    /// The number of endpoints.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether requests prefer endpoints of the proxy's own zone, however busy these are.
    pub(crate) fn prefers_local(&self) -> bool {
        !self.local.is_empty()
    }

    /// Whether the proxy's own zone has room on average.
    pub(crate) fn local_has_room(&self) -> bool {
        self.prefers_local() && self.local_load < ROOM
    }

    /// Whether endpoints differ in warmth.
    pub(crate) fn has_new(&self) -> bool {
        self.cold > 0
    }

    /// The least share of a new endpoint in thousandths, so that the others get at most a
    /// quarter more than an equal share. With `k` of `n` endpoints at share `s` and the others
    /// at 1, each of the others gets `1 / (n - k + k s)` of the requests; that is at most
    /// `1.25 / n` if `s` is at least `1 - n / 5k`.
    pub(crate) fn least_share(&self) -> u64 {
        let all = self.serving.len() as u64;
        let spared = (200 * all).checked_div(self.cold).unwrap_or(1000);
        1000_u64.saturating_sub(spared)
    }

    /// Whether it is as warm as the warmest.
    pub(crate) fn is_warm(&self, seen: Candidate) -> bool {
        seen.warmth >= self.warmest
    }

    /// The share of an endpoint in relation to the warmest, in thousandths.
    pub(crate) fn bare_share(&self, seen: Candidate) -> u64 {
        seen.warmth.relative_to(self.warmest)
    }

    /// As [`Self::bare_share`], but at least [`Self::least_share`].
    pub(crate) fn share(&self, seen: Candidate) -> u64 {
        self.bare_share(seen).max(self.least_share())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::Standing;

    const FINE: Candidate = Candidate::FINE;

    fn cold(age: u64) -> Candidate {
        let warmth = Warmth::of(Duration::from_secs(10), Duration::from_secs(age));
        Candidate { warmth, ..FINE }
    }

    fn survey(all: &[Candidate]) -> Survey {
        Survey::of(all.len(), |at| all[at])
    }

    #[test]
    fn the_least_share_bounds_what_the_others_get() {
        for (warm, new, expected) in [
            // Few are new, so each of the others gets little more.
            (9, 1, 0),
            (4, 1, 0),
            (3, 1, 200),
            (1, 1, 600),
            (1, 9, 778),
            // All are new, and none is colder than another.
            (0, 3, 0),
        ] {
            let mut all = vec![FINE; warm];
            all.extend(vec![cold(0); new]);
            let survey = survey(&all);
            assert_eq!(survey.least_share(), expected, "{warm} and {new}");
            if warm > 0 {
                let each = 1000 * (warm + new) as u64 * 1000
                    / (1000 * warm as u64 + survey.share(cold(0)) * new as u64);
                assert!(each <= 1251, "{warm} and {new}: {each}");
            }
        }
    }

    #[test]
    fn zones_count_only_if_some_serve_in_both() {
        let here = Candidate {
            is_local: true,
            load: 500,
            ..FINE
        };
        let gone = Candidate {
            standing: Standing::Unready,
            ..here
        };
        assert!(!survey(&[here, here]).prefers_local());
        assert!(!survey(&[FINE, FINE]).prefers_local());
        assert!(!survey(&[gone, FINE]).prefers_local());
        let both = survey(&[here, FINE, gone]);
        assert!(both.local_has_room());
        assert_eq!(
            (both.local, both.others, both.serving),
            (vec![0], vec![1], vec![0, 1])
        );
        let busy = Candidate { load: 1101, ..here };
        assert!(!survey(&[here, busy, FINE]).local_has_room());
    }

    #[test]
    fn a_survey_of_more_endpoints_is_used_for_longer() {
        let mut survey = Survey::default();
        let now = Duration::from_secs(7);
        assert!(survey.is_due(now));
        survey.renew(now, 1000, |_| FINE);
        assert!(!survey.is_due(now + Duration::from_millis(19)));
        assert!(survey.is_due(now + Duration::from_millis(20)));
    }
}
