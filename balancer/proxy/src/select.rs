//! Which endpoint gets a request.
//!
//! Pure: decides from what is visible of each endpoint at this moment. Health
//! never enters an algorithm; it only decides who may be chosen at all.

use std::net::IpAddr;

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
    pub(crate) load: u64,
}

impl Seen {
    /// Lower is better; `None`: not at all.
    fn tier(self) -> Option<u8> {
        if self.tried {
            return None;
        }
        match (self.standing, self.ejected) {
            (Standing::Serving, false) => Some(0),
            // Fail open: what we think of it may be wrong, an answer of our own surely is.
            (Standing::Suspect, false) => Some(1),
            (Standing::Serving | Standing::Suspect, true) => Some(2),
            (Standing::Draining, _) => Some(3),
            (Standing::Unready, _) => None,
        }
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
    let tiers = (0..count).filter_map(|at| see(at).tier());
    let (best, eligible) = tiers.fold((u8::MAX, 0), |(best, eligible), tier| {
        match tier.cmp(&best) {
            std::cmp::Ordering::Less => (tier, 1),
            std::cmp::Ordering::Equal => (best, eligible + 1),
            std::cmp::Ordering::Greater => (best, eligible),
        }
    });
    if eligible == 0 {
        return None;
    }
    let is_best = |at: &usize| see(*at).tier() == Some(best);
    let nth = |n: usize| (0..count).filter(is_best).nth(n);
    match algorithm {
        Algorithm::LeastOfAll => {
            // From another one each time, so that ties go round.
            cursor.0 = cursor.0.wrapping_add(1);
            let start = cursor.0 % count;
            let around = (start..count).chain(0..start).filter(is_best);
            around.min_by_key(|at| see(*at).load)
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
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
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
        load: 0,
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
