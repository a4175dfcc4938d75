//! What the API server has refused: how many pods there can be, and when more are asked for again.
//!
//! A quota does not change by asking. After a refusal, the number of pods that exist is taken as
//! the most there can be, and more are asked for only after a pause that doubles with each refusal.

use std::time::Duration;

/// The first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_mins(5);
const MAX_PAUSE: Duration = Duration::from_hours(1);

/// The last refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The most pods that there can be.
    pub(crate) allowed: u32,
    /// When more are asked for again.
    pub(crate) until: Duration,
    pause: Duration,
}

impl Refusal {
    /// The refusal that holds at `now`, after `refused_above` has been observed and `wanted` pods
    /// were asked for last.
    pub(crate) fn next(
        before: Option<Self>,
        now: Duration,
        refused_above: Option<u32>,
        wanted: u32,
    ) -> Option<Self> {
        let in_force = before.filter(|refusal| now < refusal.until);
        match (refused_above.filter(|allowed| *allowed < wanted), in_force) {
            // The Deployment's condition outlives the attempt. While a refusal is in force, the
            // condition may lower the number, but does not count as a second refusal.
            (Some(allowed), Some(refusal)) => Some(Self {
                allowed: refusal.allowed.min(allowed),
                ..refusal
            }),
            (Some(allowed), None) => {
                let pause = before.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(MAX_PAUSE));
                Some(Self {
                    allowed,
                    until: now + pause,
                    pause,
                })
            }
            (None, Some(refusal)) => Some(refusal),
            // Kept for the length of its pause, in case the next attempt is refused as well.
            (None, None) => before.filter(|last| now < last.until + last.pause),
        }
    }

    /// The most pods that may be asked for at `now`.
    pub(crate) fn limit(self, now: Duration) -> u32 {
        if now < self.until {
            self.allowed
        } else {
            u32::MAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_and_tried_again_after_growing_pauses() {
        let (mut refusal, mut attempts) = (None, Vec::new());
        // A quota of 8 pods; 12 are needed for a day.
        for second in 0..86_400_u64 {
            let now = Duration::from_secs(second);
            let limit = refusal.map_or(u32::MAX, |refusal: Refusal| refusal.limit(now));
            let wanted = 12.min(limit);
            if wanted > 8 {
                attempts.push(second);
            }
            let refused = (wanted > 8).then_some(8);
            refusal = Refusal::next(refusal, now, refused, wanted);
        }
        assert_eq!(attempts[..4], [0, 300, 900, 2100]);
        assert!(attempts.len() < 30, "{}", attempts.len());
    }

    #[test]
    fn a_refusal_is_forgotten_once_more_pods_are_created() {
        let at = Duration::from_secs;
        let refusal = Refusal::next(None, at(0), Some(8), 12);
        assert_eq!(refusal.map(|refusal| refusal.limit(at(299))), Some(8));
        let refusal = Refusal::next(refusal, at(300), None, 12);
        assert_eq!(
            refusal.map(|refusal| refusal.limit(at(300))),
            Some(u32::MAX)
        );
        assert_eq!(Refusal::next(refusal, at(700), None, 12), None);
    }
}
