//! Reads the kubelets' events about pods that do not start: a missing volume, a network
//! that cannot be set up. The status of a pod does not contain these causes. Events are
//! read for pods that take longer to start than most, with growing intervals.

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

/// The events of a pod are first read when the pod is this old, and then each time its age has
/// doubled.
const FIRST: Duration = Duration::from_secs(5);
/// The longest time between two reads of a pod's events.
const MAX_INTERVAL: Duration = Duration::from_mins(1);
/// Maximum number of pods whose events one pass reads. The pods of an app mostly wait for the same
/// thing.
const MAX_PODS: usize = 3;
/// A pod that was in no pass for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);
/// Longest quotation of an event, in bytes.
const MAX_NOTE_BYTES: usize = 500;
/// The reasons of events by which kubelets report that a pod cannot be set up.
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

/// Recent findings, by the pod's uid.
#[derive(Debug, Default)]
pub struct PodEvents {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    /// The age of the pod at which its events are read next.
    next: Duration,
    found: Option<String>,
    seen: Instant,
}

impl PodEvents {
    fn get(&self, uid: &str) -> Known {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.seen.elapsed() < FORGOTTEN_AFTER);
        let fresh = || Known {
            next: FIRST,
            found: None,
            seen: Instant::now(),
        };
        let entry = known.entry(uid.to_owned()).or_insert_with(fresh);
        entry.seen = Instant::now();
        entry.clone()
    }

    /// Records what was found at this age. Returns the age at which the events are read next.
    fn put(&self, uid: &str, age: Duration, found: Option<String>) -> Duration {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let next = age + age.clamp(FIRST, MAX_INTERVAL);
        let seen = Instant::now();
        known.insert(uid.to_owned(), Known { next, found, seen });
        next
    }
}

/// Fills in [`Pod::failure`](scaledapp_plan::cluster::Pod::failure) of pods that their
/// kubelets cannot set up. Returns when the next pass should read events.
pub(crate) async fn look(
    pod_events: &PodEvents,
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
        } = pod_events.get(&pod.uid);
        if age >= next && asked < MAX_PODS {
            asked += 1;
            match ask(caller, namespace, &pod.uid).await {
                // Kubelets report the same cause in several texts, so the first text is kept.
                Ok(cause) => found = found.or(cause),
                Err(error) => {
                    tracing::debug!(pod = pod.name, %error, "cannot read the events of a pod");
                }
            }
            next = pod_events.put(&pod.uid, age, found.clone());
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
    Ok(cause(events.items.iter().filter_map(|event| {
        Some((event.reason.as_deref()?, event.note.as_deref()?))
    })))
}

/// The event that names the cause, chosen from all events of a pod.
fn cause<'a>(events: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let wanted = events.filter(|(reason, note)| {
        // A kubelet that has only just learned of an object reports this, and gets the
        // object a moment later.
        let passes = note.contains("failed to sync") || note.contains("not registered");
        REASONS.contains(reason) && !passes
    });
    // A summary of all volumes does not name a cause.
    let is_summary = |note: &str| note.starts_with("Unable to attach or mount volumes");
    let (_, note) = wanted.min_by_key(|(_, note)| (is_summary(note), *note))?;
    Some(cut(note, MAX_NOTE_BYTES).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_that_names_the_cause_is_reported() {
        let specific = "MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found";
        let summary = "Unable to attach or mount volumes: unmounted volumes=[v]: timed out";
        let passes = "MountVolume.SetUp failed for volume \"v\" : failed to sync secret cache";
        for (events, expected) in [
            (vec![], None),
            (
                vec![("FailedMount", summary), ("FailedMount", specific)],
                Some(specific),
            ),
            (vec![("FailedMount", summary)], Some(summary)),
            (vec![("FailedMount", passes)], None),
            (
                vec![("BackOff", "Back-off restarting"), ("Unhealthy", "503")],
                None,
            ),
        ] {
            assert_eq!(cause(events.into_iter()).as_deref(), expected);
        }
    }

    #[test]
    fn events_of_a_pod_are_read_with_growing_intervals() {
        let events = PodEvents::default();
        let seconds = Duration::from_secs;
        assert_eq!(events.get("a").next, seconds(5));
        let mut ages = Vec::new();
        let mut age = events.get("a").next;
        for _ in 0..6 {
            ages.push(age.as_secs());
            age = events.put("a", age, None);
        }
        assert_eq!(ages, [5, 10, 20, 40, 80, 140]);
    }
}
