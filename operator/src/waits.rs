//! What kubelets say of pods that do not start: a volume that is missing, a network that
//! cannot be set up. Their pods' status says none of that, only events do; so these are
//! asked for where a pod prepares itself for longer than most, ever more rarely.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::SignedDuration;
use kube::Api;
use kube::api::ListParams;
use scaledapp_crds::words::Reason;
use scaledapp_plan::cluster::{Observed, Part, PodFailure, cut};
use tokio::time::Instant;

use crate::api::Caller;
use crate::call::{Call, CallError};

/// A pod is first asked about at this age, and each time at twice the age …
const FIRST: Duration = Duration::from_secs(5);
/// … up to this long after the last time.
const RARELY: Duration = Duration::from_mins(1);
/// Pods that are asked about in one pass: those of one app mostly wait for the same.
const MOST: usize = 3;
/// Nothing is remembered of a pod that was not looked at for so long.
const FORGOTTEN: Duration = Duration::from_mins(10);
/// Of a kubelet's words.
const WORDS: usize = 500;
/// What kubelets call it if a pod cannot be set up.
const REASONS: [&str; 8] = [
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedCreatePodSandBox",
    "FailedPodSandBoxStatus",
    "FailedPrepareDynamicResources",
    "FailedCreatePodContainer",
    "NetworkNotReady",
];

/// What was found of late, by uid of the pod.
#[derive(Debug, Default)]
pub struct Waits {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    /// The age of the pod at which it is asked about next.
    next: Duration,
    found: Option<String>,
    seen: Instant,
}

impl Waits {
    fn get(&self, uid: &str) -> Known {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.seen.elapsed() < FORGOTTEN);
        let fresh = || Known {
            next: FIRST,
            found: None,
            seen: Instant::now(),
        };
        let entry = known.entry(uid.to_owned()).or_insert_with(fresh);
        entry.seen = Instant::now();
        entry.clone()
    }

    /// Remembers what was found at this age; when it is asked about next.
    fn put(&self, uid: &str, age: Duration, found: Option<String>) -> Duration {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let next = age + age.clamp(FIRST, RARELY);
        let seen = Instant::now();
        known.insert(uid.to_owned(), Known { next, found, seen });
        next
    }
}

/// Fills in [`Pod::failure`](scaledapp_plan::cluster::Pod::failure) of pods that are not
/// set up by their kubelets, and says when to look again.
pub(crate) async fn look(
    waits: &Waits,
    caller: &Caller,
    namespace: &str,
    observed: &mut Observed,
) -> Option<Duration> {
    let now = observed.now;
    let mut wake: Option<Duration> = None;
    let mut asked = 0;
    let preparing = observed.pods.iter_mut();
    let preparing = preparing
        .filter(|pod| pod.preparing && !pod.ready && !pod.deleting && pod.failure.is_none());
    for pod in preparing {
        let age = pod.created.map(|created| now.duration_since(created));
        let age = age.filter(SignedDuration::is_positive);
        let Some(age) = age.and_then(|age| Duration::try_from(age).ok()) else {
            continue;
        };
        let Known {
            mut next,
            mut found,
            ..
        } = waits.get(&pod.uid);
        if age >= next && asked < MOST {
            asked += 1;
            match ask(caller, namespace, &pod.uid).await {
                // Another word for the same is no news.
                Ok(said) => found = found.or(said),
                Err(error) => {
                    tracing::debug!(pod = pod.name, %error, "events of a pod are not known");
                }
            }
            next = waits.put(&pod.uid, age, found.clone());
        }
        let left = next.saturating_sub(age).max(Duration::from_millis(100));
        wake = Some(wake.map_or(left, |wake| wake.min(left)));
        pod.failure = found.map(|message| PodFailure {
            reason: Reason::PodCannotStart,
            message,
            part: Part::Main,
        });
    }
    wake
}

async fn ask(caller: &Caller, namespace: &str, uid: &str) -> Result<Option<String>, CallError> {
    let api: Api<Event> = Api::namespaced(caller.client.clone(), namespace);
    let params = ListParams::default().fields(&format!("regarding.uid={uid},type=Warning"));
    let events = caller
        .read(Call::new("list", "Event"), api.list(&params))
        .await?;
    Ok(told(events.items.iter().filter_map(|event| {
        Some((event.reason.as_deref()?, event.note.as_deref()?))
    })))
}

/// Of several events of one pod the one that names the cause.
fn told<'a>(events: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let wanted = events.filter(|(reason, note)| {
        // A kubelet that has only just heard of an object says so, and then has it.
        let passes = note.contains("failed to sync") || note.contains("not registered");
        REASONS.contains(reason) && !passes
    });
    // A summary of all volumes, which names no cause.
    let is_summary = |note: &str| note.starts_with("Unable to attach or mount volumes");
    let (_, note) = wanted.min_by_key(|(_, note)| (is_summary(note), *note))?;
    Some(cut(note, WORDS).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_that_names_the_cause_is_told() {
        let cause = "MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found";
        let summary = "Unable to attach or mount volumes: unmounted volumes=[v]: timed out";
        let passes = "MountVolume.SetUp failed for volume \"v\" : failed to sync secret cache";
        for (events, expected) in [
            (vec![], None),
            (
                vec![("FailedMount", summary), ("FailedMount", cause)],
                Some(cause),
            ),
            (vec![("FailedMount", summary)], Some(summary)),
            (vec![("FailedMount", passes)], None),
            (
                vec![("BackOff", "Back-off restarting"), ("Unhealthy", "503")],
                None,
            ),
        ] {
            assert_eq!(told(events.into_iter()).as_deref(), expected);
        }
    }

    #[test]
    fn a_pod_is_asked_about_ever_more_rarely() {
        let waits = Waits::default();
        let seconds = Duration::from_secs;
        assert_eq!(waits.get("a").next, seconds(5));
        let mut ages = Vec::new();
        let mut age = waits.get("a").next;
        for _ in 0..6 {
            ages.push(age.as_secs());
            age = waits.put("a", age, None);
        }
        assert_eq!(ages, [5, 10, 20, 40, 80, 140]);
    }
}
