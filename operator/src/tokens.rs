//! Tokens for apps that have none yet.
//!
//! What a token is for is decided in `scaledapp_plan`. Here it is only made, once for
//! each app: until the stores show what was written, every pass must plan the same.

use std::collections::HashMap;
use std::sync::Mutex;

/// By the app's uid.
#[derive(Default)]
pub struct Tokens(Mutex<HashMap<String, String>>);

impl Tokens {
    /// One for an app that has none; the same until [`Self::forget`]. `None` where the
    /// kernel gives no random bytes.
    pub fn of(&self, uid: &str) -> Option<String> {
        let mut tokens = self.0.lock().expect("invariant: no panic holds it");
        if let Some(token) = tokens.get(uid) {
            return Some(token.clone());
        }
        match scaledapp_runtime::secret() {
            Ok(token) => {
                tokens.insert(uid.to_owned(), token.clone());
                Some(token)
            }
            Err(error) => {
                tracing::warn!(%error, "no random bytes: pods cannot tell balancers of theirs from others");
                None
            }
        }
    }

    /// The app has one.
    pub fn forget(&self, uid: &str) {
        let mut tokens = self.0.lock().expect("invariant: no panic holds it");
        tokens.remove(uid);
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
    fn an_app_keeps_its_token_until_it_is_stored() {
        let tokens = Tokens::default();
        let (one, other) = (tokens.of("a").unwrap(), tokens.of("b").unwrap());
        assert_ne!(one, other);
        assert_eq!(tokens.of("a").as_ref(), Some(&one));
        tokens.forget("a");
        assert_ne!(tokens.of("a").as_ref(), Some(&one));
        assert!(!format!("{tokens:?}").contains(&other));
    }
}
