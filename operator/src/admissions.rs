//! Remembers how the API server answered the operator's writes: it refused an object,
//! stored it with other values, or stored it without the labels that the watches select by.
//! Without this memory every pass would write these objects again. `scaledapp_plan` decides
//! what follows from these answers.
//!
//! Everything is forgotten after a while, because the operator does not learn when a policy or a
//! quota changes. A new leader remembers nothing and writes these objects once more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_plan::cluster::{Admitted, ObjectKey, PodAnnotations};
use tokio::time::Instant;

use crate::call::CallError;

/// After this time the operator writes an object again, to learn whether admission still
/// changes it.
const GOOD_FOR: Duration = Duration::from_hours(1);

/// After this time a hidden object is written again, because the policy may have been deleted.
const HIDDEN_FOR: Duration = Duration::from_mins(5);
/// How long an object is not written again after its first refusal. Without a pause, passes could
/// follow each other closely, because each write in a pass triggers another pass.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after a refusal. It is shorter than the longest pause between failed passes.
const MAX_PAUSE: Duration = Duration::from_secs(25);

/// The recent answers of the API server.
#[derive(Debug, Default)]
pub struct Admissions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// What admission has changed in written objects, by the app's uid.
    objects: HashMap<String, BTreeMap<ObjectKey, (Instant, Admitted)>>,
    /// Annotations that did not reach a pod, by the pod's uid.
    pods: HashMap<String, (Instant, BTreeMap<String, String>)>,
    /// Objects that are invisible to the watches, by the app's uid, with the hash of what
    /// was written; `None` for an object that was only found.
    hidden: HashMap<String, BTreeMap<ObjectKey, (Instant, Option<String>)>>,
    /// Refused writes, by the app's uid.
    refused: HashMap<String, BTreeMap<ObjectKey, Refusal>>,
}

/// A refused write.
#[derive(Debug)]
struct Refusal {
    at: Instant,
    /// How long to wait before the object is written again.
    pause: Duration,
    /// Hash of what was written.
    hash: String,
    error: CallError,
}

impl Known {
    /// Forgets hidden and refused objects that were recorded too long ago, including those of apps
    /// that no longer exist.
    fn forget(&mut self) {
        self.hidden.retain(|_, objects| {
            objects.retain(|_, (at, _)| at.elapsed() < HIDDEN_FOR);
            !objects.is_empty()
        });
        self.refused.retain(|_, objects| {
            objects.retain(|_, refusal| refusal.at.elapsed() < 4 * MAX_PAUSE);
            !objects.is_empty()
        });
    }
}

impl Admissions {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What admission has changed in the objects of an app.
    pub(crate) fn of(&self, uid: &str) -> BTreeMap<ObjectKey, Admitted> {
        let known = self.known();
        let objects = known.objects.get(uid).into_iter().flatten();
        objects
            .filter(|(_, (at, _))| at.elapsed() < GOOD_FOR)
            .map(|(key, (_, admitted))| (key.clone(), admitted.clone()))
            .collect()
    }

    /// Records a write. Returns whether admission changed the object in a new way, which is
    /// worth a log line.
    pub(crate) fn written(&self, uid: &str, key: ObjectKey, admitted: Option<Admitted>) -> bool {
        let mut known = self.known();
        let Some(admitted) = admitted else {
            if let Some(objects) = known.objects.get_mut(uid) {
                objects.remove(&key);
                if objects.is_empty() {
                    known.objects.remove(uid);
                }
            }
            return false;
        };
        // No pass looks up a deleted app again, so its entries are removed here.
        known.objects.retain(|_, objects| {
            objects.retain(|_, (at, _)| at.elapsed() < 2 * GOOD_FOR);
            !objects.is_empty()
        });
        let objects = known.objects.entry(uid.to_owned()).or_default();
        let paths = |admitted: &Admitted| -> Vec<String> {
            admitted.paths().map(ToOwned::to_owned).collect()
        };
        let is_news = objects
            .get(&key)
            .is_none_or(|(_, before)| paths(before) != paths(&admitted));
        objects.insert(key, (Instant::now(), admitted));
        is_news
    }

    /// The objects of an app that are invisible to the watches.
    pub(crate) fn hidden(&self, uid: &str) -> Vec<ObjectKey> {
        let mut known = self.known();
        known.forget();
        let hidden = known.hidden.get(uid).into_iter().flatten();
        hidden.map(|(key, _)| key.clone()).collect()
    }

    /// Whether another write of an invisible object would change nothing: the object was already
    /// written with this hash, or objects of its kind are never changed.
    pub(crate) fn is_hidden(&self, uid: &str, key: &ObjectKey, hash: &str) -> bool {
        let known = self.known();
        let found = known.hidden.get(uid).and_then(|hidden| hidden.get(key));
        found.is_some_and(|(at, written)| {
            let is_same = written.as_deref() == Some(hash);
            at.elapsed() < HIDDEN_FOR && (is_same || !key.kind.is_changed())
        })
    }

    /// Records whether the watches can see an object that was written or, without `hash`,
    /// an object that was only found.
    pub(crate) fn hide(&self, uid: &str, key: &ObjectKey, hash: Option<&str>, hidden: bool) {
        let mut known = self.known();
        if hidden {
            let objects = known.hidden.entry(uid.to_owned()).or_default();
            let noted = (Instant::now(), hash.map(ToOwned::to_owned));
            objects.insert(key.clone(), noted);
        } else if let Some(objects) = known.hidden.get_mut(uid) {
            objects.remove(key);
        }
    }

    /// The API server's refusal of this object with this hash; `None` if there was none, or if its
    /// pause is over.
    pub(crate) fn refusal(&self, uid: &str, key: &ObjectKey, hash: &str) -> Option<CallError> {
        let known = self.known();
        let refusal = known.refused.get(uid)?.get(key)?;
        let is_fresh = refusal.hash == hash && refusal.at.elapsed() < refusal.pause;
        refusal.error.repeated().filter(|_| is_fresh)
    }

    /// Records the outcome of a write.
    pub(crate) fn answered(
        &self,
        uid: &str,
        key: &ObjectKey,
        hash: &str,
        answer: Result<(), &CallError>,
    ) {
        let mut known = self.known();
        let objects = known.refused.entry(uid.to_owned()).or_default();
        let before = objects.remove(key);
        if let Err(error) = answer
            && let Some(error) = error.repeated()
        {
            let before = before.filter(|before| before.hash == hash);
            let pause = before.map_or(Duration::ZERO, |before| 2 * before.pause);
            let refusal = Refusal {
                at: Instant::now(),
                pause: pause.clamp(FIRST_PAUSE, MAX_PAUSE),
                hash: hash.to_owned(),
                error,
            };
            objects.insert(key.clone(), refusal);
        }
        if objects.is_empty() {
            known.refused.remove(uid);
        }
    }

    /// Whether these annotations were written to the pod before, and admission removed them.
    pub(crate) fn is_annotation_lost(&self, pod: &PodAnnotations) -> bool {
        let known = self.known();
        let written = known.pods.get(&pod.uid);
        let is_written = |written: &BTreeMap<String, String>| {
            let mut wanted = pod.annotations.iter();
            wanted.all(|(name, value)| written.get(name) == Some(value))
        };
        written.is_some_and(|(at, written)| at.elapsed() < GOOD_FOR && is_written(written))
    }

    /// Records that admission removed annotations from a pod. Returns whether this is the first
    /// time for the pod.
    pub(crate) fn annotation_lost(&self, pod: &PodAnnotations) -> bool {
        let mut known = self.known();
        known.pods.retain(|_, (at, _)| at.elapsed() < 2 * GOOD_FOR);
        let written = (Instant::now(), pod.annotations.clone());
        known.pods.insert(pod.uid.clone(), written).is_none()
    }
}
