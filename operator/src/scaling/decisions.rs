//! What has been decided for each app: the loop writes it, passes read it. Says when an app needs a
//! pass.
//!
//! A pass writes what a decision says, so a decision that changes a little each second would cause
//! a write each second. The learnt concurrency moves all the time; it is published with another
//! change, or when it has moved far. Which pods are the idlest changes all the time as well; only a
//! reduction asks for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_plan::cluster::Scaled;
use scaledapp_scale::Decision;

/// A concurrency that has changed by this factor is published by itself, at most once in
/// [`CONCURRENCY_INTERVAL`].
const CONCURRENCY_FACTOR: f64 = 1.25;
const CONCURRENCY_INTERVAL: Duration = Duration::from_mins(1);

/// A pod that a reduction may remove.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Removable {
    /// A pod that is not ready goes first.
    pub(crate) ready: bool,
    /// Requests at its workers; unknown counts as most.
    pub(crate) in_flight: u32,
    /// The youngest goes first, because its caches are the coldest.
    pub(crate) age: Duration,
    pub(crate) uid: String,
}

/// The decisions for all apps, by uid.
#[derive(Debug, Default)]
pub struct Decisions {
    by_app: Mutex<HashMap<String, Published>>,
}

#[derive(Debug, Clone)]
struct Published {
    scaled: Scaled,
    /// When the concurrency was last published, on the loop's clock.
    concurrency_at: Duration,
}

impl Decisions {
    fn by_app(&self) -> MutexGuard<'_, HashMap<String, Published>> {
        // Each change is one call: a panic leaves nothing half done.
        self.by_app.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The decision for an app; `None` if there is none yet.
    pub fn of(&self, uid: &str) -> Option<Scaled> {
        let by_app = self.by_app();
        by_app.get(uid).map(|published| published.scaled.clone())
    }

    /// Publishes a decision. Returns whether the app needs a pass. `pods` are asked for only if pods
    /// are to be removed.
    pub(crate) fn publish(
        &self,
        uid: &str,
        decision: Decision,
        now: Duration,
        pods: impl FnOnce() -> Vec<Removable>,
    ) -> bool {
        let mut by_app = self.by_app();
        let Some(before) = by_app.get_mut(uid) else {
            let published = Published {
                scaled: Scaled {
                    decision,
                    idlest: Vec::new(),
                },
                concurrency_at: now,
            };
            by_app.insert(uid.to_owned(), published);
            return true;
        };
        let last = &before.scaled.decision;
        let has_changed = (last.pods, last.workers, last.cpu)
            != (decision.pods, decision.workers, decision.cpu)
            || last.reason != decision.reason;
        let factor = decision.concurrency / last.concurrency;
        let has_moved = !(CONCURRENCY_FACTOR.recip()..=CONCURRENCY_FACTOR).contains(&factor)
            && now.saturating_sub(before.concurrency_at) >= CONCURRENCY_INTERVAL;
        if !has_changed && !has_moved {
            return false;
        }
        if decision.pods < last.pods {
            before.scaled.idlest = idlest(pods(), decision.pods);
        } else if decision.pods > last.pods {
            before.scaled.idlest.clear();
        }
        before.scaled.decision = decision;
        before.concurrency_at = now;
        true
    }

    /// Forgets the apps for which `is_kept` is false.
    pub(crate) fn retain(&self, is_kept: impl Fn(&str) -> bool) {
        self.by_app().retain(|uid, _| is_kept(uid));
    }
}

/// The uids of the pods that are to be removed so that `kept` are left, the idlest first.
fn idlest(mut pods: Vec<Removable>, kept: u32) -> Vec<String> {
    pods.sort();
    let surplus = pods.len().saturating_sub(kept as usize);
    pods.truncate(surplus);
    pods.into_iter().map(|pod| pod.uid).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use scaledapp_scale::Reason;

    use super::*;

    fn decision(pods: u32, concurrency: f64) -> Decision {
        Decision {
            pods,
            workers: 1,
            cpu: None,
            concurrency,
            reason: Reason::Started,
            since: Timestamp::UNIX_EPOCH,
        }
    }

    fn pod(uid: &str, ready: bool, in_flight: u32, seconds: u64) -> Removable {
        Removable {
            ready,
            in_flight,
            age: Duration::from_secs(seconds),
            uid: uid.to_owned(),
        }
    }

    #[test]
    fn only_a_change_needs_a_pass() {
        let decisions = Decisions::default();
        let at = Duration::from_secs;
        let put = |decision: Decision, now| decisions.publish("u", decision, now, Vec::new);
        let shown = || decisions.of("u").unwrap().decision;
        assert!(decisions.of("u").is_none());
        assert!(put(decision(2, 10.0), at(0)));
        assert!(!put(decision(2, 10.0), at(1)));
        assert!(!put(decision(2, 12.0), at(100)));
        assert!(!put(decision(2, 30.0), at(59)));
        assert!((shown().concurrency - 10.0).abs() < 1e-9);
        assert!(put(decision(2, 30.0), at(60)));
        assert!(!put(decision(2, 10.0), at(61)));
        assert!(put(decision(3, 11.0), at(62)));
        assert!((shown().concurrency - 11.0).abs() < 1e-9);
        let overruled = Decision {
            reason: Reason::Unknown,
            ..decision(3, 11.0)
        };
        assert!(put(overruled.clone(), at(63)));
        assert!(!put(overruled, at(64)));
        decisions.retain(|uid| uid != "u");
        assert!(decisions.of("u").is_none());
    }

    #[test]
    fn a_reduction_names_the_idlest_pods_and_no_others() {
        let decisions = Decisions::default();
        let pods = || {
            vec![
                pod("old", true, 0, 900),
                pod("busy", true, 5, 10),
                pod("young", true, 0, 60),
                pod("unknown", true, u32::MAX, 5),
                pod("starting", false, 0, 1),
            ]
        };
        let put = |pods_wanted: u32| {
            decisions.publish("u", decision(pods_wanted, 1.0), Duration::ZERO, pods);
            decisions.of("u").unwrap().idlest
        };
        assert_eq!(put(5), [""; 0]);
        assert_eq!(put(2), ["starting", "young", "old"]);
        // The same decision does not look again.
        assert_eq!(put(2), ["starting", "young", "old"]);
        assert_eq!(put(1), ["starting", "young", "old", "busy"]);
        assert_eq!(put(4), [""; 0]);
    }
}
