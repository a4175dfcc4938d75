//! Sources of backends, each of which gives a list, and the combined list.
//!
//! A source is anything that has a [`Sink`]: the flags give their list once; the endpoints
//! file and the watch of `EndpointSlice`s give one whenever it changes. The last good list
//! of a source stays in force until the source gives another one. [`crate::fleet`] decides
//! how backends become endpoints.

use tokio::sync::watch;

use super::backend::Backend;

/// What all sources have given so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing(Vec<Source>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    name: String,
    /// The last good list.
    backends: Option<Vec<Backend>>,
    /// Why there is no newer list.
    problem: Option<String>,
}

impl Listing {
    /// All backends. If two sources name the same address, the source that was added later
    /// wins: flags are the first source, and the others know more than a flag can say.
    pub(crate) fn backends(&self) -> Vec<Backend> {
        let mut backends: Vec<Backend> = Vec::new();
        for backend in self
            .0
            .iter()
            .filter_map(|source| source.backends.as_ref())
            .flatten()
        {
            match backends
                .iter_mut()
                .find(|known| known.address == backend.address)
            {
                Some(known) => known.clone_from(backend),
                None => backends.push(backend.clone()),
            }
        }
        backends
    }

    /// The first source that has not given a list yet, and why.
    pub(crate) fn missing(&self) -> Option<String> {
        let source = self.0.iter().find(|source| source.backends.is_none())?;
        let name = &source.name;
        Some(match &source.problem {
            Some(problem) => format!("no list of endpoints yet: {name}: {problem}"),
            None => format!("no list of endpoints yet: {name} has not been read"),
        })
    }

    /// What is wrong with the sources now, including those that have given a list before.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.0.iter().filter_map(|source| {
            let problem = source.problem.as_ref()?;
            Some(format!("{}: {problem}", source.name))
        });
        problems.collect()
    }
}

/// All sources.
#[derive(Debug, Default)]
pub(crate) struct Discovery(watch::Sender<Listing>);

impl Discovery {
    /// Adds a source. The listing is incomplete until the source gives a list.
    pub(crate) fn source(&self, name: impl Into<String>) -> Sink {
        let mut index = 0;
        self.0.send_modify(|Listing(sources)| {
            index = sources.len();
            sources.push(Source {
                name: name.into(),
                backends: None,
                problem: None,
            });
        });
        Sink {
            index,
            listing: self.0.clone(),
        }
    }

    /// The current listing, and its changes.
    pub(crate) fn listing(&self) -> watch::Receiver<Listing> {
        self.0.subscribe()
    }
}

/// The handle through which a source publishes its list.
#[derive(Debug)]
pub(crate) struct Sink {
    index: usize,
    listing: watch::Sender<Listing>,
}

impl Sink {
    /// Replaces the list.
    pub(crate) fn put(&self, backends: Vec<Backend>) {
        self.update(|source| {
            source.problem = None;
            let changed = source.backends.as_ref() != Some(&backends);
            source.backends = Some(backends);
            changed
        });
    }

    /// Records why there is no newer list; the last one stays in force.
    pub(crate) fn fail(&self, problem: String) {
        self.update(|source| {
            source.problem = Some(problem);
            // The problem is shown in the status, but need not wake tasks that wait for a
            // list.
            false
        });
    }

    /// Whether the source has given a list.
    pub(crate) fn has_list(&self) -> bool {
        let listing = self.listing.borrow();
        let source = listing.0.get(self.index);
        source.is_some_and(|source| source.backends.is_some())
    }

    fn update(&self, change: impl FnOnce(&mut Source) -> bool) {
        self.listing
            .send_if_modified(|listing| listing.0.get_mut(self.index).is_some_and(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str, address: &str) -> Backend {
        Backend {
            name: name.to_owned(),
            ..Backend::at(address.parse().unwrap())
        }
    }

    #[test]
    fn a_listing_is_complete_when_every_source_has_given_one_even_an_empty_one() {
        let discovery = Discovery::default();
        let listing = discovery.listing();
        let (flags, file) = (discovery.source("--upstream"), discovery.source("e.json"));
        flags.put(vec![backend("a", "10.0.0.1:1")]);
        assert!(!file.has_list());
        file.fail("missing".to_owned());
        let missing = listing.borrow().missing().unwrap();
        assert_eq!(missing, "no list of endpoints yet: e.json: missing");
        assert_eq!(listing.borrow().backends(), [backend("a", "10.0.0.1:1")]);
        file.put(Vec::new());
        assert_eq!(listing.borrow().missing(), None);
        assert_eq!(listing.borrow().problems(), [""; 0]);
    }

    #[test]
    fn the_last_good_list_stays_and_an_equal_list_is_no_change() {
        let discovery = Discovery::default();
        let file = discovery.source("e.json");
        let mut listing = discovery.listing();
        file.put(vec![backend("a", "10.0.0.1:1")]);
        assert!(listing.has_changed().unwrap());
        let before = listing.borrow_and_update().backends();
        file.fail("broken".to_owned());
        file.put(before.clone());
        file.fail("broken again".to_owned());
        assert!(!listing.has_changed().unwrap());
        assert_eq!(listing.borrow().backends(), before);
        assert_eq!(listing.borrow().missing(), None);
        assert_eq!(listing.borrow().problems(), ["e.json: broken again"]);
    }

    #[test]
    fn an_address_of_two_sources_is_one_backend_as_the_later_source_describes_it() {
        let discovery = Discovery::default();
        let (flags, file) = (discovery.source("--upstream"), discovery.source("e.json"));
        let address = "10.0.0.1:1".parse().unwrap();
        flags.put(vec![Backend::at(address), backend("b", "10.0.0.2:1")]);
        let known = Backend {
            admin: "10.0.0.1:9377".parse().ok(),
            ..backend("pod-0", "10.0.0.1:1")
        };
        file.put(vec![known.clone()]);
        let backends = discovery.listing().borrow().backends();
        assert_eq!(backends, [known, backend("b", "10.0.0.2:1")]);
    }
}
