//! How long to wait before a lost peer is tried again. Pure: chance is passed in.

use std::time::Duration;

/// Doubled for each attempt from the first on.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pauses of one peer.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    /// `random` from 0 to 1 spreads those that lost the same peer at once.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause.mul_f64(0.5 + random / 2.0)
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_are_spread() {
        let mut pauses = Pauses::default();
        let milliseconds: Vec<u128> = (0..7).map(|_| pauses.next(1.0).as_millis()).collect();
        assert_eq!(milliseconds, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(pauses.next(0.0).as_millis(), 500);
        pauses.reset();
        assert_eq!(pauses.next(1.0).as_millis(), 50);
    }
}
