//! When to look again after a pass failed: longer each time, never in step
//! with others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// After the first failure; doubles with each further one.
const FIRST: Duration = Duration::from_millis(500);
/// At most. A cured API server is noticed within this.
const MOST: Duration = Duration::from_mins(1);
/// After a conflict: somebody else wrote in between, and is done by now.
const CONFLICT: Duration = Duration::from_millis(300);

/// Failures in a row of each object.
#[derive(Debug)]
pub struct Backoff<K> {
    failures: Mutex<HashMap<K, u32>>,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self {
            failures: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash> Backoff<K> {
    fn failures(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        // Each change is one call: a panic leaves nothing half done.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass over the object succeeded, or the object is gone.
    pub fn reset(&self, key: &K) {
        self.failures().remove(key);
    }

    /// A pass failed: how long to wait.
    pub fn after_failure(&self, key: K) -> Duration {
        let mut failures = self.failures();
        let count = failures.entry(key).or_default();
        let pause = pause(*count, fastrand::f64());
        *count = count.saturating_add(1);
        pause
    }
}

/// How long to wait after so many failures before this one. `random` is in 0..1.
fn pause(failures: u32, random: f64) -> Duration {
    let whole = FIRST
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(MOST);
    jittered(whole, random)
}

/// How long to wait after a conflict.
pub fn after_conflict() -> Duration {
    jittered(CONFLICT, fastrand::f64())
}

/// Between a half and the whole.
fn jittered(whole: Duration, random: f64) -> Duration {
    whole.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_jitter_down_to_half() {
        for (failures, longest) in [(0, 500), (1, 1_000), (6, 32_000), (7, 60_000), (99, 60_000)] {
            let longest = Duration::from_millis(longest);
            assert_eq!(pause(failures, 0.0), longest / 2);
            assert!(pause(failures, 0.999) <= longest);
            assert!(pause(failures, 0.999) > longest.mul_f64(0.99));
        }
    }

    #[test]
    fn success_starts_over_and_objects_do_not_share() {
        let backoff = Backoff::default();
        for _ in 0..20 {
            backoff.after_failure("bad");
        }
        assert!(backoff.after_failure("bad") >= MOST / 2);
        assert!(backoff.after_failure("other") <= FIRST);
        backoff.reset(&"bad");
        assert!(backoff.after_failure("bad") <= FIRST);
    }
}
