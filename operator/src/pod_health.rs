//! The last answer of each pod, and whether the pod still counts as alive. [`crate::heartbeat`]
//! queries the pods.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_plan::cluster::Answer;
use tokio::sync::Notify;
use tokio::time::Instant;

/// After this many misses in a row, a pod counts as silent.
pub(crate) const MISSES: u32 = 3;
/// After this much silence, a pod counts as unreachable: if it were dead, its kubelet,
/// which probes every second or two, would have noticed.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(6);

/// What is known of one pod.
#[derive(Debug, Clone, Default)]
struct PodHealth {
    answer: Answer,
    misses: u32,
    /// The time since which the pod has not answered.
    since: Option<Instant>,
}

/// A probe without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Miss {
    /// Whether the connection was accepted.
    pub accepted: bool,
}

impl PodHealth {
    /// Records one probe. Returns whether the state of the pod changed.
    fn on(&mut self, look: Result<Answer, Miss>, now: Instant) -> bool {
        let answer = match look {
            Ok(answer) => {
                self.misses = 0;
                self.since = None;
                answer
            }
            Err(miss) => {
                self.misses = self.misses.saturating_add(1);
                let since = *self.since.get_or_insert(now);
                if self.misses < MISSES {
                    return false;
                }
                if now - since >= UNREACHABLE_AFTER {
                    Answer::Unreachable {
                        accepted: miss.accepted,
                    }
                } else {
                    Answer::Silent
                }
            }
        };
        // Failures may alternate between two kinds, so only the first one is reported.
        let same = matches!(
            (&self.answer, &answer),
            (Answer::Unreachable { .. }, Answer::Unreachable { .. })
        );
        if same || self.answer == answer {
            return false;
        }
        self.answer = answer;
        true
    }
}

/// The last answers of all pods, by uid.
#[derive(Debug, Default)]
pub struct PodsHealth {
    known: Mutex<HashMap<String, PodHealth>>,
    /// Notified when the set of pods changes.
    pub(crate) pods_changed: Notify,
}

impl PodsHealth {
    fn known(&self) -> MutexGuard<'_, HashMap<String, PodHealth>> {
        // Each change is one call: a panic leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last answer of the pod.
    pub fn answer(&self, uid: &str) -> Answer {
        self.known()
            .get(uid)
            .map(|health| health.answer.clone())
            .unwrap_or_default()
    }

    /// Records one probe of a pod. Returns whether the state of the pod changed.
    pub fn take(&self, uid: &str, look: Result<Answer, Miss>) -> bool {
        let mut known = self.known();
        known
            .entry(uid.to_owned())
            .or_default()
            .on(look, Instant::now())
    }

    /// Whether a pod has missed the last probes, but too few of them to count as silent.
    pub(crate) fn is_in_doubt(&self, uid: &str) -> bool {
        let known = self.known();
        known
            .get(uid)
            .is_some_and(|health| (1..MISSES).contains(&health.misses))
    }

    /// Forgets all pods for which `is_kept` is false.
    pub(crate) fn retain(&self, is_kept: impl Fn(&str) -> bool) {
        self.known().retain(|uid, _| is_kept(uid));
    }

    /// The number of pods in each state, for the admin port.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 5] {
        let known = self.known();
        let count = |wanted: fn(&Answer) -> bool| {
            let answer = known.values().map(|health| &health.answer);
            answer.filter(|answer| wanted(answer)).count()
        };
        [
            ("notYet", count(|answer| matches!(answer, Answer::NotYet))),
            ("silent", count(|answer| matches!(answer, Answer::Silent))),
            (
                "unreachable",
                count(|answer| matches!(answer, Answer::Unreachable { .. })),
            ),
            (
                "servingBalancers",
                count(|answer| matches!(answer, Answer::Balancer(said) if said.serving)),
            ),
            (
                "supervisors",
                count(|answer| matches!(answer, Answer::Supervisor(_))),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use scaledapp_plan::cluster::Balancer;

    use super::*;

    fn says(serving: bool) -> Answer {
        Answer::Balancer(Balancer {
            serving,
            ..Balancer::default()
        })
    }

    #[test]
    fn three_misses_mean_silent_long_silence_means_unreachable_and_one_answer_ends_both() {
        let mut health = PodHealth::default();
        let begun = Instant::now();
        let refused = Err(Miss { accepted: false });
        let accepted = Err(Miss { accepted: true });
        let out = Answer::Unreachable { accepted: false };
        for (seconds, look, changed, answer) in [
            (0, refused.clone(), false, Answer::NotYet),
            (1, refused.clone(), false, Answer::NotYet),
            (2, Ok(says(true)), true, says(true)),
            (3, refused.clone(), false, says(true)),
            (4, refused.clone(), false, says(true)),
            (5, refused.clone(), true, Answer::Silent),
            (6, refused.clone(), false, Answer::Silent),
            (9, refused, true, out.clone()),
            (10, accepted, false, out),
            (11, Ok(says(true)), true, says(true)),
            (12, Ok(says(true)), false, says(true)),
            // The balancer itself reports that it stops serving, so no misses are needed.
            (13, Ok(says(false)), true, says(false)),
        ] {
            let now = begun + Duration::from_secs(seconds);
            assert_eq!(health.on(look, now), changed, "{seconds}");
            assert_eq!(health.answer, answer, "{seconds}");
        }
    }
}
