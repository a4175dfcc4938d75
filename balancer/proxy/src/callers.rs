//! Which callers are believed when they say who their client is: proxies of ours, and
//! proxies that the user has named. All other callers are not.
//!
//! A proxy of ours shows a token with each request, because an address proves nothing
//! where pods come and go. What becomes of the fields ([`Trust`]) and what a token looks
//! like ([`Tokens`]) is decided in `scaledapp-http1`; where tokens come from is decided by
//! the binaries.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use scaledapp_http1::{Network, Tokens, Trust};
use tokio::sync::watch;

use crate::config::{Config, Role};

/// What is known of callers beside [`crate::Config::trust`].
#[derive(Debug, Clone, Default)]
pub struct Callers {
    /// Proxies whose word counts.
    pub forwarded_from: Arc<[Network]>,
    /// What callers must show where [`crate::Config::trust`] is [`Trust::Behind`], and
    /// what a balancer shows to pods. `None`: nothing is shown, and all callers are
    /// what `trust` says. A receiver of no tokens accepts no caller.
    pub tokens: Option<watch::Receiver<Tokens>>,
}

/// What a thread knows of callers.
#[derive(Debug)]
pub(crate) struct KnownCallers {
    forwarded_from: Arc<[Network]>,
    /// Those of [`Callers::tokens`], as they are now.
    tokens: RefCell<Option<Tokens>>,
    /// What a caller is that shows what is needed.
    trust: Trust,
    /// The next hop is shown a token.
    shows_token: bool,
}

impl KnownCallers {
    pub(crate) fn new(callers: &mut Callers, config: &Config) -> Self {
        let known = Self {
            forwarded_from: Arc::clone(&callers.forwarded_from),
            tokens: RefCell::default(),
            trust: config.trust,
            shows_token: config.role == Role::Balancer,
        };
        known.update(callers);
        known
    }

    /// Takes the tokens as they are now.
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

    /// The address that a connection counts for. A named proxy brings many clients, so
    /// its connections count for none.
    pub(crate) fn counted(&self, peer: IpAddr) -> Option<IpAddr> {
        (!self.is_named(peer)).then_some(peer)
    }

    /// What a caller is that has shown this with its request.
    pub(crate) fn trust(&self, shown: Option<&[u8]>, is_named: bool) -> Trust {
        let tokens = self.tokens.borrow();
        trust(self.trust, tokens.as_ref(), shown, is_named)
    }

    /// Hands on the token that the next hop is to be shown.
    pub(crate) fn with_token<T>(&self, then: impl FnOnce(Option<&str>) -> T) -> T {
        let tokens = self.tokens.borrow();
        let shown = tokens.as_ref().and_then(Tokens::first);
        then(shown.filter(|_| self.shows_token))
    }
}

/// What a caller is. `trust` is true of each one that shows what is needed: one of the
/// `tokens`, or nothing if there are none to show.
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
    fn an_address_alone_makes_nobody_ours() {
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
