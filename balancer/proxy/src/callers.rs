//! Which callers are believed when they say who their client is: proxies of ours, and
//! proxies that the user has named. All other callers are not.
//!
//! A proxy of ours shows a token with each request, because an address proves nothing
//! where pods come and go. What becomes of the fields is decided in `scaledapp-http1`
//! ([`Trust`]); where tokens come from is decided by the binaries.

use std::cell::RefCell;
use std::fmt;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use scaledapp_http1::{Network, Trust};
use tokio::sync::watch;

use crate::config::{Config, Role};

/// A shorter token could be guessed.
const MIN_BYTES: usize = 16;
/// A token is part of each head.
const MAX_BYTES: usize = 256;
/// The old token and the new one, and some that were forgotten.
const MAX_TOKENS: usize = 16;

/// The tokens that proxies of one app show each other. The first is shown and any is
/// accepted, so that a token can be replaced without a gap.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(Arc<[Box<str>]>);

/// Why a text holds no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// Nothing but space.
    #[error("it is empty: write one token on a line, such as `openssl rand -hex 32` gives")]
    Empty,
    /// One cannot be sent, or would not keep anybody out.
    #[error(
        "line {0} is no token: give {MIN_BYTES} to {MAX_BYTES} visible ASCII characters, such as \
         `openssl rand -hex 32` gives"
    )]
    Shape(usize),
    /// More than anybody needs.
    #[error("it has more than {MAX_TOKENS} tokens: keep the one in use and the one before")]
    Many,
}

impl Tokens {
    /// One token a line, the one to show first; lines without any are skipped.
    ///
    /// # Errors
    /// There is none, or one that cannot be used; the token itself is not told.
    pub fn parse(text: &[u8]) -> Result<Self, TokensError> {
        let mut tokens = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let is_sound = (MIN_BYTES..=MAX_BYTES).contains(&line.len())
                && line.iter().all(u8::is_ascii_graphic);
            let token = std::str::from_utf8(line).ok().filter(|_| is_sound);
            tokens.push(Box::from(token.ok_or(TokensError::Shape(index + 1))?));
        }
        match tokens.len() {
            0 => Err(TokensError::Empty),
            1..=MAX_TOKENS => Ok(Self(tokens.into())),
            _ => Err(TokensError::Many),
        }
    }

    /// The one to show; none before any is known.
    pub(crate) fn first(&self) -> Option<&str> {
        self.0.first().map(|token| &**token)
    }

    /// Compares in constant time, so that a token cannot be found byte by byte.
    pub(crate) fn contains(&self, shown: &[u8]) -> bool {
        let is_equal = |token: &str| {
            let token = token.as_bytes();
            let pairs = token.iter().zip(shown);
            let differing = pairs.fold(0, |differing, (a, b)| differing | (a ^ b));
            black_box(differing) == 0 && token.len() == shown.len()
        };
        let tokens = self.0.iter();
        tokens.fold(false, |found, token| found | is_equal(token))
    }
}

impl fmt::Debug for Tokens {
    /// Without the tokens: this may be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

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
    fn a_file_holds_a_token_a_line() {
        let both = format!("\n  {ONE}\r\n\n{TWO}");
        let tokens = Tokens::parse(both.as_bytes()).unwrap();
        assert_eq!(tokens.first(), Some(ONE));
        for (shown, is_accepted) in [
            (ONE, true),
            (TWO, true),
            ("", false),
            (&ONE[..15], false),
            (&TWO[..16], false),
            ("0123456789abcdeF", false),
            (&format!("{ONE}0"), false),
        ] {
            assert_eq!(tokens.contains(shown.as_bytes()), is_accepted, "{shown}");
        }
        assert!(!Tokens::default().contains(b""));
        assert!(!format!("{tokens:?}").contains(ONE));
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_told() {
        for (text, wanted) in [
            (" \n\t\n", TokensError::Empty),
            ("short", TokensError::Shape(1)),
            ("0123456789abcdef\n0123456789 abcdef", TokensError::Shape(2)),
            ("0123456789abcdé", TokensError::Shape(1)),
            (&"x".repeat(257), TokensError::Shape(1)),
            (&format!("{ONE}\n").repeat(17), TokensError::Many),
        ] {
            assert_eq!(Tokens::parse(text.as_bytes()), Err(wanted), "{text}");
            assert!(!wanted.to_string().contains("0123"), "{wanted}");
        }
        let line = Tokens::parse(&[0xff; 20]).unwrap_err();
        assert_eq!(line, TokensError::Shape(1));
    }

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
