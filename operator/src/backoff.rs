//! How long to wait after a failed pass: longer each time, with random differences between
//! apps.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_units::{Backoff, jitter};

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause. A repaired API server is noticed within this time.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// The pause after a conflict. During this pause the other writer can finish.
const CONFLICT: Duration = Duration::from_millis(300);

/// The pauses of each object whose last pass failed.
#[derive(Debug)]
pub struct Retries<K> {
    failing: Mutex<HashMap<K, Backoff>>,
}

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self {
            failing: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash> Retries<K> {
    fn failing(&self) -> MutexGuard<'_, HashMap<K, Backoff>> {
        // Each change is one call: a panic leaves nothing half done.
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the failures of an object: a pass succeeded, or the object is deleted.
    pub fn reset(&self, key: &K) {
        self.failing().remove(key);
    }

    /// Records a failed pass and returns how long to wait.
    pub fn after_failure(&self, key: K) -> Duration {
        let mut failing = self.failing();
        let backoff = failing
            .entry(key)
            .or_insert(Backoff::new(FIRST_PAUSE, MAX_PAUSE));
        backoff.next(fastrand::f64())
    }
}

/// How long to wait after a conflict.
pub fn after_conflict() -> Duration {
    jitter(CONFLICT, fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_resets_the_pause_and_objects_do_not_share_pauses() {
        let backoff = Retries::default();
        for _ in 0..20 {
            backoff.after_failure("bad");
        }
        assert!(backoff.after_failure("bad") >= MAX_PAUSE / 2);
        assert!(backoff.after_failure("other") <= FIRST_PAUSE);
        backoff.reset(&"bad");
        assert!(backoff.after_failure("bad") <= FIRST_PAUSE);
    }
}
