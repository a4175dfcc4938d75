//! How long a client may continue to send if it was answered before it had sent its whole
//! request.
//!
//! Closing the connection while the client sends would reset it and could destroy the answer before
//! the client reads it (RFC 9112 section 9.6), and many clients read only after they have sent
//! everything. Time is an argument; bytes are read in `connection`.

use std::time::Duration;

/// If a client sends nothing for this long, it is assumed to have read its answer, or not
/// to read it at all (nginx's value).
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// As [`SILENCE_TIMEOUT`], while the proxy shuts down.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(1);
/// A client that sends fewer bytes per second is assumed not to be uploading.
const MIN_RATE: u64 = 4 << 10;
/// The time of an upload before its bytes earn more (nginx's value).
const BASE_TIME: Duration = Duration::from_secs(30);
/// This many bytes earn one more second: an upload of 20 MB at half a megabit per second
/// can finish.
const EARNING_RATE: u64 = 64 << 10;
/// The longest time for any upload.
const MAX_TIME: Duration = Duration::from_mins(10);
/// The most bytes of any upload. A fast client earns its time without effort, so only this limits
/// how much is read in vain.
const MAX_BYTES: u64 = 1 << 30;

/// How long one client may continue to send.
#[derive(Debug)]
pub(crate) struct Linger {
    since: Duration,
    taken: u64,
}

impl Linger {
    /// The answer was written at `now`.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            since: now,
            taken: 0,
        }
    }

    /// Counts bytes that were read.
    pub(crate) fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
    }

    /// How long to wait for more bytes; zero means that the wait is over.
    pub(crate) fn timeout(&self, now: Duration, is_leaving: bool) -> Duration {
        if self.taken >= MAX_BYTES {
            return Duration::ZERO;
        }
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

    /// For how many seconds a client that sends at `rate` (bytes per second) is read.
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
    fn a_fast_client_may_send_everything_and_a_trickling_one_may_not() {
        assert_eq!(time_at(0), 5);
        assert!(time_at(1 << 10) < 10);
        assert!(time_at(8 << 10) > 30);
        assert!(time_at(32 << 10) <= 60);
        assert_eq!(time_at(64 << 10), 600, "20 MB take 320 s");
        assert_eq!(time_at(1 << 20), 600, "1 MiB per second");
        assert_eq!(time_at(64 << 20), 16, "1 GiB in all");
        assert_eq!(time_at(1 << 30), 1);
    }

    #[test]
    fn silence_ends_the_wait() {
        let mut linger = Linger::new(Duration::ZERO);
        linger.took(20 << 10);
        let now = Duration::from_secs(1);
        assert_eq!(linger.timeout(now, false), Duration::from_secs(5));
        assert_eq!(linger.timeout(now, true), Duration::from_secs(1));
        let late = Duration::from_secs(8);
        assert_eq!(linger.timeout(late, false), Duration::from_secs(2));
    }
}
