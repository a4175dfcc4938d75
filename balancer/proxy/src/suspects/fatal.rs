//! How many workers a path has ended, for metrics. Only paths that are named in the log
//! are counted. Clients choose paths, so the number of labels is bounded: the first paths
//! have a label of their own, and all others share one.

use std::sync::{Arc, Mutex, PoisonError};

/// The most paths with a label of their own.
const MAX_PATHS: usize = 16;
/// The label of all other paths.
const OTHERS: &str = "others";

/// Shared by the threads that count and the scrape that shows the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fatal(Arc<Mutex<Vec<(String, u64)>>>);

impl Fatal {
    pub(super) fn add(&self, path: &str, workers: u64) {
        if workers == 0 {
            return;
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = counts.len() >= MAX_PATHS;
        let known = counts.iter().position(|(name, _)| name == path);
        let others = || counts.iter().position(|(name, _)| name == OTHERS);
        match known.or_else(|| is_full.then(others)?) {
            Some(at) => counts[at].1 += workers,
            None if is_full => counts.push((OTHERS.to_owned(), workers)),
            None => counts.push((path.to_owned(), workers)),
        }
    }

    /// Each path with its count.
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let fatal = Fatal::default();
        for round in 0..2 {
            for path in 0..100 {
                fatal.add(&format!("GET /{path}"), 1 + round);
            }
        }
        fatal.add("GET /0", 0);
        let counts = fatal.counts();
        assert_eq!(counts.len(), MAX_PATHS + 1);
        assert_eq!(counts[0], ("GET /0".to_owned(), 3));
        assert_eq!(
            counts[MAX_PATHS],
            (OTHERS.to_owned(), 3 * (100 - MAX_PATHS as u64))
        );
    }
}
