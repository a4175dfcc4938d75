//! Which endpoint gets a request.
//!
//! Pure: decides from what is visible of each endpoint at this moment. Health
//! never enters an algorithm; it only decides who may be chosen at all.

use std::net::IpAddr;
use std::time::Duration;

use scaledapp_units::Fnv1a;

use crate::config::Algorithm;
use crate::endpoint::Standing;

/// What selection sees of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Unique and stable, for [`Algorithm::Hash`].
    pub(crate) key: u64,
    pub(crate) standing: Standing,
    pub(crate) ejected: bool,
    /// Had this request already.
    pub(crate) tried: bool,
    /// Has as much in flight as it may have.
    pub(crate) full: bool,
    pub(crate) load: u64,
    /// When it sent something last, on the process's clock.
    pub(crate) heard: Duration,
}

impl Seen {
    /// Lower is better; `None`: not at all. `all_unknown`: of none is known that it
    /// belongs to the app. Then our own sight is more likely to blame than all of them.
    fn tier(self, all_unknown: bool) -> Option<u8> {
        if self.tried {
            return None;
        }
        match (self.standing, self.ejected) {
            (Standing::Serving, false) => Some(0),
            // Fail open: what we think of it may be wrong, an answer of our own surely is.
            (Standing::Suspect, false) => Some(1),
            (Standing::Serving | Standing::Suspect, true) => Some(2),
            (Standing::Draining, _) => Some(3),
            (Standing::Unknown, ejected) if all_unknown => Some(if ejected { 2 } else { 1 }),
            (Standing::Unready | Standing::Unknown, _) => None,
        }
    }

    /// Among equally busy ones, who has answered last works, and who has been
    /// silent for longer may be blocked. Who has nothing to do owes no answer.
    fn is_less_busy(self, than: Self) -> bool {
        let is_livelier = self.load > 0 && self.heard > than.heard;
        self.load < than.load || (self.load == than.load && is_livelier)
    }
}

/// What selection remembers from one request to the next.
#[derive(Debug, Default)]
pub(crate) struct Cursor(usize);

/// The place of the chosen one among `count`; `None` if nobody may be chosen.
pub(crate) fn select(
    algorithm: Algorithm,
    count: usize,
    see: impl Fn(usize) -> Seen,
    client: IpAddr,
    cursor: &mut Cursor,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    let mut all = (0..count).map(&see);
    let all_unknown = all.all(|seen| seen.standing == Standing::Unknown);
    let all = (0..count).map(&see);
    let (best, eligible) = all.fold((u8::MAX, 0), |(best, eligible), seen| {
        let Some(tier) = seen.tier(all_unknown) else {
            return (best, eligible);
        };
        // Full ones keep the lower tiers closed: soon there is room where all is well.
        let free = usize::from(!seen.full);
        match tier.cmp(&best) {
            std::cmp::Ordering::Less => (tier, free),
            std::cmp::Ordering::Equal => (best, eligible + free),
            std::cmp::Ordering::Greater => (best, eligible),
        }
    });
    if eligible == 0 {
        return None;
    }
    let is_free = |seen: Seen| seen.tier(all_unknown) == Some(best) && !seen.full;
    let is_best = |at: &usize| is_free(see(*at));
    let nth = |n: usize| (0..count).filter(is_best).nth(n);
    match algorithm {
        Algorithm::LeastOfAll => {
            // From the one after the last choice, so that ties go round: counting
            // on by one would give a busy one's turns to its neighbour.
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
            // A second one that is not the first.
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
            .max_by_key(|at| weight(client, see(*at).key)),
    }
}

/// Of an endpoint for a client: when one goes, only its own clients move
/// (rendezvous hashing). Stable from run to run and from balancer to balancer.
fn weight(client: IpAddr, key: u64) -> u64 {
    let client = match client {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    // The finalizer of splitmix64: each input bit changes half of the output's.
    let mut bits = (client as u64) ^ ((client >> 64) as u64).rotate_left(32) ^ key;
    for multiplier in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb_u64] {
        bits = (bits ^ (bits >> 30)).wrapping_mul(multiplier);
    }
    bits ^ (bits >> 31)
}

/// Key of an endpoint for [`Algorithm::Hash`]: by address, so that every
/// balancer has the same (FNV-1a).
pub(crate) fn key(address: std::net::SocketAddr) -> u64 {
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

    const FINE: Seen = Seen {
        key: 0,
        standing: Standing::Serving,
        ejected: false,
        tried: false,
        full: false,
        load: 0,
        heard: Duration::ZERO,
    };
    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ALL: [Algorithm; 5] = [
        Algorithm::LeastOfAll,
        Algorithm::LeastOfTwo,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::Hash,
    ];

    fn times(algorithm: Algorithm, endpoints: &[Seen], times: usize) -> BTreeMap<usize, usize> {
        let mut cursor = Cursor::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut chosen = BTreeMap::new();
        for _ in 0..times {
            let see = |at: usize| endpoints[at];
            let at = select(
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
    fn nobody_is_chosen_of_nobody() {
        for algorithm in ALL {
            for endpoints in [
                &[][..],
                &[Seen {
                    tried: true,
                    ..FINE
                }],
                &[Seen {
                    standing: Standing::Unready,
                    ..FINE
                }],
            ] {
                let mut random = fastrand::Rng::with_seed(7);
                let see = |at: usize| endpoints[at];
                let cursor = &mut Cursor::default();
                assert_eq!(
                    select(algorithm, endpoints.len(), see, CLIENT, cursor, &mut random),
                    None
                );
            }
        }
    }

    #[test]
    fn the_best_tier_is_taken_by_every_algorithm() {
        let ladder = [
            Seen {
                standing: Standing::Draining,
                ..FINE
            },
            Seen {
                ejected: true,
                ..FINE
            },
            Seen {
                standing: Standing::Suspect,
                ..FINE
            },
            Seen {
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
    fn who_has_not_shown_that_it_is_the_apps_is_chosen_only_among_its_like() {
        let unknown = Seen {
            standing: Standing::Unknown,
            ..FINE
        };
        let ejected = Seen {
            ejected: true,
            ..unknown
        };
        for algorithm in ALL {
            let chosen = times(algorithm, &[ejected, unknown], 50);
            assert_eq!(chosen, BTreeMap::from([(1, 50)]), "{algorithm:?}");
            // Not even while the app itself cannot serve: what answers there may be anything.
            for standing in [Standing::Unready, Standing::Draining, Standing::Suspect] {
                for tried in [false, true] {
                    let known = Seen {
                        standing,
                        tried,
                        ..FINE
                    };
                    let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(7));
                    let see = |at: usize| [unknown, known][at];
                    let chosen = select(algorithm, 2, see, CLIENT, &mut cursor, &mut random);
                    assert_ne!(chosen, Some(0), "{algorithm:?} {standing:?} {tried}");
                }
            }
        }
    }

    #[test]
    fn ties_go_round_evenly() {
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
    fn a_busy_ones_turns_go_to_all_others() {
        let busy = Seen { load: 1, ..FINE };
        let chosen = times(Algorithm::LeastOfAll, &[FINE, busy, FINE, FINE], 90);
        assert_eq!(chosen, BTreeMap::from([(0, 30), (2, 30), (3, 30)]));
    }

    #[test]
    fn least_of_all_is_exact_and_least_of_two_never_takes_the_busiest() {
        let loads = |loads: &[u64]| -> Vec<Seen> {
            loads.iter().map(|&load| Seen { load, ..FINE }).collect()
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

    fn busy(load: u64, heard: u64) -> Seen {
        Seen {
            load,
            heard: Duration::from_millis(heard),
            ..FINE
        }
    }

    #[test]
    fn among_equally_busy_ones_a_silent_one_gets_nothing() {
        for (endpoints, expected) in [
            // The blocked one answered last before it was blocked.
            (vec![busy(1, 1000), busy(1, 1300)], vec![1]),
            (vec![busy(1, 0), busy(1, 1300), busy(1, 1300)], vec![1, 2]),
            (vec![busy(2, 1300), busy(1, 0), busy(1, 900)], vec![2]),
            // Less is less, however silent.
            (vec![busy(1, 0), busy(2, 1300)], vec![0]),
            // Nobody owes an answer.
            (vec![busy(0, 0), busy(0, 1300)], vec![0, 1]),
        ] {
            let chosen = times(Algorithm::LeastOfAll, &endpoints, 100);
            let chosen: Vec<_> = chosen.keys().copied().collect();
            assert_eq!(chosen, expected, "{endpoints:?}");
        }
    }

    #[test]
    fn a_full_one_is_never_chosen_and_keeps_the_worse_ones_closed() {
        let full = Seen { full: true, ..FINE };
        let ejected = Seen {
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
                let chosen = select(algorithm, endpoints.len(), see, CLIENT, cursor, &mut random);
                assert_eq!(chosen, None, "{algorithm:?}");
            }
        }
    }

    /// A closed loop: each client asks again a moment after it was answered.
    /// Where work takes as little as that moment, endpoints must still share it.
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
            // Microseconds: when each client asks, and what each endpoint has to do.
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
                        let see = |at: usize| Seen {
                            load: queues[at].len() as u64,
                            heard: Duration::from_micros(heard[at]),
                            ..FINE
                        };
                        let least = Algorithm::LeastOfAll;
                        let at = select(least, endpoints, see, CLIENT, &mut cursor, &mut random);
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
                    (_, None) => unreachable!("somebody always does something"),
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
        let all: Vec<Seen> = (0..5)
            .map(|at| Seen {
                key: key(std::net::SocketAddr::from(([10, 0, 0, at], 80))),
                ..FINE
            })
            .collect();
        let mut counts = [0; 5];
        for client in 0..2000_u32 {
            let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + client));
            let choose = |gone: Option<usize>| {
                let see = |at: usize| Seen {
                    tried: gone == Some(at),
                    ..all[at]
                };
                let random = &mut fastrand::Rng::with_seed(1);
                select(
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
