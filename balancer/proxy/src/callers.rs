//! Which callers are believed about their clients: other ScaledApp proxies, and proxies
//! that the user has named. No other caller is believed.
//!
//! ScaledApp proxies send a token with each request, because an address proves nothing
//! where pods come and go. How the fields are treated ([`Trust`]) and what a token looks
//! like ([`Tokens`]) is decided in `scaledapp-http1`; the binaries decide where tokens come
//! from.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use scaledapp_http1::{Network, Tokens, Trust};
use tokio::sync::watch;

use crate::config::{Config, Role};

/// What the proxy knows about its callers, besides [`crate::Config::trust`].
#[derive(Debug, Clone, Default)]
pub struct Callers {
    /// Networks of proxies that are believed.
    pub forwarded_from: Arc<[Network]>,
    /// Networks of proxies whose connections must begin with a header of the PROXY protocol.
    pub announced_from: Arc<[Network]>,
    /// The tokens that callers must send if [`crate::Config::trust`] is [`Trust::Behind`],
    /// and the token that a balancer sends to pods. `None`: no token is sent, and callers
    /// are treated as `trust` and [`Self::forwarded_from`] say. While the list of tokens is
    /// empty, no caller is treated as a ScaledApp proxy.
    pub tokens: Option<watch::Receiver<Tokens>>,
}

/// A thread's copy of what is known about callers.
#[derive(Debug)]
pub(crate) struct KnownCallers {
    forwarded_from: Arc<[Network]>,
    announced_from: Arc<[Network]>,
    /// The current tokens of [`Callers::tokens`].
    tokens: RefCell<Option<Tokens>>,
    /// How a caller is treated if it sends one of the tokens, or if no tokens are required.
    trust: Trust,
    /// Whether a token is sent to the next hop.
    shows_token: bool,
}

impl KnownCallers {
    pub(crate) fn new(callers: &mut Callers, config: &Config) -> Self {
        let known = Self {
            forwarded_from: Arc::clone(&callers.forwarded_from),
            announced_from: Arc::clone(&callers.announced_from),
            tokens: RefCell::default(),
            trust: config.trust,
            shows_token: config.role == Role::Balancer,
        };
        known.update(callers);
        known
    }

    /// Takes over the current tokens.
    pub(crate) fn update(&self, callers: &mut Callers) {
        let tokens = callers.tokens.as_mut();
        *self.tokens.borrow_mut() = tokens.map(|tokens| tokens.borrow_and_update().clone());
    }

    /// Whether the peer is a proxy that the user has named.
    pub(crate) fn is_named(&self, peer: IpAddr) -> bool {
        self.forwarded_from
            .iter()
            .any(|network| network.contains(peer))
    }

    /// Whether the connections of this peer must begin with a header that says who its client is.
    /// Connections of other peers are never searched for one, because any client can send it.
    pub(crate) fn announces(&self, peer: IpAddr) -> bool {
        self.announced_from
            .iter()
            .any(|network| network.contains(peer))
    }

    /// The address for which a connection is counted. A proxy that the user has named
    /// carries many clients, so its connections are counted for no address. One client usually
    /// has all addresses of an IPv6 network of 64 bits, so they are counted as its first one.
    pub(crate) fn counted(&self, peer: IpAddr) -> Option<IpAddr> {
        (!self.is_named(peer)).then(|| network(peer))
    }

    /// How to treat a caller whose request contained the token `shown`.
    pub(crate) fn trust(&self, shown: Option<&[u8]>, is_named: bool) -> Trust {
        let tokens = self.tokens.borrow();
        trust(self.trust, tokens.as_ref(), shown, is_named)
    }

    /// Passes the token for the next hop to `then`.
    pub(crate) fn with_token<T>(&self, then: impl FnOnce(Option<&str>) -> T) -> T {
        let tokens = self.tokens.borrow();
        let shown = tokens.as_ref().and_then(Tokens::first);
        then(shown.filter(|_| self.shows_token))
    }
}

/// The address itself, or the first address of its IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// How to treat a caller. If `trust` is [`Trust::Behind`], a caller is treated as a ScaledApp
/// proxy if it sends one of the `tokens`, or if no token is required (`None`).
fn trust(trust: Trust, tokens: Option<&Tokens>, shown: Option<&[u8]>, is_named: bool) -> Trust {
    let is_ours = || match tokens {
        None => true,
        Some(tokens) => shown.is_some_and(|shown| tokens.contains(shown)),
    };
    match trust {
        Trust::Behind if is_ours() => Trust::Behind,
        _ if is_named => Trust::Proxy,
        _ => Trust::Edge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef";
    const TWO: &str = "fedcba9876543210fedcba9876543210";

    #[test]
    fn all_addresses_of_an_ipv6_network_count_as_one() {
        for (text, wanted) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(network(address), wanted.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn an_address_alone_does_not_make_a_caller_ours() {
        let tokens = Tokens::parse(ONE.as_bytes()).unwrap();
        let none = Tokens::default();
        let (right, wrong) = (Some(ONE.as_bytes()), Some(TWO.as_bytes()));
        for (config, tokens, shown, is_named, wanted) in [
            (Trust::Edge, None, None, false, Trust::Edge),
            (Trust::Edge, None, None, true, Trust::Proxy),
            (Trust::Edge, Some(&tokens), right, false, Trust::Edge),
            (Trust::Edge, Some(&tokens), right, true, Trust::Proxy),
            (Trust::Behind, None, None, false, Trust::Behind),
            (Trust::Behind, None, wrong, true, Trust::Behind),
            (Trust::Behind, Some(&tokens), right, false, Trust::Behind),
            (Trust::Behind, Some(&tokens), wrong, false, Trust::Edge),
            (Trust::Behind, Some(&tokens), None, false, Trust::Edge),
            (Trust::Behind, Some(&tokens), None, true, Trust::Proxy),
            (Trust::Behind, Some(&none), right, false, Trust::Edge),
        ] {
            let found = trust(config, tokens, shown, is_named);
            assert_eq!(found, wanted, "{config:?} {shown:?} {is_named}");
        }
    }
}
