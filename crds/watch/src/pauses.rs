//! How long to wait before the API server is asked again. Pure: chance is passed in.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// Doubled from one failure to the next.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pauses {
    /// `random` from 0 to 1 spreads those that lost the same server at once.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
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
    fn pauses_double_up_to_ten_seconds_and_are_spread() {
        let mut pauses = Pauses::default();
        let milliseconds: Vec<u128> = (0..8).map(|_| pauses.next(1.0).as_millis()).collect();
        assert_eq!(
            milliseconds,
            [200, 400, 800, 1600, 3200, 6400, 10000, 10000]
        );
        assert_eq!(pauses.next(0.0).as_millis(), 5000);
        pauses.reset();
        assert_eq!(pauses.next(1.0).as_millis(), 200);
    }
}
