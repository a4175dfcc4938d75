//! Requests prefer the proxy's own zone, up to its room.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::standing::Standing;

const FINE: Candidate = Candidate::FINE;

fn near(load: u64) -> Candidate {
    Candidate {
        is_local: true,
        load,
        ..FINE
    }
}

fn far(load: u64) -> Candidate {
    Candidate { load, ..FINE }
}

fn times(algorithm: Algorithm, endpoints: &[Candidate], times: usize) -> BTreeMap<usize, usize> {
    let survey = &Survey::of(endpoints.len(), |at| endpoints[at]);
    let mut random = fastrand::Rng::with_seed(7);
    let mut cursor = Cursor::default();
    let mut chosen = BTreeMap::new();
    for _ in 0..times {
        let mut chooser = Chooser {
            algorithm,
            survey,
            client: Ipv4Addr::LOCALHOST.into(),
            cursor: &mut cursor,
            random: &mut random,
        };
        let at = chooser.choose(|at| endpoints[at]);
        *chosen.entry(at.unwrap()).or_default() += 1;
    }
    chosen
}

fn chosen(algorithm: Algorithm, endpoints: &[Candidate]) -> Vec<usize> {
    times(algorithm, endpoints, 400).into_keys().collect()
}

#[test]
fn the_own_zone_is_used_while_it_has_room_however_idle_the_others_are() {
    let endpoints = [far(0), near(700), far(0), near(750)];
    assert_eq!(chosen(Algorithm::LeastOfTwo, &endpoints), [1]);
    for blind in [Algorithm::RoundRobin, Algorithm::Random] {
        assert_eq!(chosen(blind, &endpoints), [1, 3], "{blind:?}");
    }
    // One of the zone's pods is busy, and requests that meet it go to the other one.
    let endpoints = [far(0), near(200), near(1400)];
    assert_eq!(chosen(Algorithm::LeastOfTwo, &endpoints), [1]);
}

#[test]
fn a_busy_zone_spills_only_to_endpoints_that_are_clearly_less_busy() {
    for (endpoints, expected) in [
        ([near(1000), far(799)], vec![1]),
        ([near(1000), far(801)], vec![0]),
        ([near(5000), far(3900)], vec![1]),
        ([near(5000), far(4100)], vec![0]),
        ([near(800), far(0)], vec![1]),
        ([near(799), far(0)], vec![0]),
    ] {
        assert_eq!(
            chosen(Algorithm::LeastOfTwo, &endpoints),
            expected,
            "{endpoints:?}"
        );
    }
    // An algorithm that does not look at load goes everywhere.
    let endpoints = [near(1000), far(0), far(9000)];
    for blind in [Algorithm::RoundRobin, Algorithm::Random] {
        assert_eq!(chosen(blind, &endpoints), [0, 1, 2], "{blind:?}");
    }
}

#[test]
fn without_an_endpoint_that_serves_in_the_zone_all_are_used() {
    for gone in [
        Candidate {
            tried: true,
            ..near(0)
        },
        Candidate {
            full: true,
            ..near(0)
        },
        Candidate {
            ejected: true,
            ..near(0)
        },
        Candidate {
            standing: Standing::Unready,
            ..near(0)
        },
        Candidate {
            standing: Standing::Draining,
            ..near(0)
        },
        Candidate {
            standing: Standing::Suspect,
            ..near(0)
        },
    ] {
        for algorithm in [
            Algorithm::LeastOfTwo,
            Algorithm::RoundRobin,
            Algorithm::Random,
        ] {
            let expected = [0, 2];
            assert_eq!(
                chosen(algorithm, &[far(0), gone, far(0)]),
                expected,
                "{algorithm:?} {gone:?}"
            );
        }
    }
}

#[test]
fn while_nothing_is_known_to_serve_zones_do_not_count() {
    for [a, b] in [
        // The balancer's network may be broken, so it must try everything.
        [
            Candidate {
                standing: Standing::Suspect,
                ..near(0)
            },
            Candidate {
                standing: Standing::Suspect,
                ..far(0)
            },
        ],
        [
            Candidate {
                ejected: true,
                ..near(0)
            },
            Candidate {
                ejected: true,
                ..far(0)
            },
        ],
    ] {
        for algorithm in [
            Algorithm::LeastOfTwo,
            Algorithm::RoundRobin,
            Algorithm::Random,
        ] {
            let chosen = times(algorithm, &[a, b], 400);
            assert!(
                chosen.values().all(|times| *times > 150),
                "{algorithm:?} {chosen:?}"
            );
        }
    }
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        4 => Just(Standing::Serving),
        1 => Just(Standing::Suspect),
        1 => Just(Standing::Draining),
        1 => Just(Standing::Unready),
        1 => Just(Standing::Unknown),
    ]
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let flags = (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    );
    (standing(), flags, 0..5000_u64, any::<bool>(), 0..12_u64).prop_map(
        |(standing, (ejected, tried, full), load, is_local, age)| Candidate {
            standing,
            ejected,
            tried,
            full,
            load,
            is_local,
            warmth: crate::warmth::Warmth::of(
                std::time::Duration::from_secs(10),
                std::time::Duration::from_secs(age),
            ),
            ..FINE
        },
    )
}

proptest! {
    /// Whatever the survey says, and however old it is: nothing that must not be chosen is
    /// chosen, and something is chosen if anything may be.
    #[test]
    fn every_choice_is_allowed_and_of_the_best_tier(
        then in prop::collection::vec(candidate(), 0..9),
        now in prop::collection::vec(candidate(), 0..9),
        algorithm in prop_oneof![
            Just(Algorithm::LeastOfAll),
            Just(Algorithm::LeastOfTwo),
            Just(Algorithm::RoundRobin),
            Just(Algorithm::Random),
            Just(Algorithm::Hash),
        ],
        seed: u64,
    ) {
        let count = then.len().min(now.len());
        let survey = &Survey::of(count, |at| then[at]);
        let mut chooser = Chooser {
            algorithm,
            survey,
            client: Ipv4Addr::LOCALHOST.into(),
            cursor: &mut Cursor::default(),
            random: &mut fastrand::Rng::with_seed(seed),
        };
        let see = |at: usize| now[at];
        let best = Best::of(count, &see);
        let chosen = chooser.choose(see);
        prop_assert_eq!(chosen.is_some(), best.is_some());
        if let (Some(at), Some(best)) = (chosen, best) {
            prop_assert!(best.contains(now[at]), "{:?}", now[at]);
        }
    }

    /// A request leaves the zone only for an endpoint that is clearly less busy, and never
    /// while the zone has room.
    #[test]
    fn a_request_leaves_its_zone_for_a_reason(
        all in prop::collection::vec((0..4000_u64, any::<bool>()), 2..12),
        seed: u64,
    ) {
        let all: Vec<_> = all.iter().map(|&(load, is_near)| if is_near { near(load) } else { far(load) }).collect();
        let survey = &Survey::of(all.len(), |at| all[at]);
        let mut chooser = Chooser {
            algorithm: Algorithm::LeastOfTwo,
            survey,
            client: Ipv4Addr::LOCALHOST.into(),
            cursor: &mut Cursor::default(),
            random: &mut fastrand::Rng::with_seed(seed),
        };
        let chosen = all[chooser.choose(|at| all[at]).unwrap()];
        let local: Vec<u64> = all.iter().filter(|one| one.is_local).map(|one| one.load).collect();
        if !chosen.is_local && !local.is_empty() {
            prop_assert!(local.iter().sum::<u64>() / local.len() as u64 >= ROOM);
            prop_assert!(chosen.load * 5 < local.iter().max().unwrap() * 4);
        }
    }
}
