//! Which endpoint gets a request.
//!
//! The choice depends on what is visible of each endpoint at this moment and, with some
//! algorithms, on the client, on the previous choice or on chance. Health is not an input of the
//! algorithms: it only decides which endpoints may be chosen at all.

use std::net::IpAddr;
use std::time::Duration;

use scaledapp_units::Fnv1a;

use crate::standing::Standing;

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

/// What is visible of an endpoint at the time of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Unique and stable, for [`Algorithm::Hash`]; see [`key`].
    pub key: u64,
    /// The same on every balancer for the same pod; inside a pod, the same for the same slot. See
    /// [`tag`].
    pub tag: u64,
    /// What its owner knows of it.
    pub standing: Standing,
    /// It is ejected for a while because of its failures.
    pub ejected: bool,
    /// This request has already failed there, or the endpoint takes no new requests.
    pub tried: bool,
    /// It has as many requests in flight as it may have.
    pub full: bool,
    /// Requests in flight divided by its capacity, in thousandths.
    pub load: u64,
    /// When it last sent something, on the process's clock.
    pub heard: Duration,
}

impl Candidate {
    /// An idle endpoint that serves, for tests.
    #[cfg(test)]
    pub(crate) const FINE: Self = Self {
        key: 0,
        tag: 0,
        standing: Standing::Serving,
        ejected: false,
        tried: false,
        full: false,
        load: 0,
        heard: Duration::ZERO,
    };

    /// How good a choice this endpoint is (lower is better), or `None` if it may not be
    /// chosen. `all_unknown` says whether the standing of all endpoints is unknown. If it is,
    /// this proxy probably cannot reach their admin ports. That none of them belongs to the app
    /// is less likely, so unknown endpoints then count as suspect.
    fn tier(self, all_unknown: bool) -> Option<u8> {
        if self.tried {
            return None;
        }
        match (self.standing, self.ejected) {
            (Standing::Serving, false) => Some(0),
            // Fail open: the proxy's judgement of an endpoint may be wrong, and an error
            // answer from the proxy certainly does not help the client.
            (Standing::Suspect, false) => Some(1),
            (Standing::Serving | Standing::Suspect, true) => Some(2),
            (Standing::Draining, _) => Some(3),
            (Standing::Unknown, ejected) if all_unknown => Some(if ejected { 2 } else { 1 }),
            (Standing::Unready | Standing::Unknown, _) => None,
        }
    }

    /// Whether to prefer this endpoint to the other one. Of two equally busy endpoints, the one
    /// that sent something more recently is certainly working; the other may be blocked. An
    /// endpoint without requests has nothing to send, so its silence says nothing.
    fn is_less_busy(self, than: Self) -> bool {
        let is_livelier = self.load > 0 && self.heard > than.heard;
        self.load < than.load || (self.load == than.load && is_livelier)
    }
}

/// What an algorithm that takes turns remembers from one choice to the next.
#[derive(Debug, Default)]
pub struct Cursor(usize);

/// Chooses one of `count` endpoints; `see` returns the candidate at an index. Returns the
/// index, or `None` if no endpoint may be chosen.
pub fn choose(
    algorithm: Algorithm,
    count: usize,
    see: impl Fn(usize) -> Candidate,
    client: IpAddr,
    cursor: &mut Cursor,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    let best = Best::of(count, &see)?;
    let eligible = best.count;
    let is_free = |seen: Candidate| best.contains(seen);
    let is_best = |at: &usize| is_free(see(*at));
    let nth = |n: usize| (0..count).filter(is_best).nth(n);
    match algorithm {
        Algorithm::LeastOfAll => {
            // Starts after the last choice, so that ties are broken in turn. If the start
            // advanced by one instead, the turns of a busy endpoint would all go to its
            // neighbour.
            let start = cursor.0.wrapping_add(1) % count;
            let around = (start..count).chain(0..start);
            let seen = around.map(|at| (at, see(at)));
            let best = seen
                .filter(|(_, seen)| is_free(*seen))
                .reduce(|best, other| {
                    if other.1.is_less_busy(best.1) {
                        other
                    } else {
                        best
                    }
                });
            let chosen = best?.0;
            cursor.0 = chosen;
            Some(chosen)
        }
        Algorithm::LeastOfTwo => {
            let first = random.usize(..eligible);
            if eligible == 1 {
                return nth(0);
            }
            // The two are always different endpoints.
            let second = (first + random.usize(1..eligible)) % eligible;
            let (first, second) = (nth(first)?, nth(second)?);
            Some(if see(second).load < see(first).load {
                second
            } else {
                first
            })
        }
        Algorithm::RoundRobin => {
            cursor.0 = cursor.0.wrapping_add(1);
            nth(cursor.0 % eligible)
        }
        Algorithm::Random => nth(random.usize(..eligible)),
        Algorithm::Hash => (0..count)
            .filter(is_best)
            .max_by_key(|at| weight(client_hash(client), see(*at).key)),
    }
}

/// The endpoints among which an algorithm chooses.
pub(crate) struct Best {
    /// See [`Candidate::tier`].
    tier: u8,
    all_unknown: bool,
    /// The number of these endpoints.
    pub(crate) count: usize,
}

impl Best {
    /// `None` if no endpoint may be chosen.
    pub(crate) fn of(count: usize, see: &impl Fn(usize) -> Candidate) -> Option<Self> {
        let mut all = (0..count).map(see);
        let all_unknown = all.all(|seen| seen.standing == Standing::Unknown);
        let all = (0..count).map(see);
        let (tier, eligible) = all.fold((u8::MAX, 0), |(best, eligible), seen| {
            let Some(tier) = seen.tier(all_unknown) else {
                return (best, eligible);
            };
            // A full endpoint still rules out worse tiers: it will soon have room again.
            let free = usize::from(!seen.full);
            match tier.cmp(&best) {
                std::cmp::Ordering::Less => (tier, free),
                std::cmp::Ordering::Equal => (best, eligible + free),
                std::cmp::Ordering::Greater => (best, eligible),
            }
        });
        (eligible > 0).then_some(Self {
            tier,
            all_unknown,
            count: eligible,
        })
    }

    pub(crate) fn contains(&self, seen: Candidate) -> bool {
        seen.tier(self.all_unknown) == Some(self.tier) && !seen.full
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

/// The tag of an endpoint (FNV-1a of its name, cut to 40 bits): a pod's name is unique, and a
/// worker's is the number of its slot.
pub fn tag(name: &str) -> u64 {
    Fnv1a::default().with(name.bytes()).get() >> 24
}

/// The key of an endpoint for [`Algorithm::Hash`]. It is made of the address alone
/// (FNV-1a), so that every balancer computes the same key.
pub fn key(address: std::net::SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let bytes = ip.octets().into_iter().chain(address.port().to_be_bytes());
    Fnv1a::default().with(bytes).get()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;

    const FINE: Candidate = Candidate::FINE;
    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ALL: [Algorithm; 5] = [
        Algorithm::LeastOfAll,
        Algorithm::LeastOfTwo,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::Hash,
    ];

    fn times(
        algorithm: Algorithm,
        endpoints: &[Candidate],
        times: usize,
    ) -> BTreeMap<usize, usize> {
        let mut cursor = Cursor::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut chosen = BTreeMap::new();
        for _ in 0..times {
            let see = |at: usize| endpoints[at];
            let at = choose(
                algorithm,
                endpoints.len(),
                see,
                CLIENT,
                &mut cursor,
                &mut random,
            );
            *chosen.entry(at.unwrap()).or_default() += 1;
        }
        chosen
    }

    #[test]
    fn an_empty_list_gives_no_choice() {
        for algorithm in ALL {
            for endpoints in [
                &[][..],
                &[Candidate {
                    tried: true,
                    ..FINE
                }],
                &[Candidate {
                    standing: Standing::Unready,
                    ..FINE
                }],
            ] {
                let mut random = fastrand::Rng::with_seed(7);
                let see = |at: usize| endpoints[at];
                let cursor = &mut Cursor::default();
                assert_eq!(
                    choose(algorithm, endpoints.len(), see, CLIENT, cursor, &mut random),
                    None
                );
            }
        }
    }

    #[test]
    fn the_best_tier_is_taken_by_every_algorithm() {
        let ladder = [
            Candidate {
                standing: Standing::Draining,
                ..FINE
            },
            Candidate {
                ejected: true,
                ..FINE
            },
            Candidate {
                standing: Standing::Suspect,
                ..FINE
            },
            Candidate {
                load: 1_000_000,
                ..FINE
            },
        ];
        for algorithm in ALL {
            for best in 1..=ladder.len() {
                let chosen = times(algorithm, &ladder[..best], 50);
                assert_eq!(
                    chosen.keys().copied().collect::<Vec<_>>(),
                    [best - 1],
                    "{algorithm:?}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_endpoint_is_chosen_only_if_all_are_unknown() {
        let unknown = Candidate {
            standing: Standing::Unknown,
            ..FINE
        };
        let ejected = Candidate {
            ejected: true,
            ..unknown
        };
        for algorithm in ALL {
            let chosen = times(algorithm, &[ejected, unknown], 50);
            assert_eq!(chosen, BTreeMap::from([(1, 50)]), "{algorithm:?}");
            // An unknown endpoint is not chosen even while the app itself cannot serve,
            // because any program may answer at its address.
            for standing in [Standing::Unready, Standing::Draining, Standing::Suspect] {
                for tried in [false, true] {
                    let known = Candidate {
                        standing,
                        tried,
                        ..FINE
                    };
                    let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(7));
                    let see = |at: usize| [unknown, known][at];
                    let chosen = choose(algorithm, 2, see, CLIENT, &mut cursor, &mut random);
                    assert_ne!(chosen, Some(0), "{algorithm:?} {standing:?} {tried}");
                }
            }
        }
    }

    #[test]
    fn ties_are_broken_in_turn() {
        for algorithm in [Algorithm::LeastOfAll, Algorithm::RoundRobin] {
            for count in 1..=5 {
                let chosen = times(algorithm, &vec![FINE; count], 60);
                assert!(
                    chosen.values().all(|&times| times == 60 / count),
                    "{algorithm:?} {chosen:?}"
                );
            }
        }
        let chosen = times(Algorithm::LeastOfTwo, &[FINE; 4], 4000);
        assert!(
            chosen.values().all(|times| (900..1100).contains(times)),
            "{chosen:?}"
        );
    }

    #[test]
    fn the_turns_of_a_busy_endpoint_go_to_all_others() {
        let busy = Candidate { load: 1, ..FINE };
        let chosen = times(Algorithm::LeastOfAll, &[FINE, busy, FINE, FINE], 90);
        assert_eq!(chosen, BTreeMap::from([(0, 30), (2, 30), (3, 30)]));
    }

    #[test]
    fn least_of_all_takes_the_least_busy_and_least_of_two_never_the_busiest() {
        let loads = |loads: &[u64]| -> Vec<Candidate> {
            loads
                .iter()
                .map(|&load| Candidate { load, ..FINE })
                .collect()
        };
        let chosen = times(Algorithm::LeastOfAll, &loads(&[3, 1, 2, 1]), 100);
        assert_eq!(chosen, BTreeMap::from([(1, 50), (3, 50)]));
        let chosen = times(Algorithm::LeastOfTwo, &loads(&[3, 1, 2, 9]), 1000);
        assert!(!chosen.contains_key(&3), "{chosen:?}");
        assert!(
            chosen[&1] > chosen[&2] && chosen[&2] > chosen[&0],
            "{chosen:?}"
        );
    }

    fn busy(load: u64, heard: u64) -> Candidate {
        Candidate {
            load,
            heard: Duration::from_millis(heard),
            ..FINE
        }
    }

    #[test]
    fn of_equally_busy_endpoints_a_silent_one_gets_nothing() {
        for (endpoints, expected) in [
            // The blocked endpoint sent its last answer before it was blocked.
            (vec![busy(1, 1000), busy(1, 1300)], vec![1]),
            (vec![busy(1, 0), busy(1, 1300), busy(1, 1300)], vec![1, 2]),
            (vec![busy(2, 1300), busy(1, 0), busy(1, 900)], vec![2]),
            // The less busy endpoint wins, however long it has been silent.
            (vec![busy(1, 0), busy(2, 1300)], vec![0]),
            // Neither endpoint owes an answer.
            (vec![busy(0, 0), busy(0, 1300)], vec![0, 1]),
        ] {
            let chosen = times(Algorithm::LeastOfAll, &endpoints, 100);
            let chosen: Vec<_> = chosen.keys().copied().collect();
            assert_eq!(chosen, expected, "{endpoints:?}");
        }
    }

    #[test]
    fn a_full_endpoint_is_never_chosen_and_rules_out_worse_tiers() {
        let full = Candidate { full: true, ..FINE };
        let ejected = Candidate {
            ejected: true,
            ..FINE
        };
        for algorithm in ALL {
            let chosen = times(algorithm, &[full, busy(9, 0), full], 50);
            assert_eq!(chosen.keys().copied().collect::<Vec<_>>(), [1]);
            for endpoints in [&[full, full][..], &[full, ejected]] {
                let mut random = fastrand::Rng::with_seed(7);
                let cursor = &mut Cursor::default();
                let see = |at: usize| endpoints[at];
                let chosen = choose(algorithm, endpoints.len(), see, CLIENT, cursor, &mut random);
                assert_eq!(chosen, None, "{algorithm:?}");
            }
        }
    }

    /// A closed loop: each client sends its next request a moment after its answer. Even if
    /// the work takes no longer than that moment, the endpoints must share it.
    #[test]
    fn short_work_is_shared_evenly_when_all_are_busy() {
        for (endpoints, clients, work) in [
            (2, 3, 60),
            (2, 3, 250),
            (2, 5, 60),
            (4, 6, 300),
            (4, 9, 2000),
        ] {
            let mut random = fastrand::Rng::with_seed(3);
            let mut cursor = Cursor::default();
            // In microseconds: when each client sends its next request, and when each
            // endpoint completes the requests that it has.
            let mut asks: Vec<u64> = (0..clients).collect();
            let mut queues = vec![std::collections::VecDeque::<u64>::new(); endpoints];
            let mut heard = vec![0; endpoints];
            let mut served = vec![0_u32; endpoints];
            for _ in 0..40_000 {
                let ask = (0..asks.len()).min_by_key(|&at| asks[at]);
                let done = (0..endpoints)
                    .filter(|&at| !queues[at].is_empty())
                    .min_by_key(|&at| queues[at][0]);
                match (ask, done) {
                    (Some(ask), done) if done.is_none_or(|at| asks[ask] <= queues[at][0]) => {
                        let now = asks.swap_remove(ask);
                        let see = |at: usize| Candidate {
                            load: queues[at].len() as u64,
                            heard: Duration::from_micros(heard[at]),
                            ..FINE
                        };
                        let least = Algorithm::LeastOfAll;
                        let at = choose(least, endpoints, see, CLIENT, &mut cursor, &mut random);
                        let at = at.unwrap();
                        let begin = queues[at].back().copied().unwrap_or(now).max(now);
                        queues[at].push_back(begin + random.u64(work * 19 / 20..=work * 21 / 20));
                    }
                    (_, Some(at)) => {
                        let now = queues[at].pop_front().unwrap();
                        heard[at] = now;
                        served[at] += 1;
                        asks.push(now + random.u64(95..=105));
                    }
                    (_, None) => unreachable!("some event is always due"),
                }
            }
            let (most, least) = (served.iter().max().unwrap(), served.iter().min().unwrap());
            assert!(
                most * 10 <= least * 11,
                "{clients} clients, {work} µs: {served:?}"
            );
        }
    }

    #[test]
    fn hash_moves_only_the_clients_of_the_endpoint_that_went() {
        let all: Vec<Candidate> = (0..5)
            .map(|at| Candidate {
                key: key(std::net::SocketAddr::from(([10, 0, 0, at], 80))),
                ..FINE
            })
            .collect();
        let mut counts = [0; 5];
        for client in 0..2000_u32 {
            let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + client));
            let choose = |gone: Option<usize>| {
                let see = |at: usize| Candidate {
                    tried: gone == Some(at),
                    ..all[at]
                };
                let random = &mut fastrand::Rng::with_seed(1);
                choose(
                    Algorithm::Hash,
                    5,
                    see,
                    client,
                    &mut Cursor::default(),
                    random,
                )
                .unwrap()
            };
            let usual = choose(None);
            counts[usual] += 1;
            for gone in 0..5 {
                assert!(choose(Some(gone)) == usual || gone == usual);
            }
        }
        assert!(
            counts.iter().all(|count| (300..500).contains(count)),
            "{counts:?}"
        );
    }
}
