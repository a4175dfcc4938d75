//! Merges the lists of one kind from several namespaces into one, without waiting for
//! namespaces that cannot be read.
//!
//! Each namespace has its own watch, which lists, reports changes, and lists again whenever it
//! was interrupted. A list of one namespace says nothing about the others: it adds the objects
//! that it names, and removes those of its namespace that it no longer names. The merged list is
//! complete once the watch of each namespace has delivered a list or failed, and at least one
//! watch has delivered a list. With a single watch for all namespaces, the merged list is
//! complete once that watch has delivered its list.
//!
//! Only keys are kept here: the objects are in the store.

use std::collections::HashSet;
use std::hash::Hash;

use kube::runtime::watcher::Event;

/// What an event of one watch means for the merged list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<K, Key> {
    /// Nothing changes yet.
    Nothing,
    /// The object exists; it is new or changed.
    Put(K),
    /// The object no longer exists.
    Gone(K),
    /// A watch has delivered its list, and these objects of its previous list no longer exist.
    Listed(Vec<Key>),
}

/// What one watch has delivered.
#[derive(Debug)]
struct Source<Key> {
    known: HashSet<Key>,
    /// A list that is not complete yet.
    coming: Option<HashSet<Key>>,
    listed: bool,
    failed: bool,
}

/// What all watches of a kind have delivered.
#[derive(Debug)]
pub struct Merged<Key> {
    sources: Vec<Source<Key>>,
}

impl<Key: Hash + Eq + Clone> Merged<Key> {
    /// Starts with `sources` watches that have delivered nothing.
    pub fn new(sources: usize) -> Self {
        let source = || Source {
            known: HashSet::new(),
            coming: None,
            listed: false,
            failed: false,
        };
        Self {
            sources: (0..sources).map(|_| source()).collect(),
        }
    }

    /// Handles an event of the watch number `source`; `key` identifies an object.
    pub fn on<K>(
        &mut self,
        source: usize,
        event: Event<K>,
        key: impl Fn(&K) -> Key,
    ) -> Change<K, Key> {
        let source = &mut self.sources[source];
        match event {
            Event::Init => {
                source.coming = Some(HashSet::new());
                Change::Nothing
            }
            Event::InitApply(object) => {
                let key = key(&object);
                source.coming.get_or_insert_default().insert(key.clone());
                source.known.insert(key);
                Change::Put(object)
            }
            Event::InitDone => {
                source.listed = true;
                let now = source.coming.take().unwrap_or_default();
                let before = std::mem::replace(&mut source.known, now);
                let gone = before.into_iter().filter(|key| !source.known.contains(key));
                Change::Listed(gone.collect())
            }
            Event::Apply(object) => {
                source.known.insert(key(&object));
                Change::Put(object)
            }
            Event::Delete(object) => {
                source.known.remove(&key(&object));
                Change::Gone(object)
            }
        }
    }

    /// Records that a watch failed. It restarts by itself.
    pub fn failed(&mut self, source: usize) {
        self.sources[source].failed = true;
    }

    /// Whether the merged list is complete.
    pub fn is_complete(&self) -> bool {
        let mut sources = self.sources.iter();
        sources.clone().any(|source| source.listed)
            && sources.all(|source| source.listed || source.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Namespace and name with a version.
    type Object = ((usize, u8), u32);
    type Key = (usize, u8);

    /// A cluster, its watches, and the store that they fill.
    struct World {
        merged: Merged<Key>,
        /// The existing objects, by namespace.
        there: Vec<BTreeMap<u8, u32>>,
        /// What each watch has delivered so far of its current list.
        listing: Vec<Option<Vec<Object>>>,
        store: BTreeMap<Key, u32>,
        version: u32,
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// An object is created or changed, while the watch follows or is interrupted.
        Change(usize, u8, bool),
        Remove(usize, u8, bool),
        /// A watch starts a list and abandons its unfinished list.
        Begin(usize),
        /// The watch delivers one more object of its list.
        Give(usize),
        /// The watch delivers the rest and finishes the list.
        Finish(usize),
        Fail(usize),
    }

    impl World {
        fn take(&mut self, source: usize, event: Event<Object>) {
            match self.merged.on(source, event, |(key, _)| *key) {
                Change::Nothing => {}
                Change::Put((key, version)) => drop(self.store.insert(key, version)),
                Change::Gone((key, _)) => drop(self.store.remove(&key)),
                Change::Listed(gone) => self.store.retain(|key, _| !gone.contains(key)),
            }
        }

        fn give(&mut self, source: usize) -> bool {
            let object = self.listing[source].as_mut().and_then(Vec::pop);
            let Some(object) = object else { return false };
            self.take(source, Event::InitApply(object));
            true
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Change(at, name, seen) => {
                    self.version += 1;
                    self.there[at].insert(name, self.version);
                    // A watch reports changes only after its list.
                    if seen && self.listing[at].is_none() {
                        self.take(at, Event::Apply(((at, name), self.version)));
                    }
                }
                Step::Remove(at, name, seen) => {
                    if let Some(version) = self.there[at].remove(&name)
                        && seen
                        && self.listing[at].is_none()
                    {
                        self.take(at, Event::Delete(((at, name), version)));
                    }
                }
                Step::Begin(at) => {
                    let all = self.there[at].iter();
                    let all = all.map(|(name, version)| ((at, *name), *version));
                    self.listing[at] = Some(all.collect());
                    self.take(at, Event::Init);
                }
                Step::Give(at) => {
                    self.give(at);
                }
                Step::Finish(at) => {
                    if self.listing[at].is_none() {
                        return;
                    }
                    while self.give(at) {}
                    self.take(at, Event::InitDone);
                    self.listing[at] = None;
                }
                Step::Fail(at) => self.merged.failed(at),
            }
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = 0..3_usize;
        let name = 0..4_u8;
        prop_oneof![
            (at.clone(), name.clone(), any::<bool>())
                .prop_map(|(at, name, seen)| Step::Change(at, name, seen)),
            (at.clone(), name, any::<bool>())
                .prop_map(|(at, name, seen)| Step::Remove(at, name, seen)),
            at.clone().prop_map(Step::Begin),
            at.clone().prop_map(Step::Give),
            at.clone().prop_map(Step::Finish),
            at.prop_map(Step::Fail),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the watches miss, and in whatever order their lists arrive: once each
        /// has delivered a list, the store contains what exists. A namespace whose watch is
        /// in the middle of a list keeps its previous objects.
        #[test]
        fn lists_that_cross_make_one_store(steps in proptest::collection::vec(step(), 0..60)) {
            let mut world = World {
                merged: Merged::new(3),
                there: vec![BTreeMap::new(); 3],
                listing: vec![None; 3],
                store: BTreeMap::new(),
                version: 0,
            };
            for step in steps {
                let touched = match step {
                    Step::Change(at, ..) | Step::Remove(at, ..) | Step::Begin(at) | Step::Give(at) | Step::Finish(at) | Step::Fail(at) => at,
                };
                let others = |store: &BTreeMap<Key, u32>| -> Vec<(Key, u32)> {
                    let store = store.iter().map(|(key, version)| (*key, *version));
                    store.filter(|((at, _), _)| *at != touched).collect()
                };
                let before = others(&world.store);
                world.step(step);
                prop_assert_eq!(before, others(&world.store));
            }
            for at in 0..3 {
                world.step(Step::Begin(at));
                world.step(Step::Finish(at));
            }
            let there = world.there.iter().enumerate();
            let there: BTreeMap<Key, u32> = there
                .flat_map(|(at, names)| names.iter().map(move |(name, version)| ((at, *name), *version)))
                .collect();
            prop_assert_eq!(&world.store, &there);
            prop_assert!(world.merged.is_complete());
        }
    }

    #[test]
    fn a_namespace_that_cannot_be_read_is_not_waited_for_unless_none_has_a_list() {
        let mut merged: Merged<u8> = Merged::new(2);
        merged.failed(0);
        assert!(!merged.is_complete());
        merged.failed(1);
        assert!(!merged.is_complete(), "nothing is known of any");
        merged.on(1, Event::<u8>::Init, |key| *key);
        assert!(!merged.is_complete());
        merged.on(1, Event::<u8>::InitDone, |key| *key);
        assert!(merged.is_complete());

        let mut alone: Merged<u8> = Merged::new(1);
        alone.failed(0);
        assert!(!alone.is_complete());
        alone.on(0, Event::<u8>::InitDone, |key| *key);
        assert!(alone.is_complete());

        let mut both: Merged<u8> = Merged::new(2);
        both.on(0, Event::<u8>::InitDone, |key| *key);
        assert!(!both.is_complete(), "the other one is only late");
    }
}
