//! Slow start: how large a share of its usual requests a new endpoint gets.
//!
//! A server that has just started is slow: its code is not compiled yet, its caches and its
//! connection pools are empty. Its share grows in a straight line over a window. What the
//! share means for a choice is decided in `busyness`.

use std::time::Duration;

/// The share with which an endpoint begins, in thousandths. It is more than 0, because an
/// endpoint without requests never warms up.
const FIRST: u16 = 100;

/// The share of its usual requests that an endpoint should get, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warmth(u16);

impl Warmth {
    /// All of them.
    pub const FULL: Self = Self(1000);

    /// The share of an endpoint that has served for `age`. A window of 0 turns slow start off.
    pub fn of(window: Duration, age: Duration) -> Self {
        if age >= window {
            return Self::FULL;
        }
        let grown = u128::from(1000 - FIRST) * age.as_nanos() / window.as_nanos();
        // Less than 900, because the age is less than the window.
        Self(FIRST + grown as u16)
    }

    pub(crate) fn thousandths(self) -> u64 {
        u64::from(self.0)
    }

    /// This share in relation to a larger one, in thousandths.
    pub(crate) fn relative_to(self, warmer: Self) -> u64 {
        (self.thousandths() * 1000 / warmer.thousandths()).min(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_all_in_a_straight_line() {
        let window = Duration::from_secs(10);
        let share = |seconds| Warmth::of(window, Duration::from_secs(seconds)).thousandths();
        assert_eq!([0, 1, 5, 9].map(share), [100, 190, 550, 910]);
        assert_eq!([10, 11, 1_000_000].map(share), [1000; 3]);
        assert_eq!(Warmth::of(Duration::ZERO, Duration::ZERO), Warmth::FULL);
        let short = Duration::from_nanos(900);
        assert_eq!(
            Warmth::of(window, Duration::MAX),
            Warmth::of(short, window),
            "no window is too short, and no age too great"
        );
        assert_eq!(Warmth::of(short, Duration::ZERO), Warmth(100));
    }
}
