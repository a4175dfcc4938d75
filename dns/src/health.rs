//! Whether an address counts as healthy, from the probes of it: two failures
//! in a row take it out, one success takes it in.

/// Failures in a row that take a healthy address out: one lost SYN must not.
const FAILURES: u32 = 2;
/// So many in a row, six seconds, are no start of a balancer any more: either it is dead,
/// which whoever looks after it knows by now, or it is out of our reach.
const OUT_OF_REACH: u32 = 12;

/// What is known of one probed address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Health {
    /// Not probed yet; not given to clients.
    #[default]
    Unknown,
    Healthy {
        failures: u32,
    },
    Unhealthy {
        failures: u32,
    },
}

impl Health {
    /// After one more probe.
    pub(crate) fn on(self, success: bool) -> Self {
        match (self, success) {
            (_, true) => Self::Healthy { failures: 0 },
            (Self::Healthy { failures }, false) if failures + 1 < FAILURES => Self::Healthy {
                failures: failures + 1,
            },
            (Self::Healthy { failures } | Self::Unhealthy { failures }, false) => Self::Unhealthy {
                failures: failures.saturating_add(1),
            },
            (Self::Unknown, false) => Self::Unhealthy { failures: 1 },
        }
    }

    /// It has failed for so long that the start of a balancer does not explain it.
    pub(crate) fn is_out_of_reach(self) -> bool {
        matches!(self, Self::Unhealthy { failures } if failures >= OUT_OF_REACH)
    }

    pub(crate) fn is_healthy(self) -> bool {
        matches!(self, Self::Healthy { .. })
    }

    /// One word for status and metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy { .. } => "healthy",
            Self::Unhealthy { .. } => "unhealthy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_failures_in_a_row_take_out_and_one_success_takes_in() {
        for (probes, healthy) in [
            ("", false),
            ("+", true),
            ("-", false),
            ("-+", true),
            ("+-", true),
            ("+--", false),
            ("+-+-", true),
            ("+-+--", false),
            ("+----+", true),
            ("+--+-", true),
        ] {
            let health = probes
                .chars()
                .fold(Health::default(), |health, c| health.on(c == '+'));
            assert_eq!(health.is_healthy(), healthy, "{probes}");
        }
    }

    #[test]
    fn the_first_failure_of_an_unknown_address_is_a_verdict() {
        assert_eq!(Health::Unknown.on(false), Health::Unhealthy { failures: 1 });
    }

    #[test]
    fn an_address_that_goes_on_failing_is_out_of_reach_until_it_answers() {
        for (probes, out) in [
            ("-----------", false),
            ("------------", true),
            ("+-----------", false),
            ("+------------", true),
            ("-------------+", false),
        ] {
            let health = probes
                .chars()
                .fold(Health::default(), |health, c| health.on(c == '+'));
            assert_eq!(health.is_out_of_reach(), out, "{probes}");
        }
    }
}
