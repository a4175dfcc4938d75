//! Where backends come from: sources that each give a list, and the list that they make
//! together.
//!
//! A source is anything that holds a [`Sink`]: flags give their list once, the endpoints
//! file and the watch of `EndpointSlice`s give one whenever it changes. The last good list
//! of a source counts until it gives another one. How backends become endpoints is decided
//! in [`crate::fleet`].

use tokio::sync::watch;

use super::backend::Backend;

/// What all sources have given so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing(Vec<Given>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    source: String,
    /// The last good list.
    backends: Option<Vec<Backend>>,
    /// Why it has no newer one.
    problem: Option<String>,
}

impl Listing {
    /// All backends. Where two sources name one address, the later source counts, because
    /// it knows more than a flag can say.
    pub(crate) fn backends(&self) -> Vec<Backend> {
        let mut backends: Vec<Backend> = Vec::new();
        for backend in self
            .0
            .iter()
            .filter_map(|given| given.backends.as_ref())
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

    /// The first source that has given nothing yet, and why.
    pub(crate) fn missing(&self) -> Option<String> {
        let given = self.0.iter().find(|given| given.backends.is_none())?;
        let source = &given.source;
        Some(match &given.problem {
            Some(problem) => format!("no list of endpoints yet: {source}: {problem}"),
            None => format!("no list of endpoints yet: {source} has not been read"),
        })
    }

    /// What is wrong with the sources now, whether they gave a list before or not.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.0.iter().filter_map(|given| {
            let problem = given.problem.as_ref()?;
            Some(format!("{}: {problem}", given.source))
        });
        problems.collect()
    }
}

/// All sources.
#[derive(Debug, Default)]
pub(crate) struct Discovery(watch::Sender<Listing>);

impl Discovery {
    /// Adds a source. Until it gives a list, the listing is incomplete.
    pub(crate) fn source(&self, name: impl Into<String>) -> Sink {
        let mut place = 0;
        self.0.send_modify(|Listing(given)| {
            place = given.len();
            given.push(Given {
                source: name.into(),
                backends: None,
                problem: None,
            });
        });
        Sink {
            place,
            listing: self.0.clone(),
        }
    }

    /// The listing as it is now, and its changes.
    pub(crate) fn listing(&self) -> watch::Receiver<Listing> {
        self.0.subscribe()
    }
}

/// Where a source puts its list.
#[derive(Debug)]
pub(crate) struct Sink {
    place: usize,
    listing: watch::Sender<Listing>,
}

impl Sink {
    /// Replaces the list.
    pub(crate) fn put(&self, backends: Vec<Backend>) {
        self.update(|given| {
            given.problem = None;
            let changed = given.backends.as_ref() != Some(&backends);
            given.backends = Some(backends);
            changed
        });
    }

    /// Says why there is no newer list; the last one stays.
    pub(crate) fn fail(&self, problem: String) {
        self.update(|given| {
            given.problem = Some(problem);
            // It shows in the status, but need not wake what waits for a list.
            false
        });
    }

    /// Whether it has given a list.
    pub(crate) fn has_list(&self) -> bool {
        let listing = self.listing.borrow();
        let given = listing.0.get(self.place);
        given.is_some_and(|given| given.backends.is_some())
    }

    fn update(&self, change: impl FnOnce(&mut Given) -> bool) {
        self.listing
            .send_if_modified(|listing| listing.0.get_mut(self.place).is_some_and(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str, address: &str) -> Backend {
        Backend {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            admin: None,
            selected: false,
        }
    }

    #[test]
    fn a_listing_is_complete_when_every_source_has_given_one_even_an_empty_one() {
        let discovery = Discovery::default();
        let listing = discovery.listing();
        let (flags, file) = (discovery.source("--upstream"), discovery.source("e.json"));
        flags.put(vec![backend("a", "10.0.0.1:1")]);
        assert!(!file.has_list());
        file.fail("not there".to_owned());
        let missing = listing.borrow().missing().unwrap();
        assert_eq!(missing, "no list of endpoints yet: e.json: not there");
        assert_eq!(listing.borrow().backends(), [backend("a", "10.0.0.1:1")]);
        file.put(Vec::new());
        assert_eq!(listing.borrow().missing(), None);
        assert_eq!(listing.borrow().problems(), [""; 0]);
    }

    #[test]
    fn the_last_good_list_stays_and_the_same_one_is_no_news() {
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
    fn an_address_of_two_sources_is_one_backend_as_the_later_says() {
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
