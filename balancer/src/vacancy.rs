//! Whether there are endpoints, as far as `--hold` depends on it.
//!
//! There is none as long as none has been ready since the list was last empty: a pod that is
//! listed before its app runs is no endpoint yet. Time is an argument. What becomes of requests in
//! the meantime is decided in the forwarding path.

use std::time::{Duration, Instant};

use scaledapp_proxy::{Standing, Supply};

/// If no listed endpoint has reported anything for this long, its admin port is perhaps out of
/// reach, so requests may try. An endpoint whose supervisor does not run yet refuses their
/// connections, which costs little.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is remembered of the endpoints.
#[derive(Debug, Default)]
pub(crate) struct Vacancy {
    /// One has been ready since the list was last empty.
    has_served: bool,
    /// Since when endpoints have been listed and all have been silent.
    silent: Option<Instant>,
    supply: Supply,
}

impl Vacancy {
    /// Looks at the standings of all listed endpoints.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        standings: impl Iterator<Item = Standing> + Clone,
    ) -> Supply {
        let is_silent = |one| matches!(one, Standing::Suspect | Standing::Unknown);
        let is_listed = standings.clone().next().is_some();
        self.has_served &= is_listed;
        self.has_served |= standings.clone().any(|one| one == Standing::Serving);
        let mut all = standings;
        self.silent = (is_listed && all.all(is_silent)).then(|| self.silent.unwrap_or(now));
        self.supply = if self.has_served {
            Supply::Served
        } else if self.deadline_passed(now) {
            Supply::Unsure
        } else {
            Supply::None
        };
        self.supply
    }

    fn deadline_passed(&self, now: Instant) -> bool {
        self.silent.is_some_and(|since| now >= since + PATIENCE)
    }

    /// When to look again although nothing has changed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waits = self.supply == Supply::None;
        self.silent.filter(|_| waits).map(|since| since + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use scaledapp_proxy::Standing::{Serving, Suspect, Unknown, Unready};

    use super::*;

    #[test]
    fn an_endpoint_is_one_once_it_has_been_ready() {
        let now = Instant::now();
        let mut vacancy = Vacancy::default();
        for (standings, expected) in [
            (&[][..], Supply::None),
            (&[Unknown], Supply::None),
            (&[Unready], Supply::None),
            (&[Unready, Serving], Supply::Served),
            // It may come back in a moment.
            (&[Unready], Supply::Served),
            (&[Suspect], Supply::Served),
            (&[], Supply::None),
            (&[Unready], Supply::None),
        ] {
            let supply = vacancy.look(now, standings.iter().copied());
            assert_eq!(supply, expected, "{standings:?}");
            assert_eq!(vacancy.deadline().is_some(), standings == [Unknown]);
        }
    }

    #[test]
    fn requests_may_try_silent_endpoints_after_a_while() {
        let start = Instant::now();
        let mut vacancy = Vacancy::default();
        let look = |vacancy: &mut Vacancy, after, standings: &[Standing]| {
            let now = start + Duration::from_secs(after);
            vacancy.look(now, standings.iter().copied())
        };
        assert_eq!(look(&mut vacancy, 0, &[Unknown]), Supply::None);
        assert_eq!(vacancy.deadline(), Some(start + PATIENCE));
        assert_eq!(look(&mut vacancy, 9, &[Unknown, Suspect]), Supply::None);
        assert_eq!(look(&mut vacancy, 10, &[Unknown, Suspect]), Supply::Unsure);
        assert_eq!(vacancy.deadline(), None);
        // One reports that its app does not run yet, so the others need not be tried.
        assert_eq!(look(&mut vacancy, 11, &[Unknown, Unready]), Supply::None);
        assert_eq!(look(&mut vacancy, 12, &[Serving, Unready]), Supply::Served);
    }
}
