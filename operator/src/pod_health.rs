//! What each pod said last, and whether it still counts as alive. Pods are asked in
//! [`crate::heartbeat`].

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_plan::cluster::Heard;
use tokio::sync::Notify;
use tokio::time::Instant;

/// So many misses in a row make a pod silent.
pub(crate) const MISSES: u32 = 3;
/// Silent for so long, a pod is out of reach: were it dead, its kubelet, which asks every
/// second or two, would have said so.
const OUT_OF_REACH: Duration = Duration::from_secs(6);

/// What is known of one pod.
#[derive(Debug, Clone, Default)]
struct PodHealth {
    heard: Heard,
    misses: u32,
    /// Since when it has not answered.
    since: Option<Instant>,
}

/// No answer; whether at least the connection was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Miss {
    /// It was.
    pub accepted: bool,
}

impl PodHealth {
    /// Takes in one look; whether what counts changed.
    fn on(&mut self, look: Result<Heard, Miss>, now: Instant) -> bool {
        let heard = match look {
            Ok(heard) => {
                self.misses = 0;
                self.since = None;
                heard
            }
            Err(miss) => {
                self.misses = self.misses.saturating_add(1);
                let since = *self.since.get_or_insert(now);
                if self.misses < MISSES {
                    return false;
                }
                if now - since >= OUT_OF_REACH {
                    Heard::Unreachable {
                        accepted: miss.accepted,
                    }
                } else {
                    Heard::Silent
                }
            }
        };
        // How it fails may be another way each time, and is told of once.
        let same = matches!(
            (&self.heard, &heard),
            (Heard::Unreachable { .. }, Heard::Unreachable { .. })
        );
        if same || self.heard == heard {
            return false;
        }
        self.heard = heard;
        true
    }
}

/// What all pods said last, by uid.
#[derive(Debug, Default)]
pub struct PodsHealth {
    known: Mutex<HashMap<String, PodHealth>>,
    /// The set of pods changed.
    pub(crate) pods_changed: Notify,
}

impl PodsHealth {
    fn known(&self) -> MutexGuard<'_, HashMap<String, PodHealth>> {
        // Each change is one call: a panic leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the pod said last.
    pub fn heard(&self, uid: &str) -> Heard {
        self.known()
            .get(uid)
            .map(|health| health.heard.clone())
            .unwrap_or_default()
    }

    /// Takes in one look at a pod; whether what counts changed.
    pub fn take(&self, uid: &str, look: Result<Heard, Miss>) -> bool {
        let mut known = self.known();
        known
            .entry(uid.to_owned())
            .or_default()
            .on(look, Instant::now())
    }

    /// Whether a pod has missed the last looks, and not so many of them that it counts as
    /// silent.
    pub(crate) fn is_in_doubt(&self, uid: &str) -> bool {
        let known = self.known();
        known
            .get(uid)
            .is_some_and(|health| (1..MISSES).contains(&health.misses))
    }

    /// Forgets all pods but these.
    pub(crate) fn retain(&self, is_kept: impl Fn(&str) -> bool) {
        self.known().retain(|uid, _| is_kept(uid));
    }

    /// How many pods are in which state, for the admin port.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 5] {
        let known = self.known();
        let count = |wanted: fn(&Heard) -> bool| {
            let heard = known.values().map(|health| &health.heard);
            heard.filter(|heard| wanted(heard)).count()
        };
        [
            ("notYet", count(|heard| matches!(heard, Heard::NotYet))),
            ("silent", count(|heard| matches!(heard, Heard::Silent))),
            (
                "unreachable",
                count(|heard| matches!(heard, Heard::Unreachable { .. })),
            ),
            (
                "servingBalancers",
                count(|heard| matches!(heard, Heard::Balancer(said) if said.serving)),
            ),
            (
                "supervisors",
                count(|heard| matches!(heard, Heard::Supervisor(_))),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use scaledapp_plan::cluster::Balancer;

    use super::*;

    fn says(serving: bool) -> Heard {
        Heard::Balancer(Balancer {
            serving,
            ..Balancer::default()
        })
    }

    #[test]
    fn three_misses_make_silent_long_silence_out_of_reach_and_one_answer_undoes_both() {
        let mut health = PodHealth::default();
        let begun = Instant::now();
        let refused = Err(Miss { accepted: false });
        let accepted = Err(Miss { accepted: true });
        let out = Heard::Unreachable { accepted: false };
        for (seconds, look, changed, heard) in [
            (0, refused.clone(), false, Heard::NotYet),
            (1, refused.clone(), false, Heard::NotYet),
            (2, Ok(says(true)), true, says(true)),
            (3, refused.clone(), false, says(true)),
            (4, refused.clone(), false, says(true)),
            (5, refused.clone(), true, Heard::Silent),
            (6, refused.clone(), false, Heard::Silent),
            (9, refused, true, out.clone()),
            (10, accepted, false, out),
            (11, Ok(says(true)), true, says(true)),
            (12, Ok(says(true)), false, says(true)),
            // It says itself that it leaves: no need to miss anything.
            (13, Ok(says(false)), true, says(false)),
        ] {
            let now = begun + Duration::from_secs(seconds);
            assert_eq!(health.on(look, now), changed, "{seconds}");
            assert_eq!(health.heard, heard, "{seconds}");
        }
    }
}
