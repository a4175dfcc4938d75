//! How long a client that was answered before it had sent its whole request may go
//! on sending.
//!
//! To close while it sends would reset its connection and could destroy the answer
//! before it is read (RFC 9112 section 9.6), and many clients read only when they have
//! sent all. Time is an argument; bytes are read in `connection`.

use std::time::Duration;

/// A client that sends nothing for so long has read its answer or never will (as in
/// nginx).
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same while the proxy is leaving.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(1);
/// Fewer bytes per second than this are no upload.
const MIN_RATE: u64 = 4 << 10;
/// The time that every upload has (as in nginx).
const BASE_TIME: Duration = Duration::from_secs(30);
/// So many bytes earn one more second: 20 MB over a line of half a megabit come to their
/// end.
const EARNING_RATE: u64 = 64 << 10;
/// No upload has longer.
const MAX_TIME: Duration = Duration::from_mins(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Linger {
    since: Duration,
    taken: u64,
}

impl Linger {
    /// The answer is written as of `now`.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            since: now,
            taken: 0,
        }
    }

    /// So many bytes more were taken.
    pub(crate) fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
    }

    /// How long to wait for more; zero: no longer.
    pub(crate) fn timeout(&self, now: Duration, is_leaving: bool) -> Duration {
        let at = |rate| Duration::from_millis(self.taken.saturating_mul(1000) / rate);
        let time = (SILENCE_TIMEOUT + at(MIN_RATE))
            .min(BASE_TIME + at(EARNING_RATE))
            .min(MAX_TIME);
        let until = self.since + time;
        let silence = if is_leaving {
            LEAVING_TIMEOUT
        } else {
            SILENCE_TIMEOUT
        };
        until.saturating_sub(now).min(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a client that sends at `rate` (bytes per second) is listened to.
    fn time_at(rate: usize) -> u64 {
        let mut linger = Linger::new(Duration::from_secs(7));
        let mut seconds = 0;
        while linger.timeout(Duration::from_secs(7 + seconds), false) > Duration::ZERO {
            linger.took(rate);
            seconds += 1;
        }
        seconds
    }

    #[test]
    fn who_sends_fast_enough_may_send_all_and_who_trickles_may_not() {
        assert_eq!(time_at(0), 5);
        assert!(time_at(1 << 10) < 10);
        assert!(time_at(8 << 10) > 30);
        assert!(time_at(32 << 10) <= 60);
        assert_eq!(time_at(64 << 10), 600, "20 MB take 320 s");
        assert_eq!(time_at(1 << 30), 600);
    }

    #[test]
    fn silence_ends_it() {
        let mut linger = Linger::new(Duration::ZERO);
        linger.took(20 << 10);
        let now = Duration::from_secs(1);
        assert_eq!(linger.timeout(now, false), Duration::from_secs(5));
        assert_eq!(linger.timeout(now, true), Duration::from_secs(1));
        let late = Duration::from_secs(8);
        assert_eq!(linger.timeout(late, false), Duration::from_secs(2));
    }
}
