//! Choices among endpoints in one zone.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::candidate::key;
use crate::standing::Standing;
use crate::warmth::Warmth;

const FINE: Candidate = Candidate::FINE;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ALL: [Algorithm; 5] = [
    Algorithm::LeastOfAll,
    Algorithm::LeastOfTwo,
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::Hash,
];

fn choose(
    algorithm: Algorithm,
    count: usize,
    see: impl Fn(usize) -> Candidate,
    client: IpAddr,
    cursor: &mut Cursor,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    let survey = &Survey::of(count, &see);
    let mut chooser = Chooser {
        algorithm,
        survey,
        client,
        cursor,
        random,
    };
    chooser.choose(see)
}

fn times(algorithm: Algorithm, endpoints: &[Candidate], times: usize) -> BTreeMap<usize, usize> {
    let survey = &Survey::of(endpoints.len(), |at| endpoints[at]);
    let mut chooser = Chooser {
        algorithm,
        survey,
        client: CLIENT,
        cursor: &mut Cursor::default(),
        random: &mut fastrand::Rng::with_seed(7),
    };
    let mut chosen = BTreeMap::new();
    for _ in 0..times {
        let at = chooser.choose(|at| endpoints[at]);
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

const WINDOW: Duration = Duration::from_secs(10);

fn new(age: u64) -> Candidate {
    Candidate {
        warmth: Warmth::of(WINDOW, Duration::from_secs(age)),
        ..FINE
    }
}

/// The share of requests, in percent, that the last endpoint gets.
fn share_of_last(algorithm: Algorithm, endpoints: &[Candidate]) -> f64 {
    let chosen = times(algorithm, endpoints, 20_000);
    let last = chosen.get(&(endpoints.len() - 1)).copied();
    last.unwrap_or_default() as f64 / 200.0
}

fn with(count: usize, more: &[Candidate]) -> Vec<Candidate> {
    [vec![FINE; count].as_slice(), more].concat()
}

const TAKE_SHARES: [Algorithm; 4] = [
    Algorithm::LeastOfAll,
    Algorithm::LeastOfTwo,
    Algorithm::RoundRobin,
    Algorithm::Random,
];

/// In some balancers a new endpoint among many got nothing, because its weight was rounded to
/// nothing or because its one request made it look busier than all others.
#[test]
fn a_new_endpoint_gets_a_tenth_of_its_share_at_once_however_many_there_are() {
    for algorithm in TAKE_SHARES {
        for old in [5, 9, 131] {
            let usual = 100.0 / (old + 1) as f64;
            let share = share_of_last(algorithm, &with(old, &[new(0)]));
            assert!(
                share > 0.0 && share < usual * 0.3,
                "{algorithm:?} {old}: {share}"
            );
            let share = share_of_last(algorithm, &with(old, &[new(5)]));
            assert!(
                (0.35..0.85).contains(&(share / usual)),
                "{algorithm:?} {old}: {share}"
            );
        }
    }
}

#[test]
fn one_endpoint_gets_everything_and_equally_new_ones_share_evenly() {
    for algorithm in TAKE_SHARES {
        assert_eq!(times(algorithm, &[new(0)], 50), BTreeMap::from([(0, 50)]));
        let chosen = times(algorithm, &[new(1); 4], 4000);
        assert!(
            chosen.values().all(|times| (880..1120).contains(times)),
            "{algorithm:?} {chosen:?}"
        );
        // While the old one is tried, suspect or gone, the new one has no rival.
        for gone in [
            Candidate {
                tried: true,
                ..FINE
            },
            Candidate {
                standing: Standing::Suspect,
                ..FINE
            },
        ] {
            assert_eq!(
                times(algorithm, &[gone, new(0)], 50),
                BTreeMap::from([(1, 50)]),
                "{algorithm:?}"
            );
        }
    }
}

#[test]
fn of_two_endpoints_the_new_one_is_spared_while_the_old_one_has_room() {
    for algorithm in [Algorithm::LeastOfAll, Algorithm::LeastOfTwo] {
        let share = |old_load: u64, new_load: u64| {
            let old = Candidate {
                load: old_load,
                ..FINE
            };
            let young = Candidate {
                load: new_load,
                ..new(0)
            };
            share_of_last(algorithm, &[old, young])
        };
        assert!((2.0..20.0).contains(&share(0, 0)), "{algorithm:?}");
        assert!((5.0..15.0).contains(&share(750, 0)), "{algorithm:?}");
        // A request would wait at the old one.
        assert!(share(1000, 0) > 99.0, "{algorithm:?}");
        assert!(share(1000, 750) > 99.0, "{algorithm:?}");
        // Both are busy: the new one may have 6 requests where the old one has 10.
        assert!(share(10_000, 5_900) > 99.0, "{algorithm:?}");
        assert!(share(10_000, 6_100) < 1.0, "{algorithm:?}");
    }
}

/// The one old endpoint of a fleet that has just been replaced must not get what ten had.
#[test]
fn one_old_endpoint_among_many_new_ones_gets_at_most_twice_an_equal_share() {
    let endpoints = [&[new(0); 9][..], &[FINE]].concat();
    for algorithm in [Algorithm::LeastOfTwo, Algorithm::Random] {
        let share = share_of_last(algorithm, &endpoints);
        assert!((11.0..21.0).contains(&share), "{algorithm:?}: {share}");
    }
    // With round robin, no endpoint has two turns in a row.
    let share = share_of_last(Algorithm::RoundRobin, &endpoints);
    assert!((9.0..21.0).contains(&share), "{share}");
    // An endpoint without room gets nothing as long as others have room.
    let busy = Candidate { load: 1000, ..FINE };
    let endpoints = [&[new(0); 9][..], &[busy]].concat();
    for algorithm in [Algorithm::LeastOfAll, Algorithm::LeastOfTwo] {
        assert!(share_of_last(algorithm, &endpoints) < 0.1, "{algorithm:?}");
    }
}

/// In Envoy, the share of pods that were still in their window jumped when one more was added.
#[test]
fn one_more_new_endpoint_does_not_end_the_slow_start_of_the_others() {
    for algorithm in TAKE_SHARES {
        let before = share_of_last(algorithm, &with(20, &[new(2)]));
        let after = share_of_last(algorithm, &with(20, &[new(0), new(2)]));
        assert!(
            (after - before).abs() < 0.6,
            "{algorithm:?}: {before} {after}"
        );
    }
}

#[test]
fn hash_does_not_know_new_endpoints_or_zones() {
    for age in [0, 5, 10] {
        for is_local in [false, true] {
            let see = |at: usize| Candidate {
                key: at as u64 * 77,
                is_local: is_local && at == 2,
                ..if at == 1 { new(age) } else { FINE }
            };
            let random = &mut fastrand::Rng::with_seed(1);
            let cursor = &mut Cursor::default();
            let chosen = choose(Algorithm::Hash, 3, see, CLIENT, cursor, random);
            let plain = |at: usize| Candidate {
                key: at as u64 * 77,
                ..FINE
            };
            assert_eq!(
                chosen,
                choose(Algorithm::Hash, 3, plain, CLIENT, cursor, random)
            );
        }
    }
}
