//! Which paths have been answered recently. Many workers have requests for a busy path when
//! they end, although the path is not the cause. The memory is bounded, and cheap enough to
//! be updated with each answer: a hash, and a check of one word that changes once a second.
//! If two paths share an entry, the later one overwrites the earlier one. The chance that a
//! path is mistaken for the path of its entry is one in 2^40.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The end of a worker counts for this long.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// The number of paths that can be remembered.
const PLACES: usize = 1024;
/// The bits of an entry that contain the second of the answer. The other bits identify the
/// path.
const SECONDS: u64 = (1 << 24) - 1;

/// The paths that have been answered recently.
#[derive(Debug)]
pub(super) struct Recent {
    /// The hasher has a random seed, so that clients cannot choose paths that share an
    /// entry.
    hasher: RandomState,
    places: Box<[AtomicU64]>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Recent {
    pub(super) fn key(&self, head: &[u8]) -> u64 {
        self.hasher.hash_one(words(head))
    }

    fn place(&self, key: u64) -> &AtomicU64 {
        &self.places[key as usize % PLACES]
    }

    pub(super) fn note(&self, now: Duration, key: u64) {
        let place = self.place(key);
        let word = (key & !SECONDS) | (second(now) & SECONDS);
        if place.load(Ordering::Relaxed) != word {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// Whether the path was answered within [`WINDOW`], or up to a second earlier.
    pub(super) fn has(&self, now: Duration, key: u64) -> bool {
        let word = self.place(key).load(Ordering::Relaxed);
        let age = second(now).wrapping_sub(word & SECONDS) & SECONDS;
        word != 0 && word & !SECONDS == key & !SECONDS && age <= WINDOW.as_secs()
    }
}

/// The second of a time, counted from 1; 0 marks an entry that was never used.
fn second(now: Duration) -> u64 {
    now.as_secs() + 1
}

/// Method and path of a request head, without the query.
pub(super) fn words(head: &[u8]) -> (&[u8], &[u8]) {
    let mut words = head.split(|byte| matches!(byte, b' ' | b'\r'));
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let path = target.split(|byte| *byte == b'?').next();
    (method, path.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_for_a_while() {
        let recent = Recent::default();
        let key = recent.key(b"GET /a?x=1 HTTP/1.1\r\n");
        assert_eq!(key, recent.key(b"GET /a HTTP/1.1\r\nHost: b\r\n"));
        let start = Duration::from_secs(100);
        assert!(!recent.has(start, key));
        recent.note(start, key);
        assert!(recent.has(start, key));
        assert!(recent.has(start + WINDOW, key));
        assert!(!recent.has(start + WINDOW + Duration::from_secs(1), key));
        assert!(!recent.has(start, recent.key(b"POST /a HTTP/1.1\r\n")));
    }
}
