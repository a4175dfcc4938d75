//! When to look again after a pass failed: longer each time, never in step
//! with others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_units::{Backoff, jitter};

/// After the first failure.
const FIRST: Duration = Duration::from_millis(500);
/// At most. A cured API server is noticed within this.
const MOST: Duration = Duration::from_mins(1);
/// After a conflict: somebody else wrote in between, and is done by now.
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

    /// A pass over the object succeeded, or the object is gone.
    pub fn reset(&self, key: &K) {
        self.failing().remove(key);
    }

    /// A pass failed: how long to wait.
    pub fn after_failure(&self, key: K) -> Duration {
        let mut failing = self.failing();
        let backoff = failing.entry(key).or_insert(Backoff::new(FIRST, MOST));
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
    fn success_starts_over_and_objects_do_not_share() {
        let backoff = Retries::default();
        for _ in 0..20 {
            backoff.after_failure("bad");
        }
        assert!(backoff.after_failure("bad") >= MOST / 2);
        assert!(backoff.after_failure("other") <= FIRST);
        backoff.reset(&"bad");
        assert!(backoff.after_failure("bad") <= FIRST);
    }
}
