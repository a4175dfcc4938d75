//! Which endpoint a client comes back to.

use crate::candidate::{Best, Candidate};
use crate::choice::weight;
use crate::standing::Standing;

/// The endpoint to which a client must come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// The endpoint with this tag.
    Tag(u64),
    /// The endpoint that has the greatest weight for this hash (rendezvous hashing), so that
    /// balancers which know the same endpoints choose the same one.
    Owner(u64),
    /// Like [`Self::Owner`], but an endpoint that is much busier than the average is passed over.
    Weight(u64),
}

/// How busy an endpoint may be, in hundredths of the average load, before it is passed over.
const BOUND: u64 = 125;

/// The index of the endpoint that a client prefers. `None` if no endpoint fits the preference, or
/// if the one that fits must not get the request.
///
/// With [`Preference::Tag`], a draining endpoint keeps its clients: it still serves, and a client
/// that goes to another endpoint loses the state that it has here.
pub fn preferred(
    preference: Preference,
    count: usize,
    see: impl Fn(usize) -> Candidate,
) -> Option<usize> {
    match preference {
        Preference::Tag(tag) => (0..count).find(|at| {
            let seen = see(*at);
            let serves = matches!(
                seen.standing,
                Standing::Serving | Standing::Suspect | Standing::Draining
            );
            seen.tag == tag && serves && !(seen.tried || seen.ejected || seen.full)
        }),
        Preference::Owner(hash) => {
            let best = Best::of(count, &see)?;
            let all = (0..count).filter(|at| best.contains(see(*at)));
            all.max_by_key(|at| weight(hash, see(*at).key))
        }
        Preference::Weight(hash) => {
            let best = Best::of(count, &see)?;
            let all = (0..count).filter(|at| best.contains(see(*at)));
            let load: u64 = all.clone().map(|at| see(at).load).sum();
            // One request in flight is always allowed. Otherwise an endpoint with a single
            // request would be passed over while the app is nearly idle.
            let most = load * BOUND / 100 / best.count as u64 + 1000;
            all.filter(|at| see(*at).load <= most)
                .max_by_key(|at| weight(hash, see(*at).key))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::candidate::{key, tag};
    use crate::choice::client_hash;

    const FINE: Candidate = Candidate::FINE;

    fn five() -> Vec<Candidate> {
        (0..5)
            .map(|at| Candidate {
                key: key(std::net::SocketAddr::from(([10, 0, 0, at], 80))),
                tag: tag(&format!("pod-{at}")),
                ..FINE
            })
            .collect()
    }

    #[test]
    fn a_client_keeps_its_endpoint_while_that_serves() {
        let mut all = five();
        let mine = Preference::Tag(tag("pod-3"));
        let chosen = |all: &[Candidate]| preferred(mine, all.len(), |at| all[at]);
        for standing in [Standing::Serving, Standing::Suspect, Standing::Draining] {
            all[3].standing = standing;
            assert_eq!(chosen(&all), Some(3), "{standing:?}");
        }
        for change in [
            Candidate {
                standing: Standing::Unready,
                ..all[3]
            },
            Candidate {
                standing: Standing::Unknown,
                ..all[3]
            },
            Candidate {
                tried: true,
                ..all[3]
            },
            Candidate {
                ejected: true,
                ..all[3]
            },
            Candidate {
                full: true,
                ..all[3]
            },
        ] {
            all[3] = change;
            assert_eq!(chosen(&all), None, "{change:?}");
        }
        all.remove(3);
        assert_eq!(chosen(&all), None);
    }

    #[test]
    fn clients_spread_by_weight_and_few_move_when_an_endpoint_is_added() {
        let all = five();
        let of = |hash: u64, count: usize| {
            preferred(Preference::Weight(hash), count, |at| all[at]).unwrap()
        };
        let mut counts = [0; 5];
        let mut moved = 0;
        for client in 0..2000_u32 {
            let hash = client_hash(IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + client)));
            counts[of(hash, 5)] += 1;
            moved += u32::from(of(hash, 2) != of(hash, 3));
        }
        assert!(
            counts.iter().all(|count| (300..500).contains(count)),
            "{counts:?}"
        );
        assert!(moved < 2000 * 38 / 100, "{moved}");
    }

    #[test]
    fn an_endpoint_that_is_much_busier_than_the_others_is_passed_over() {
        let mut all = five();
        let hash = Preference::Weight(7);
        let usual = preferred(hash, 5, |at| all[at]).unwrap();
        for one in &mut all {
            one.load = 4000;
        }
        all[usual].load = 5000;
        assert_eq!(preferred(hash, 5, |at| all[at]), Some(usual));
        all[usual].load = 9000;
        assert_eq!(
            preferred(Preference::Owner(7), 5, |at| all[at]),
            Some(usual)
        );
        let other = preferred(hash, 5, |at| all[at]).unwrap();
        assert_ne!(other, usual);
        // The only endpoint is never passed over.
        assert_eq!(preferred(hash, 1, |_| all[usual]), Some(0));
    }
}
