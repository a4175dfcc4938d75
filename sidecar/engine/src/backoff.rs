//! How long a slot waits before its next worker starts.

use core::time::Duration;

/// Restart delays: the first restart is immediate, later ones wait `first` × 2ⁿ with
/// jitter, but never longer than `cap`. The number of attempts is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the second failure in a row.
    pub first: Duration,
    /// The longest delay, jitter included.
    pub cap: Duration,
    /// The jitter: the percentage by which a delay may be shorter or longer.
    pub jitter_percent: u32,
    /// Once a worker has been ready for this long, its end counts as a first failure again.
    pub reset_after: Duration,
    /// A worker that was ready for this long is replaced immediately: its running time
    /// limits the rate of restarts just as a delay would.
    pub at_once_after: Duration,
    /// The longest delay after a worker that has done work. Its app can start, and a single
    /// request may have crashed the worker; the other requests must not wait for long.
    pub served_cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            cap: Duration::from_secs(10),
            jitter_percent: 20,
            reset_after: Duration::from_secs(30),
            // Equal to PM2's `min_uptime`. Requests that crash a worker each second must not lead
            // to fewer and fewer workers.
            at_once_after: Duration::from_secs(1),
            // A client hardly notices a fifth of a second, and a crashing app costs at most
            // five boots per second and slot.
            served_cap: Duration::from_millis(200),
        }
    }
}

impl Backoff {
    /// The delay after `failures` earlier failures in a row; `random` is uniformly
    /// distributed.
    pub(crate) fn delay(&self, failures: u32, random: u64) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let delay = self.first.saturating_mul(factor).min(self.cap);
        // Calculated in thousandths, because `core` cannot round floats.
        let spread = u64::from(self.jitter_percent.min(100)) * 10;
        let share = 1000 - spread + random % (2 * spread + 1);
        let jittered = delay.saturating_mul(share as u32) / 1000;
        jittered.min(self.cap)
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): good enough to spread retries.
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
    fn delays_double_from_a_tenth_of_a_second_up_to_the_cap() {
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
