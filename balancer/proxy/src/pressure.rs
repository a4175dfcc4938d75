//! How short memory is, as a scale. What is measured is decided in `memory` and `headroom`; what is
//! given up, in `housekeeping`.

/// How short memory is, in the order in which more is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// There is enough.
    None,
    /// Requests are not kept to be sent again, and buffers stay small.
    Tight,
    /// Connections that wait for a request end.
    Scarce,
    /// The connections that hold the most end.
    Critical,
    /// New connections are refused.
    Full,
}

impl Pressure {
    /// How short memory is if `used` bytes of a budget are used.
    pub(crate) fn of(used: u64, budget: u64) -> Self {
        match used.saturating_mul(100) / budget.max(1) {
            0..70 => Self::None,
            70..80 => Self::Tight,
            80..90 => Self::Scarce,
            90..100 => Self::Critical,
            _ => Self::Full,
        }
    }

    const ALL: [Self; 5] = [
        Self::None,
        Self::Tight,
        Self::Scarce,
        Self::Critical,
        Self::Full,
    ];

    /// The pressure with this number, as `as u8` gives it.
    pub(crate) fn numbered(number: u8) -> Self {
        Self::ALL[usize::from(number).min(4)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn more_is_given_up_as_more_memory_is_used() {
        for (used, expected) in [
            (0, Pressure::None),
            (69, Pressure::None),
            (70, Pressure::Tight),
            (80, Pressure::Scarce),
            (90, Pressure::Critical),
            (100, Pressure::Full),
            (u64::MAX / MIB, Pressure::Full),
        ] {
            assert_eq!(Pressure::of(used * MIB, 100 * MIB), expected, "{used}");
        }
        for pressure in Pressure::ALL {
            assert_eq!(Pressure::numbered(pressure as u8), pressure);
        }
    }
}
