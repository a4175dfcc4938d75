//! Decides from the probes of an address whether the address is healthy: two failures in a row
//! make a healthy address unhealthy, and one success makes any address healthy.

use scaledapp_wire::ProbeState;

/// Failures in a row that make a healthy address unhealthy. One lost SYN must not.
const FAILURES: u32 = 2;
/// After this many failures in a row (six seconds), a balancer is assumed not to be starting any
/// more. Either it is dead, which the operator knows by now, or this server cannot reach it.
const OUT_OF_REACH: u32 = 12;

/// The health of one probed address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Health {
    /// Not probed yet; not published.
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
    /// The health after one more probe.
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

    /// Whether the address has failed probes for longer than a balancer takes to start.
    pub(crate) fn is_out_of_reach(self) -> bool {
        matches!(self, Self::Unhealthy { failures } if failures >= OUT_OF_REACH)
    }

    pub(crate) fn is_healthy(self) -> bool {
        matches!(self, Self::Healthy { .. })
    }

    /// The state as `/status` and metrics show it.
    pub(crate) fn shown(self) -> ProbeState {
        match self {
            Self::Unknown => ProbeState::Unknown,
            Self::Healthy { .. } => ProbeState::Healthy,
            Self::Unhealthy { .. } => ProbeState::Unhealthy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_failures_in_a_row_make_unhealthy_and_one_success_makes_healthy() {
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
    fn one_failure_makes_an_unknown_address_unhealthy() {
        assert_eq!(Health::Unknown.on(false), Health::Unhealthy { failures: 1 });
    }

    #[test]
    fn an_address_that_keeps_failing_is_out_of_reach_until_it_answers() {
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
