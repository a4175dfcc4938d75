//! Decides which connection is closed when there are too many connections to an admin port, or to
//! another port that is open to any client. The decision needs neither sockets nor time, only the
//! order in which connections arrived or last sent something.
//!
//! A new connection is always accepted. To make room, a connection of the source with the most
//! connections is closed, so that a source that floods the port costs no other source a
//! connection. Of one source, the oldest connection without a request is closed first, then the
//! oldest one whose answer is being sent, and a stream (`/watch`, `/load`) last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// The limits of the number of connections.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// All connections together.
    pub all: usize,
    /// Connections of one source address.
    pub source: usize,
    /// Connections whose answer is being sent; each holds its content in memory.
    pub answers: usize,
    /// Streams of `/watch` and `/load`.
    pub watches: usize,
    /// Streams of `/watch` and `/load` of one source address.
    pub source_watches: usize,
}

/// The state of a connection, in the order in which connections are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The connection has sent no request yet, or its answer is finished.
    Silent,
    /// The answer to its request is being made or sent.
    Answered,
    /// The connection reads `/watch` or `/load`.
    Watching,
}

#[derive(Debug)]
struct Place<H> {
    source: IpAddr,
    stage: Stage,
    handle: H,
}

/// Identifies a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(u64);

/// Why a connection cannot have a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// There are too many streams in total.
    InAll,
    /// There are too many streams of the connection's source.
    OfSource,
}

/// All connections, each with a handle by which it can be closed.
#[derive(Debug)]
pub struct Places<H> {
    bounds: Bounds,
    next: u64,
    taken: BTreeMap<Id, Place<H>>,
    /// The connections of each source, in the order in which they are closed.
    sources: BTreeMap<IpAddr, BTreeSet<(Stage, Id)>>,
}

impl<H> Places<H> {
    /// Starts without connections.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next: 0,
            taken: BTreeMap::new(),
            sources: BTreeMap::new(),
        }
    }

    /// Returns an id for a new connection.
    pub fn name(&mut self) -> Id {
        self.next += 1;
        Id(self.next)
    }

    /// Adds a new connection; returns the one that must be closed for it, if any.
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

    /// Records that the connection has sent something, and returns its new id. Among the
    /// connections without a request, it is now the last to be closed.
    pub fn renew(&mut self, id: Id) -> Id {
        let Some(source) = self.taken.get(&id).map(|place| place.source) else {
            return id;
        };
        let Some(handle) = self.leave(id) else {
            return id;
        };
        let name = self.name();
        // The connection was removed just now, so there is room for it and no other connection has
        // to be closed.
        let _nobody = self.take(name, source, handle);
        name
    }

    /// Removes a connection that the caller closes to free its resources, for example when
    /// descriptors have run out. Returns its handle.
    pub(crate) fn make_room(&mut self) -> Option<H> {
        self.first_of_largest()
            .and_then(|victim| self.leave(victim))
    }

    /// Records that the connection has sent a request. Returns the connection that must be closed,
    /// if too many answers are being sent at the same time.
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

    /// Records that the connection has requested `/watch` or `/load`.
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

    /// Records that the connection's answer is finished, so that only the end of the connection is
    /// awaited.
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

    /// Removes a connection that has ended, or that the caller closes. Returns its handle.
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

    /// The source's connection that is closed first.
    fn first_of(&self, source: IpAddr) -> Option<Id> {
        Some(self.sources.get(&source)?.first()?.1)
    }

    fn first_of_largest(&self) -> Option<Id> {
        let sources = self.sources.values();
        let largest = sources.max_by_key(|of_source| of_source.len())?;
        Some(largest.first()?.1)
    }

    /// The source with the most connections for which `is_meant` holds.
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

    /// Places whose handles count the arrivals from 1.
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
    fn a_source_that_floods_the_port_closes_only_its_own_oldest() {
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
    fn when_all_places_are_taken_the_source_with_the_most_loses_one() {
        let mut places = places();
        for last in [1, 2, 2, 2, 3, 3] {
            assert_eq!(take(&mut places, last).1, None);
        }
        assert_eq!(take(&mut places, 4).1, Some(2));
        assert_eq!(places.make_room(), Some(5), "3 holds as many as 2 by now");
    }

    #[test]
    fn a_connection_that_has_sent_something_is_closed_after_silent_ones() {
        let mut places = places();
        let ids: Vec<_> = (0..4).map(|_| take(&mut places, 1).0).collect();
        let first = places.renew(ids[0]);
        assert_eq!(take(&mut places, 1).1, Some(2));
        assert_eq!(places.leave(first), Some(1), "it is still there");
        assert_eq!(places.renew(first), first, "and is gone now");
        assert_eq!(places.renew(ids[1]), ids[1]);
        let left: Vec<_> = places.taken.keys().copied().collect();
        for id in left {
            places.leave(id);
        }
        assert!(places.sources.is_empty());
    }

    #[test]
    fn silent_connections_are_closed_before_answers_and_answers_before_watches() {
        let mut places = places();
        let (watching, _) = take(&mut places, 1);
        let (answered, _) = take(&mut places, 1);
        let (through, _) = take(&mut places, 1);
        let (_silent, _) = take(&mut places, 1);
        places.watch(watching).unwrap();
        assert_eq!(places.answer(answered), None);
        assert_eq!(places.answer(through), None);
        places.is_through(through);
        assert_eq!(take(&mut places, 1).1, Some(3), "its answer is finished");
        assert_eq!(take(&mut places, 1).1, Some(4), "it has sent nothing");
        for id in [5, 6] {
            places.answer(Id(id));
        }
        // One of three answers was closed for the third one.
        assert_eq!(take(&mut places, 1).1, None);
        let (_, ended) = take(&mut places, 1);
        assert_eq!(ended, Some(7));
        assert_eq!(places.leave(watching), Some(1));
    }

    #[test]
    fn the_oldest_answer_is_closed_when_too_many_are_read_slowly() {
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
        assert_eq!(
            places.watch(Id(99)),
            Err(TooMany::InAll),
            "closed in the meantime"
        );
    }
}
