//! What is visible of an endpoint at the time of a choice, and which endpoints may be chosen at
//! all: those of the best tier that any endpoint has.
//!
//! Which of them is chosen is decided in `choice`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use scaledapp_units::Fnv1a;

use crate::standing::Standing;
use crate::warmth::Warmth;

/// What is visible of an endpoint at the time of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Unique and stable, for [`crate::Algorithm::Hash`]; see [`key`].
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
    /// It is in the proxy's own zone, and the proxy prefers that. `false` for all endpoints if
    /// there is no preference.
    pub is_local: bool,
    /// The share of its usual requests that it should get.
    pub warmth: Warmth,
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
        is_local: false,
        warmth: Warmth::FULL,
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
            (Standing::Draining, false) => Some(3),
            (Standing::Unknown, ejected) if all_unknown => Some(if ejected { 2 } else { 1 }),
            // A draining endpoint that fails has announced its end: it is gone.
            (Standing::Unready | Standing::Unknown, _) | (Standing::Draining, true) => None,
        }
    }

    /// Whether it is known to serve, as far as this request is concerned.
    pub(crate) fn serves(self) -> bool {
        self.standing == Standing::Serving && !self.ejected && !self.tried
    }

    /// Whether to prefer this endpoint to one that is equally busy. The one that sent something
    /// more recently is certainly working; the other may be blocked. An endpoint without
    /// requests has nothing to send, so its silence says nothing.
    pub(crate) fn is_livelier(self, than: Self) -> bool {
        self.load > 0 && self.heard > than.heard
    }
}

/// The endpoints among which an algorithm chooses.
pub(crate) struct Best {
    /// See [`Candidate::tier`].
    pub(crate) tier: u8,
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

/// The tag of an endpoint (FNV-1a of its name, cut to 40 bits): a pod's name is unique, and a
/// worker's is the number of its slot.
pub fn tag(name: &str) -> u64 {
    Fnv1a::default().with(name.bytes()).get() >> 24
}

/// The key of an endpoint for [`crate::Algorithm::Hash`]. It is made of the address alone
/// (FNV-1a), so that every balancer computes the same key.
pub fn key(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let bytes = ip.octets().into_iter().chain(address.port().to_be_bytes());
    Fnv1a::default().with(bytes).get()
}
