//! What the API server made of what the operator wrote: refused it, stored it with other
//! values, or stored it without the labels by which the watches find it. This is
//! remembered so that nothing is written again at every pass. What is planned with that
//! is decided in `scaledapp_plan`.
//!
//! Everything is remembered for a while only, because nobody tells the operator when a
//! policy or a quota has changed. A new leader knows nothing and writes once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_plan::cluster::{Admitted, ObjectKey, PodAnnotations};
use tokio::time::Instant;

use crate::call::CallError;

/// After that long it is tried again whether admission still changes it.
const GOOD_FOR: Duration = Duration::from_hours(1);

/// After that long a hidden object is written again: the policy may be gone.
const HIDDEN_FOR: Duration = Duration::from_mins(5);
/// A refused object is not asked about again for so long the first time: passes follow
/// each other closely, since each write of a pass brings the next one …
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// … and at most for so long, which is less than the pause between failed passes.
const MAX_PAUSE: Duration = Duration::from_secs(25);

/// What was learned lately.
#[derive(Debug, Default)]
pub struct Admissions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By the app's uid.
    objects: HashMap<String, BTreeMap<ObjectKey, (Instant, Admitted)>>,
    /// What a pod was told in vain, by its uid.
    pods: HashMap<String, (Instant, BTreeMap<String, String>)>,
    /// Objects that the watches cannot bring, by the app's uid and with the hash of what
    /// was written; none of what was only found.
    hidden: HashMap<String, BTreeMap<ObjectKey, (Instant, Option<String>)>>,
    /// By the app's uid.
    refused: HashMap<String, BTreeMap<ObjectKey, Refusal>>,
}

/// The API server's answer to an object that it does not want.
#[derive(Debug)]
struct Refusal {
    at: Instant,
    /// For so long it is not asked again.
    pause: Duration,
    /// Hash of what was written.
    hash: String,
    error: CallError,
}

impl Known {
    /// Forgets everything that is out of date, of apps that are gone too.
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

    /// What is known of the objects of an app.
    pub(crate) fn of(&self, uid: &str) -> BTreeMap<ObjectKey, Admitted> {
        let known = self.known();
        let objects = known.objects.get(uid).into_iter().flatten();
        objects
            .filter(|(_, (at, _))| at.elapsed() < GOOD_FOR)
            .map(|(key, (_, admitted))| (key.clone(), admitted.clone()))
            .collect()
    }

    /// An object was written; whether that is news worth a line in the log.
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
        // Of apps that are gone nobody asks again.
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

    /// Objects of an app that the watches cannot bring.
    pub(crate) fn hidden(&self, uid: &str) -> Vec<ObjectKey> {
        let mut known = self.known();
        known.forget();
        let hidden = known.hidden.get(uid).into_iter().flatten();
        hidden.map(|(key, _)| key.clone()).collect()
    }

    /// Whether an object that the watches do not bring was written so already.
    pub(crate) fn is_hidden(&self, uid: &str, key: &ObjectKey, hash: &str) -> bool {
        let known = self.known();
        let found = known.hidden.get(uid).and_then(|hidden| hidden.get(key));
        found.is_some_and(|(at, written)| {
            let is_same = written.as_deref() == Some(hash);
            at.elapsed() < HIDDEN_FOR && (is_same || !key.kind.is_changed())
        })
    }

    /// Notes whether the watches can bring an object that was written, or was found
    /// without `hash`.
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

    /// What the API server said a moment ago to the same object.
    pub(crate) fn refusal(&self, uid: &str, key: &ObjectKey, hash: &str) -> Option<CallError> {
        let known = self.known();
        let refusal = known.refused.get(uid)?.get(key)?;
        let is_fresh = refusal.hash == hash && refusal.at.elapsed() < refusal.pause;
        refusal.error.repeated().filter(|_| is_fresh)
    }

    /// Notes how a write ended.
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

    /// Whether a pod was told all of this and does not have it.
    pub(crate) fn is_vain(&self, pod: &PodAnnotations) -> bool {
        let known = self.known();
        let told = known.pods.get(&pod.uid);
        let is_told = |told: &BTreeMap<String, String>| {
            let mut wanted = pod.annotations.iter();
            wanted.all(|(name, value)| told.get(name) == Some(value))
        };
        told.is_some_and(|(at, told)| at.elapsed() < GOOD_FOR && is_told(told))
    }

    /// A pod was told something and has it not; whether that is news.
    pub(crate) fn told_in_vain(&self, pod: &PodAnnotations) -> bool {
        let mut known = self.known();
        known.pods.retain(|_, (at, _)| at.elapsed() < 2 * GOOD_FOR);
        let told = (Instant::now(), pod.annotations.clone());
        known.pods.insert(pod.uid.clone(), told).is_none()
    }
}
