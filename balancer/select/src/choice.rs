//! Which endpoint gets a request.
//!
//! The choice depends on what is visible of each endpoint at this moment and, with some
//! algorithms, on the client, on the previous choice or on chance. Health is not an input of the
//! algorithms: it only decides which endpoints may be chosen at all.

use std::cmp::Ordering;
use std::net::IpAddr;

use crate::busyness::effective_load;
use crate::candidate::{Best, Candidate};
use crate::survey::{ROOM, Survey};

/// How one endpoint is chosen among those that may get a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// The least busy endpoint of all. This is right where the counts are exact, as they
    /// are inside a pod.
    LeastOfAll,
    /// The less busy of two random endpoints. A balancer knows only its own requests and
    /// late reports; with this choice several balancers do not all turn to the same
    /// endpoint.
    #[default]
    LeastOfTwo,
    /// Each endpoint in turn.
    RoundRobin,
    /// A random endpoint.
    Random,
    /// The same endpoint for the same client address, while that endpoint may be chosen (highest
    /// random weight).
    Hash,
}

/// What an algorithm that takes turns remembers from one choice to the next.
#[derive(Debug, Default)]
pub struct Cursor(usize);

/// Draws of two endpoints until both may be chosen. Only an endpoint that has changed since the
/// last survey, or at which the request has failed, makes a draw fail.
const MAX_DRAWS: usize = 4;
/// How often an algorithm that does not look at load passes over new endpoints for one request.
const MAX_PASSES: usize = 8;

/// What a choice depends on, apart from the endpoints.
#[derive(Debug)]
pub struct Chooser<'a> {
    /// Which algorithm chooses.
    pub algorithm: Algorithm,
    /// The last survey of the same endpoints.
    pub survey: &'a Survey,
    /// The client's address.
    pub client: IpAddr,
    /// What the algorithm remembers.
    pub cursor: &'a mut Cursor,
    /// Chance.
    pub random: &'a mut fastrand::Rng,
}

impl Chooser<'_> {
    /// Chooses an endpoint; `see` returns the candidate at an index. Returns the index, or
    /// `None` if no endpoint may be chosen.
    pub fn choose(&mut self, see: impl Fn(usize) -> Candidate) -> Option<usize> {
        match self.algorithm {
            Algorithm::LeastOfAll => self.least_of_all(&see),
            Algorithm::LeastOfTwo => self
                .least_of_local(&see)
                .or_else(|| Some(self.draw(&self.survey.serving, &see)?.both?.0))
                .or_else(|| self.least_of_scanned(&see)),
            Algorithm::RoundRobin | Algorithm::Random => {
                let local = |at| {
                    let seen = see(at);
                    Candidate {
                        tried: seen.tried || !seen.is_local,
                        ..seen
                    }
                };
                let stays = self.survey.local_has_room();
                let chosen = stays.then(|| self.blind(&local, true)).flatten();
                chosen.or_else(|| self.blind(&see, false))
            }
            Algorithm::Hash => {
                let count = self.survey.count();
                let best = Best::of(count, &see)?;
                let all = (0..count).filter(|at| best.contains(see(*at)));
                all.max_by_key(|at| weight(client_hash(self.client), see(*at).key))
            }
        }
    }

    fn least_of_all(&mut self, see: &impl Fn(usize) -> Candidate) -> Option<usize> {
        let count = self.survey.count();
        let best = Best::of(count, see)?;
        // Starts after the last choice, so that ties are broken in turn. If the start advanced
        // by one instead, the turns of a busy endpoint would all go to its neighbour.
        let start = self.cursor.0.wrapping_add(1) % count;
        let around = (start..count).chain(0..start);
        let chance = self.chance();
        let all = around.map(|at| (at, see(at)));
        let all = all.filter(|(_, seen)| best.contains(*seen));
        let chosen = all.reduce(|best, other| {
            let load = |seen: Seen| effective_load(seen.1, self.survey, chance);
            let is_better = match load(other).cmp(&load(best)) {
                Ordering::Less => true,
                Ordering::Equal => other.1.is_livelier(best.1),
                Ordering::Greater => false,
            };
            if is_better { other } else { best }
        });
        self.cursor.0 = chosen?.0;
        Some(self.cursor.0)
    }

    /// An endpoint of the proxy's own zone; if that is busy, an endpoint elsewhere that is less
    /// busy. `None` if there is no preference, or if nothing in the zone may be chosen.
    fn least_of_local(&mut self, see: &impl Fn(usize) -> Candidate) -> Option<usize> {
        if !self.survey.prefers_local() {
            return None;
        }
        let (near, seen) = self.draw(&self.survey.local, see)?.any()?;
        if self.survey.local_has_room() || seen.load < ROOM {
            return Some(near);
        }
        let far = self.draw(&self.survey.others, see).and_then(Draw::any);
        // A small difference is not worth the way, and may be over before the request arrives.
        let spills = |far: &(usize, Candidate)| far.1.load * 5 < seen.load * 4;
        Some(far.filter(spills).map_or(near, |far| far.0))
    }

    /// The less busy of two random endpoints of `among`.
    fn draw(&mut self, among: &[u32], see: &impl Fn(usize) -> Candidate) -> Option<Draw> {
        let at = |index: usize| {
            let at = among[index] as usize;
            (at, see(at))
        };
        let is_free = |seen: Candidate| seen.serves() && !seen.full;
        if among.len() < 2 {
            let only = (among.len() == 1).then(|| at(0))?;
            let one = is_free(only.1).then_some(only);
            // There is no second one, so the only one is the less busy of all.
            return Some(Draw { both: one, one });
        }
        let mut one = None;
        for _ in 0..MAX_DRAWS {
            let first = self.random.usize(..among.len());
            // The two are always different endpoints.
            let second = (first + self.random.usize(1..among.len())) % among.len();
            let (first, second) = (at(first), at(second));
            match (is_free(first.1), is_free(second.1)) {
                (true, true) => {
                    let both = Some(self.less_busy(first, second));
                    return Some(Draw { both, one: both });
                }
                (true, false) => one = Some(first),
                (false, true) => one = Some(second),
                (false, false) => {}
            }
        }
        Some(Draw { both: None, one })
    }

    /// As [`Self::draw`], among all endpoints of the best tier, however few they are.
    fn least_of_scanned(&mut self, see: &impl Fn(usize) -> Candidate) -> Option<usize> {
        let count = self.survey.count();
        let best = Best::of(count, see)?;
        let nth = |n: usize| {
            let all = (0..count).map(|at| (at, see(at)));
            all.filter(|(_, seen)| best.contains(*seen)).nth(n)
        };
        let first = self.random.usize(..best.count);
        if best.count == 1 {
            return Some(nth(0)?.0);
        }
        let second = (first + self.random.usize(1..best.count)) % best.count;
        Some(self.less_busy(nth(first)?, nth(second)?).0)
    }

    fn less_busy(&mut self, first: Seen, second: Seen) -> Seen {
        let chance = self.chance();
        let load = |seen: Seen| effective_load(seen.1, self.survey, chance);
        if load(second) < load(first) {
            second
        } else {
            first
        }
    }

    /// Round robin and random: any endpoint of the best tier. The share of a new endpoint is the
    /// probability that it is not passed over; the survey's bound keeps the others from too much
    /// work.
    fn blind(&mut self, see: &impl Fn(usize) -> Candidate, only_serving: bool) -> Option<usize> {
        let count = self.survey.count();
        let best = Best::of(count, see)?;
        if only_serving && best.tier > 0 {
            return None;
        }
        let mut chosen = None;
        for _ in 0..MAX_PASSES {
            let n = if self.algorithm == Algorithm::RoundRobin {
                self.cursor.0 = self.cursor.0.wrapping_add(1);
                self.cursor.0 % best.count
            } else {
                self.random.usize(..best.count)
            };
            let all = (0..count).map(|at| (at, see(at)));
            let (at, seen) = all.filter(|(_, seen)| best.contains(*seen)).nth(n)?;
            chosen = Some(at);
            if !self.survey.has_new() || self.chance() < self.survey.share(seen) {
                break;
            }
        }
        chosen
    }

    /// A random number below 1000. If all endpoints are equally warm it is 0, so that none is
    /// passed over.
    fn chance(&mut self) -> u64 {
        if self.survey.has_new() {
            self.random.u64(..1000)
        } else {
            0
        }
    }
}

/// An endpoint by its index, as it was seen.
type Seen = (usize, Candidate);

/// What was drawn.
struct Draw {
    /// The less busy of two that may be chosen, or the only one of the list.
    both: Option<Seen>,
    /// One that may be chosen.
    one: Option<Seen>,
}

impl Draw {
    fn any(self) -> Option<Seen> {
        self.both.or(self.one)
    }
}

/// The hash of a client's address, for [`Algorithm::Hash`] and for [`crate::Preference`].
pub fn client_hash(client: IpAddr) -> u64 {
    let client = match client {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    (client as u64) ^ ((client >> 64) as u64).rotate_left(32)
}

/// The weight of an endpoint for a client's hash, the same in every run and on every balancer
/// (rendezvous hashing): when an endpoint is removed, only its own clients move to other
/// endpoints.
pub(crate) fn weight(hash: u64, key: u64) -> u64 {
    // The finalizer of splitmix64: each input bit changes about half of the output bits.
    let mut bits = hash ^ key;
    for multiplier in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb_u64] {
        bits = (bits ^ (bits >> 30)).wrapping_mul(multiplier);
    }
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod zone_tests;
