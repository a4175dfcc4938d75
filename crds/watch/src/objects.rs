//! Builds the set of existing objects from the events of a watch. Pure.

use std::collections::BTreeMap;

use kube::Resource;
use kube::runtime::watcher::Event;

/// Namespace (empty if the object has none) and name.
pub type Key = (String, String);

/// All objects of a list, as they are now.
#[derive(Debug)]
pub struct Objects<K> {
    all: BTreeMap<Key, K>,
    /// A new list that is not complete yet. Until it is, the previous one is shown.
    coming: Option<BTreeMap<Key, K>>,
    version: u64,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            coming: None,
            version: 0,
        }
    }
}

impl<K> Objects<K> {
    /// The objects, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &K)> {
        self.all.iter()
    }

    /// The newest resource version of any object seen, including deleted ones. Two processes that
    /// have seen the same changes report the same version (versions are ordered since Kubernetes
    /// 1.35).
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl<K: Resource> Objects<K> {
    /// Applies an event. Returns whether the objects changed.
    pub(crate) fn take(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => self.coming = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let (key, object) = self.look(object);
                self.coming.get_or_insert_default().insert(key, object);
            }
            Event::InitDone => {
                self.all = self.coming.take().unwrap_or_default();
                return true;
            }
            Event::Apply(object) => {
                let (key, object) = self.look(object);
                self.all.insert(key, object);
                return true;
            }
            Event::Delete(object) => {
                let (key, _) = self.look(object);
                return self.all.remove(&key).is_some();
            }
        }
        false
    }

    fn look(&mut self, mut object: K) -> (Key, K) {
        let meta = object.meta_mut();
        // Managed fields can be as large as the rest of the object and are not needed.
        meta.managed_fields = None;
        let version = meta.resource_version.as_deref().unwrap_or_default();
        self.version = self.version.max(version.parse().unwrap_or(0));
        let key = (
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        );
        (key, object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("default".to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    fn shown(objects: &Objects<ConfigMap>) -> Vec<String> {
        let all = objects.iter().map(|((_, name), object)| {
            format!(
                "{name}@{}",
                object.metadata.resource_version.as_ref().unwrap()
            )
        });
        all.collect()
    }

    #[test]
    fn a_new_list_replaces_the_old_one_once_it_is_complete() {
        let mut objects = Objects::default();
        assert!(!objects.take(Event::Init));
        assert!(!objects.take(Event::InitApply(object("a", "1"))));
        assert_eq!(shown(&objects), [""; 0]);
        assert!(objects.take(Event::InitDone));
        assert_eq!(shown(&objects), ["a@1"]);
        objects.take(Event::Init);
        objects.take(Event::InitApply(object("b", "7")));
        assert_eq!(shown(&objects), ["a@1"]);
        // The list is interrupted and starts again.
        objects.take(Event::Init);
        objects.take(Event::InitApply(object("c", "8")));
        assert!(objects.take(Event::InitDone));
        assert_eq!(shown(&objects), ["c@8"]);
    }

    #[test]
    fn changes_are_taken_in_one_by_one_and_the_version_never_decreases() {
        let mut objects = Objects::default();
        objects.take(Event::Init);
        assert!(objects.take(Event::InitDone));
        assert!(objects.take(Event::Apply(object("a", "3"))));
        assert!(objects.take(Event::Apply(object("b", "4"))));
        assert!(objects.take(Event::Apply(object("a", "5"))));
        assert_eq!(shown(&objects), ["a@5", "b@4"]);
        assert!(objects.take(Event::Delete(object("a", "9"))));
        assert!(!objects.take(Event::Delete(object("a", "9"))));
        assert_eq!(
            (shown(&objects), objects.version()),
            (vec!["b@4".to_owned()], 9)
        );
    }
}
