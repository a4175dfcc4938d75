//! The state of the watches: which lists are still missing, and in which namespace. This state
//! decides when the operator counts as ready, and which namespaces' apps it may reconcile.
//!
//! If the watched namespaces are named, a namespace that cannot be read (it does not exist, or its
//! Role is missing) does not block the others; `/status` names it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A kind, and a namespace if each namespace has its own watch.
type Key = (Option<String>, &'static str);

/// The state of the watches.
#[derive(Debug, Default)]
pub struct Health {
    watches: Mutex<BTreeMap<Key, Watch>>,
}

#[derive(Debug)]
struct Watch {
    /// The watch has delivered a list once, or is optional and has failed.
    synced: bool,
    /// Passes do not wait for this watch once it has failed.
    optional: bool,
    error: Option<String>,
    last: Instant,
}

/// The state of a watched namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// All lists of the namespace are complete.
    Synced,
    /// Some first lists of the namespace are still missing.
    Waiting,
    /// Why the namespace cannot be read.
    Failing(String),
}

impl Health {
    fn watches(&self) -> MutexGuard<'_, BTreeMap<Key, Watch>> {
        // Each change is one call: a panic leaves nothing half done.
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, kind: &'static str, scope: Option<&str>, change: impl FnOnce(&mut Watch)) {
        let mut watches = self.watches();
        let key = (scope.map(ToOwned::to_owned), kind);
        change(watches.entry(key).or_insert_with(|| Watch {
            synced: false,
            optional: false,
            error: None,
            last: Instant::now(),
        }));
    }

    /// Records that a watch of this kind starts.
    pub fn begins(&self, kind: &'static str, scope: Option<&str>) {
        self.note(kind, scope, |_| {});
    }

    /// Like [`Self::begins`], for a kind without which a pass can still be made.
    pub fn begins_optional(&self, kind: &'static str, scope: Option<&str>) {
        self.note(kind, scope, |watch| watch.optional = true);
    }

    /// Whether passes can do without this kind.
    pub(crate) fn is_optional(&self, kind: &str) -> bool {
        let watches = self.watches();
        let mut of_it = watches.iter().filter(|((_, of), _)| *of == kind);
        of_it.any(|(_, watch)| watch.optional)
    }

    /// Records that the watch delivered something; `listed` is true if that was the end of
    /// a list.
    pub fn brought(&self, kind: &'static str, scope: Option<&str>, listed: bool) {
        self.note(kind, scope, |watch| {
            watch.synced |= listed;
            watch.error = None;
            watch.last = Instant::now();
        });
    }

    /// Records that the watch failed and restarts. Returns whether the error is new. A watch that
    /// RBAC does not allow is retried without end.
    pub fn failed(&self, kind: &'static str, scope: Option<&str>, error: String) -> bool {
        let mut is_news = false;
        self.note(kind, scope, |watch| {
            is_news = watch.error.as_ref() != Some(&error);
            watch.synced |= watch.optional;
            watch.error = Some(error);
        });
        is_news
    }

    /// Whether all lists that are needed for decisions about the apps of this namespace are
    /// complete. Before that, unknown objects would count as missing.
    pub fn knows(&self, namespace: &str) -> bool {
        let watches = self.watches();
        let mut concerned = watches
            .iter()
            .filter(|((scope, _), _)| scope.as_ref().is_none_or(|scope| scope == namespace));
        concerned.all(|(_, watch)| watch.synced)
    }

    /// What the operator still waits for before it is ready; `None` if it waits for no list.
    pub fn unsynced(&self) -> Option<String> {
        let watches = self.watches();
        let namespaces: BTreeSet<&String> = watches
            .keys()
            .filter_map(|(scope, _)| scope.as_ref())
            .collect();
        let states = namespaces.iter().map(|scope| state(&watches, Some(scope)));
        let states: Vec<State> = states.collect();
        let everywhere = state(&watches, None);
        let is_there = states.is_empty() || states.contains(&State::Synced);
        let is_awaited = states.contains(&State::Waiting);
        if everywhere == State::Synced && is_there && !is_awaited {
            return None;
        }
        let mut unsynced: Vec<_> = watches.iter().filter(|(_, watch)| !watch.synced).collect();
        unsynced.sort_by_key(|(_, watch)| watch.error.is_none());
        unsynced.first().map(|(key, watch)| reason(key, watch))
    }

    /// The namespaces that are watched by name, each with its state.
    pub(crate) fn namespaces(&self) -> Vec<(String, State)> {
        let watches = self.watches();
        let names: BTreeSet<&String> = watches
            .keys()
            .filter_map(|(scope, _)| scope.as_ref())
            .collect();
        let named = |name: &&String| ((*name).clone(), state(&watches, Some(name)));
        names.iter().map(named).collect()
    }

    /// How long the quietest watch of each kind has delivered nothing.
    pub(crate) fn ages(&self) -> Vec<(&'static str, Duration)> {
        let mut ages = BTreeMap::new();
        for ((_, kind), watch) in self.watches().iter() {
            let age: &mut Duration = ages.entry(*kind).or_default();
            *age = watch.last.elapsed().max(*age);
        }
        ages.into_iter().collect()
    }
}

fn state(watches: &BTreeMap<Key, Watch>, scope: Option<&String>) -> State {
    let mut unsynced = watches
        .iter()
        .filter(|((of, _), watch)| of.as_ref() == scope && !watch.synced)
        .peekable();
    if unsynced.peek().is_none() {
        return State::Synced;
    }
    let failing = unsynced.find(|(_, watch)| watch.error.is_some());
    failing.map_or(State::Waiting, |(key, watch)| {
        State::Failing(reason(key, watch))
    })
}

fn reason((scope, kind): &Key, watch: &Watch) -> String {
    let place = scope.as_ref().map(|scope| format!(" in namespace {scope}"));
    let place = place.unwrap_or_default();
    match &watch.error {
        Some(error) => format!("cannot list {kind}{place}: {error}"),
        None => format!("waiting for the first list of {kind}{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_one_watch_for_all_namespaces_every_list_is_awaited() {
        let health = Health::default();
        health.begins("Pods", None);
        health.begins("Nodes", None);
        health.brought("Nodes", None, true);
        let reason = health.unsynced().unwrap();
        assert!(reason.contains("first list of Pods"), "{reason}");
        assert!(health.failed("Pods", None, "forbidden".to_owned()));
        assert!(!health.failed("Pods", None, "forbidden".to_owned()));
        let reason = health.unsynced().unwrap();
        assert_eq!(reason, "cannot list Pods: forbidden");
        assert!(!health.knows("any"));
        health.brought("Pods", None, true);
        assert_eq!(health.unsynced(), None);
        assert!(health.knows("any"));
        // A list that was delivered once still counts.
        assert!(health.failed("Pods", None, "away".to_owned()));
        assert_eq!(health.unsynced(), None);
        assert!(health.knows("any") && health.namespaces().is_empty());
    }

    #[test]
    fn a_namespace_that_cannot_be_read_stops_no_other_and_is_named() {
        let health = Health::default();
        health.begins("Nodes", None);
        for kind in ["Pods", "Services"] {
            for namespace in ["a", "b"] {
                health.begins(kind, Some(namespace));
            }
        }
        health.brought("Nodes", None, true);
        health.brought("Pods", Some("a"), true);
        health.brought("Services", Some("a"), true);
        let reason = health.unsynced().unwrap();
        assert!(reason.contains("in namespace b"), "{reason}");
        assert!(health.knows("a") && !health.knows("b"));
        health.brought("Pods", Some("b"), true);
        health.failed("Services", Some("b"), "forbidden".to_owned());
        assert_eq!(health.unsynced(), None);
        assert!(health.knows("a") && !health.knows("b"));
        let failing = "cannot list Services in namespace b: forbidden".to_owned();
        let expected = [
            ("a".to_owned(), State::Synced),
            ("b".to_owned(), State::Failing(failing)),
        ];
        assert_eq!(health.namespaces(), expected);
        health.brought("Services", Some("b"), true);
        assert!(health.knows("b"));
    }

    #[test]
    fn an_optional_list_is_awaited_until_it_fails() {
        let health = Health::default();
        health.begins("Pods", None);
        health.begins_optional("HorizontalPodAutoscalers", None);
        health.brought("Pods", None, true);
        assert!(!health.knows("any") && health.unsynced().is_some());
        assert!(health.failed("HorizontalPodAutoscalers", None, "forbidden".to_owned()));
        assert!(health.knows("any") && health.unsynced().is_none());
    }

    #[test]
    fn without_any_readable_namespace_the_operator_is_not_ready() {
        let health = Health::default();
        health.begins("Pods", Some("a"));
        health.failed("Pods", Some("a"), "forbidden".to_owned());
        let reason = health.unsynced().unwrap();
        assert_eq!(reason, "cannot list Pods in namespace a: forbidden");
    }
}
