//! How long to wait before what failed is tried again. Pure: chance is passed in.

use std::time::Duration;

/// Pauses between tries, each twice as long as the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    /// From `first` on, never longer than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The pause after a failure, [`spread`] by `random`.
    pub fn next(&mut self, random: f64) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        spread(pause, random)
    }

    /// It went well: the next failure is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Between a half and the whole of a pause, by a number from 0 to 1: those that
/// failed together must not try again together.
pub fn spread(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread() {
        let mut pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(1));
        let milliseconds: Vec<u128> = (0..7).map(|_| pauses.next(1.0).as_millis()).collect();
        assert_eq!(milliseconds, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(pauses.next(0.0).as_millis(), 500);
        pauses.reset();
        assert_eq!(pauses.next(1.0).as_millis(), 50);
    }
}
