//! Which forwarding tokens of an app are in force.
//!
//! `scaledapp_plan` decides what a token is for and which change is a rotation. This module
//! makes tokens and remembers the ones in force: every pass must plan the same token until
//! the stores show it, and a person's change that would cut pods off from their balancers
//! is undone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use scaledapp_plan::cluster::is_rotation;
use tokio::time::Instant;

/// An app that had no pass for this long is forgotten: it no longer exists, or another replica
/// leads.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

/// The tokens in force by the app's uid, and when they were last read.
#[derive(Default)]
pub struct Tokens(Mutex<HashMap<String, (String, Instant)>>);

impl Tokens {
    /// The tokens in force of an app. The previous tokens stay in force, unless the stored ones
    /// differ and share a token with them. Without previous tokens, the stored ones are in force,
    /// and without either, a new token. `None` if the kernel provides no random bytes.
    pub fn of(&self, uid: &str, stored: Option<&str>) -> Option<String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, asked)| asked.elapsed() < FORGOTTEN_AFTER);
        let before = known.get(uid).map(|(tokens, _)| tokens.clone());
        let tokens = match (before, stored) {
            (Some(before), Some(stored)) if is_rotation(&before, stored) => stored.to_owned(),
            (Some(before), _) => before,
            (None, Some(stored)) => stored.to_owned(),
            (None, None) => match scaledapp_runtime::secret() {
                Ok(token) => token,
                Err(error) => {
                    tracing::warn!(%error, "no random bytes: pods cannot tell their balancers from other senders");
                    return None;
                }
            },
        };
        known.insert(uid.to_owned(), (tokens.clone(), Instant::now()));
        Some(tokens)
    }
}

impl std::fmt::Debug for Tokens {
    /// Without the tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_keeps_its_token_until_a_rotation() {
        let tokens = Tokens::default();
        let (one, other) = (tokens.of("a", None), tokens.of("b", None));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_ne!(one, other);
        assert_eq!(tokens.of("a", None).as_ref(), Some(&one));
        assert!(!format!("{tokens:?}").contains(&other));
        // If the old token were dropped, requests would come from unknown senders for a while.
        assert_eq!(tokens.of("a", Some("new")).as_ref(), Some(&one));
        for stored in [
            format!("{one}\nnew"),
            format!("new\n{one}"),
            "new".to_owned(),
        ] {
            assert_eq!(tokens.of("a", Some(&stored)), Some(stored));
        }
        assert_eq!(tokens.of("a", Some(&one)).as_deref(), Some("new"));
    }

    #[test]
    fn what_is_stored_is_in_force_for_an_operator_that_has_just_started() {
        let tokens = Tokens::default();
        assert_eq!(tokens.of("a", Some("stored")).as_deref(), Some("stored"));
        assert_eq!(tokens.of("a", None).as_deref(), Some("stored"));
    }
}
