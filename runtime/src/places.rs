//! Which connections of an admin port, or of another port that anybody may reach, may
//! stay, and which one ends when there are too many. Knows neither sockets nor time: what
//! counts is the order in which they came, or have said something last.
//!
//! A new connection is always taken. What makes room is the oldest connection of
//! the source that holds the most, so that one that floods the port ends only its
//! own; of those the oldest that asks for nothing goes first, then the oldest that
//! takes no answer, and a `/watch` stream last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of all sources together.
    pub all: usize,
    /// Of one source address.
    pub source: usize,
    /// Whose answer is on its way, each with its content in memory.
    pub answers: usize,
    /// `/watch` streams.
    pub watches: usize,
    /// `/watch` streams of one source address.
    pub source_watches: usize,
}

/// How far a connection is, in the order in which they give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Its request is not there, or its answer is through.
    Silent,
    /// Its answer is made or on its way.
    Answered,
    /// It reads `/watch`.
    Watching,
}

#[derive(Debug)]
struct Place<H> {
    source: IpAddr,
    stage: Stage,
    handle: H,
}

/// Names a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(u64);

/// Why there is no `/watch` stream for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// Of all sources together.
    InAll,
    /// Of its source.
    OfSource,
}

/// The connections that there are, each with a handle by which it can be ended.
#[derive(Debug)]
pub struct Places<H> {
    bounds: Bounds,
    next: u64,
    taken: BTreeMap<Id, Place<H>>,
    /// Those of each source, in the order in which they give way.
    sources: BTreeMap<IpAddr, BTreeSet<(Stage, Id)>>,
}

impl<H> Places<H> {
    /// None yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next: 0,
            taken: BTreeMap::new(),
            sources: BTreeMap::new(),
        }
    }

    /// The name of the next connection.
    pub fn name(&mut self) -> Id {
        self.next += 1;
        Id(self.next)
    }

    /// Takes a new connection; the one that has to end for it, if any.
    pub fn take(&mut self, id: Id, source: IpAddr, handle: H) -> Option<H> {
        let of_source = self.sources.get(&source).map_or(0, BTreeSet::len);
        let victim = if of_source >= self.bounds.source {
            self.first_of(source)
        } else if self.taken.len() >= self.bounds.all {
            self.first_of_largest()
        } else {
            None
        };
        let ended = victim.and_then(|victim| self.leave(victim));
        let stage = Stage::Silent;
        let place = Place {
            source,
            stage,
            handle,
        };
        self.taken.insert(id, place);
        self.sources.entry(source).or_default().insert((stage, id));
        ended
    }

    /// The connection has said something: its name from now on. Of those that ask for
    /// nothing it gives way last.
    pub fn renew(&mut self, id: Id) -> Id {
        let Some(source) = self.taken.get(&id).map(|place| place.source) else {
            return id;
        };
        let Some(handle) = self.leave(id) else {
            return id;
        };
        let name = self.name();
        // It takes the place that it has just left, so none has to end for it.
        let _nobody = self.take(name, source, handle);
        name
    }

    /// Ends one to get back what it holds, as when descriptors have run out.
    pub(crate) fn make_room(&mut self) -> Option<H> {
        self.first_of_largest()
            .and_then(|victim| self.leave(victim))
    }

    /// The connection has asked for something; the one that has to end since too
    /// many take their answers slowly, if any.
    pub(crate) fn answer(&mut self, id: Id) -> Option<H> {
        self.set(id, Stage::Answered);
        if self.count(|place| place.stage == Stage::Answered) <= self.bounds.answers {
            return None;
        }
        let largest = self.largest(|place| place.stage == Stage::Answered)?;
        let mut places = self.taken.iter();
        let victim = places.find(|(other, place)| {
            **other != id && place.stage == Stage::Answered && place.source == largest
        });
        let victim = *victim?.0;
        self.leave(victim)
    }

    /// The connection has asked for `/watch`.
    pub(crate) fn watch(&mut self, id: Id) -> Result<(), TooMany> {
        let Some(source) = self.taken.get(&id).map(|place| place.source) else {
            return Err(TooMany::InAll);
        };
        let is_watching = |place: &Place<H>| place.stage == Stage::Watching;
        if self.count(|place| is_watching(place) && place.source == source)
            >= self.bounds.source_watches
        {
            return Err(TooMany::OfSource);
        }
        if self.count(is_watching) >= self.bounds.watches {
            return Err(TooMany::InAll);
        }
        self.set(id, Stage::Watching);
        Ok(())
    }

    /// Its answer is through: only its end is awaited.
    pub(crate) fn is_through(&mut self, id: Id) {
        self.set(id, Stage::Silent);
    }

    fn set(&mut self, id: Id, stage: Stage) {
        if let Some(place) = self.taken.get_mut(&id) {
            let of_source = self.sources.entry(place.source).or_default();
            of_source.remove(&(place.stage, id));
            of_source.insert((stage, id));
            place.stage = stage;
        }
    }

    /// The connection is over.
    pub fn leave(&mut self, id: Id) -> Option<H> {
        let place = self.taken.remove(&id)?;
        if let Some(of_source) = self.sources.get_mut(&place.source) {
            of_source.remove(&(place.stage, id));
            if of_source.is_empty() {
                self.sources.remove(&place.source);
            }
        }
        Some(place.handle)
    }

    fn count(&self, is_meant: impl Fn(&Place<H>) -> bool) -> usize {
        self.taken.values().filter(|place| is_meant(place)).count()
    }

    /// The source's connection that gives way first.
    fn first_of(&self, source: IpAddr) -> Option<Id> {
        Some(self.sources.get(&source)?.first()?.1)
    }

    fn first_of_largest(&self) -> Option<Id> {
        let sources = self.sources.values();
        let largest = sources.max_by_key(|of_source| of_source.len())?;
        Some(largest.first()?.1)
    }

    /// The source that holds the most of those that are meant.
    fn largest(&self, is_meant: impl Fn(&Place<H>) -> bool) -> Option<IpAddr> {
        let mut held = HashMap::<IpAddr, usize>::new();
        for place in self.taken.values().filter(|place| is_meant(place)) {
            *held.entry(place.source).or_default() += 1;
        }
        let largest = held
            .into_iter()
            .max_by_key(|(source, count)| (*count, *source));
        largest.map(|(source, _)| source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// With handles that are numbers of arrival, from 1 on.
    fn places() -> Places<u64> {
        Places::new(Bounds {
            all: 6,
            source: 4,
            answers: 2,
            watches: 3,
            source_watches: 2,
        })
    }

    fn take(places: &mut Places<u64>, last: u8) -> (Id, Option<u64>) {
        let id = places.name();
        (id, places.take(id, source(last), id.0))
    }

    #[test]
    fn a_source_that_floods_ends_its_own_oldest_and_nobody_elses() {
        let mut places = places();
        let (probe, _) = take(&mut places, 9);
        for _ in 0..4 {
            assert_eq!(take(&mut places, 1).1, None);
        }
        for ended in 2..100 {
            assert_eq!(take(&mut places, 1).1, Some(ended));
        }
        assert_eq!(
            places.leave(probe),
            Some(1),
            "the first of all is still there"
        );
    }

    #[test]
    fn when_all_is_taken_the_source_with_the_most_gives_way() {
        let mut places = places();
        for last in [1, 2, 2, 2, 3, 3] {
            assert_eq!(take(&mut places, last).1, None);
        }
        assert_eq!(take(&mut places, 4).1, Some(2));
        assert_eq!(places.make_room(), Some(5), "3 holds as many as 2 by now");
    }

    #[test]
    fn who_has_said_something_gives_way_after_those_that_have_not() {
        let mut places = places();
        let ids: Vec<_> = (0..4).map(|_| take(&mut places, 1).0).collect();
        let first = places.renew(ids[0]);
        assert_eq!(take(&mut places, 1).1, Some(2));
        assert_eq!(places.leave(first), Some(1), "it is still there");
        assert_eq!(places.renew(first), first, "and is not any more");
        assert_eq!(places.renew(ids[1]), ids[1]);
        let left: Vec<_> = places.taken.keys().copied().collect();
        for id in left {
            places.leave(id);
        }
        assert!(places.sources.is_empty());
    }

    #[test]
    fn what_is_asked_for_nothing_goes_before_an_answer_and_that_before_a_watch() {
        let mut places = places();
        let (watching, _) = take(&mut places, 1);
        let (answered, _) = take(&mut places, 1);
        let (through, _) = take(&mut places, 1);
        let (_silent, _) = take(&mut places, 1);
        places.watch(watching).unwrap();
        assert_eq!(places.answer(answered), None);
        assert_eq!(places.answer(through), None);
        places.is_through(through);
        assert_eq!(take(&mut places, 1).1, Some(3), "its answer is through");
        assert_eq!(take(&mut places, 1).1, Some(4), "it has said nothing");
        for id in [5, 6] {
            places.answer(Id(id));
        }
        // One of three answers has ended for the third.
        assert_eq!(take(&mut places, 1).1, None);
        let (_, ended) = take(&mut places, 1);
        assert_eq!(ended, Some(7));
        assert_eq!(places.leave(watching), Some(1));
    }

    #[test]
    fn the_oldest_answer_ends_when_too_many_are_taken_slowly() {
        let mut places = places();
        let ids: Vec<_> = [1, 1, 2].map(|last| take(&mut places, last).0).to_vec();
        assert_eq!(places.answer(ids[2]), None);
        assert_eq!(places.answer(ids[0]), None);
        assert_eq!(places.answer(ids[1]), Some(1));
    }

    #[test]
    fn watches_are_bounded_in_all_and_for_each_source() {
        let mut places = places();
        let ids: Vec<_> = [1, 1, 1, 2, 2]
            .map(|last| take(&mut places, last).0)
            .to_vec();
        assert_eq!(places.watch(ids[0]), Ok(()));
        assert_eq!(places.watch(ids[1]), Ok(()));
        assert_eq!(places.watch(ids[2]), Err(TooMany::OfSource));
        assert_eq!(places.watch(ids[3]), Ok(()));
        assert_eq!(places.watch(ids[4]), Err(TooMany::InAll));
        places.leave(ids[0]);
        assert_eq!(places.watch(ids[2]), Ok(()));
        assert_eq!(places.watch(Id(99)), Err(TooMany::InAll), "ended meanwhile");
    }
}
