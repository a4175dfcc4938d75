//! How long a slot waits before its next worker starts.

use core::time::Duration;

/// Restart delays: at once the first time, then `first` × 2ⁿ with jitter, never
/// more than `cap`. There is no last attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the second failure in a row.
    pub first: Duration,
    /// No delay is longer, jitter included.
    pub cap: Duration,
    /// Share of the delay by which it may be shorter or longer, in percent.
    pub jitter_percent: u32,
    /// A worker that was ready for so long has proved itself: its end is the
    /// first failure again.
    pub reset_after: Duration,
    /// A worker that was ready for so long is replaced at once: the time it
    /// served bounds the rate of restarts as well as a delay would.
    pub at_once_after: Duration,
    /// After a worker that has served something no delay is longer: the app starts, and
    /// what ended it may have been one request of many. The others must not wait.
    pub served_cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            cap: Duration::from_secs(10),
            jitter_percent: 20,
            reset_after: Duration::from_secs(30),
            // PM2's `min_uptime`; who kills a worker each second is not to be answered
            // with fewer and fewer of them.
            at_once_after: Duration::from_secs(1),
            // A fifth of a second of waiting is hardly noticed; five boots a second and
            // slot are what a crashing app costs at most.
            served_cap: Duration::from_millis(200),
        }
    }
}

impl Backoff {
    /// The delay after `failures` earlier ones in a row; `random` is uniform.
    pub(crate) fn delay(&self, failures: u32, random: u64) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let delay = self.first.saturating_mul(factor).min(self.cap);
        // In thousandths: `core` has no rounding of floats.
        let spread = u64::from(self.jitter_percent.min(100)) * 10;
        let share = 1000 - spread + random % (2 * spread + 1);
        let jittered = delay.saturating_mul(share as u32) / 1000;
        jittered.min(self.cap)
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): enough to keep retries apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_a_tenth_of_a_second_to_the_cap() {
        let backoff = Backoff {
            jitter_percent: 0,
            ..Backoff::default()
        };
        let delays = [0, 1, 2, 3, 7, 8, 40, u32::MAX].map(|failures| backoff.delay(failures, 7));
        let expected = [0, 100, 200, 400, 6400, 10_000, 10_000, 10_000];
        assert_eq!(delays, expected.map(Duration::from_millis));
    }

    #[test]
    fn jitter_stays_within_a_fifth_and_reaches_both_sides() {
        let (backoff, mut random) = (Backoff::default(), Random(1));
        let delay = |_| backoff.delay(3, random.next());
        let delays: alloc::vec::Vec<Duration> = (0..1000).map(delay).collect();
        let low = delays.iter().min().copied().unwrap_or_default();
        let high = delays.iter().max().copied().unwrap_or_default();
        assert!(
            low >= Duration::from_millis(320) && low < Duration::from_millis(330),
            "{low:?}"
        );
        assert!(
            high <= Duration::from_millis(480) && high > Duration::from_millis(470),
            "{high:?}"
        );
    }

    #[test]
    fn the_cap_holds_with_jitter() {
        let backoff = Backoff::default();
        assert!((0..2000).all(|random| backoff.delay(20, random) <= backoff.cap));
    }
}
