//! What admission made of what we wrote, remembered so that it is not written again at
//! every pass. What is planned with that is `scaledapp_plan`'s business.
//!
//! Remembered for a while only: a policy that is gone by then no longer shows otherwise.
//! A new leader knows nothing and writes once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_plan::cluster::{Admitted, ObjectKey, PodAnnotations};
use tokio::time::Instant;

/// After that long it is tried again whether admission still changes it.
const GOOD_FOR: Duration = Duration::from_hours(1);

/// Of late.
#[derive(Debug, Default)]
pub struct Admissions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By the app's uid.
    objects: HashMap<String, BTreeMap<ObjectKey, (Instant, Admitted)>>,
    /// What a pod was told in vain, by its uid.
    pods: HashMap<String, (Instant, BTreeMap<String, String>)>,
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
