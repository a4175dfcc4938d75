//! How long to wait before a failed attempt is repeated. The random number is an argument.

use std::time::Duration;

/// Exponential backoff: each pause is twice as long as the one before, up to a longest pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses that start at `first` and never exceed `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The pause after one more failure, shortened by [`jitter`]. `random` is a
    /// number from 0 to 1.
    pub fn next(&mut self, random: f64) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        jitter(pause, random)
    }

    /// An attempt succeeded: the next failure counts as the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A pause between half of `pause` and the whole of it, chosen by `random`, a number from 0 to 1.
/// Clients that failed at the same time must not return at the same time.
pub fn jitter(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let milliseconds: Vec<u128> = (0..7).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(milliseconds, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(0.0).as_millis(), 500);
        backoff.reset();
        assert_eq!(backoff.next(1.0).as_millis(), 50);
    }
}
