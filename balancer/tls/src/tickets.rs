//! Session tickets that all balancers of an app can open, although the balancers share no
//! state: the keys of tickets are derived from the private key, which every balancer has,
//! and from the time.
//!
//! This file decides which key seals tickets, which keys open them, and for how long. rustls does
//! not limit the age of a ticket, so a ticket expires when its key is dropped.
//!
//! A key seals tickets for an epoch of six hours, and opens them for one epoch more. The
//! key of the next epoch also opens tickets, because clocks differ. Anybody who gets the
//! private key can open tickets. With TLS 1.3, an opened ticket only allows a third party
//! to impersonate the server, which the private key allows anyway: each resumption
//! exchanges new keys. A TLS 1.2 ticket contains the secret of its session, so it would
//! reveal past traffic. Therefore only TLS 1.3 sessions are sealed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use rustls::server::ProducesTickets;

/// How long a key seals tickets.
const EPOCH: Duration = Duration::from_hours(6);
/// The length of a key's name, which precedes what the key has sealed.
const NAME_LEN: usize = 16;
/// The longest ticket. A session with a client's name in it is far smaller. Longer tickets
/// are ignored.
const MAX_TICKET_BYTES: usize = 4 << 10;

/// Seconds since 1970, as [`std::time::SystemTime`] counts them.
type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Seals and opens tickets. It outlives the certificates: what was sealed before a
/// certificate was replaced can be opened afterwards.
pub struct Tickets {
    clock: Clock,
    state: Mutex<State>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// The newest first; the first one seals.
    secrets: Vec<[u8; 32]>,
    /// The epoch of the keys. They are derived again when it is over.
    epoch: u64,
    /// The first key seals, all of them open.
    keys: Vec<Key>,
}

struct Key {
    name: [u8; NAME_LEN],
    sealing: RandomizedNonceKey,
}

/// The number of bytes that HKDF must return.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Key {
    /// `None` only if the library refuses the length of a key, which is a constant.
    fn derive(secret: &[u8; 32], epoch: u64) -> Option<Self> {
        let epoch = epoch.to_be_bytes();
        let secret = Salt::new(HKDF_SHA256, b"scaledapp session tickets").extract(secret);
        let fill = |what: &[u8], into: &mut [u8]| {
            let info = [what, &epoch];
            let okm = secret.expand(&info, Length(into.len())).ok()?;
            okm.fill(into).ok()
        };
        let (mut name, mut key) = ([0; NAME_LEN], [0; 32]);
        fill(b"name", &mut name)?;
        fill(b"key", &mut key)?;
        let sealing = RandomizedNonceKey::new(&AES_256_GCM, &key).ok()?;
        Some(Self { name, sealing })
    }
}

impl State {
    fn renew(&mut self, epoch: u64) {
        let epochs = [epoch, epoch.wrapping_sub(1), epoch + 1];
        self.keys = epochs
            .iter()
            .flat_map(|epoch| self.secrets.iter().map(move |secret| (secret, *epoch)))
            .filter_map(|(secret, epoch)| Key::derive(secret, epoch))
            .collect();
        self.epoch = epoch;
    }
}

impl Tickets {
    /// `clock` returns the time of day, in seconds since 1970.
    pub fn new(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self {
            clock: Arc::new(clock),
            state: Mutex::default(),
        }
    }

    /// Sets the hashes of the private keys, the newest first. The newest of the previous
    /// hashes is kept for one more change, so that replacing a certificate ends no session.
    pub fn set_secrets(&self, secrets: &[[u8; 32]]) {
        let mut state = self.state();
        if state.secrets.starts_with(secrets) {
            return;
        }
        let old = std::mem::take(&mut state.secrets);
        let kept = old.into_iter().filter(|old| !secrets.contains(old));
        state.secrets = secrets.iter().copied().chain(kept.take(1)).collect();
        let epoch = self.epoch();
        state.renew(epoch);
    }

    fn epoch(&self) -> u64 {
        (self.clock)() / EPOCH.as_secs()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Each change is one assignment, so a panic leaves complete keys.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `act` with the keys of the current epoch.
    fn with_keys<T>(&self, act: impl FnOnce(&[Key]) -> T) -> T {
        let epoch = self.epoch();
        let mut state = self.state();
        if state.epoch != epoch {
            state.renew(epoch);
        }
        act(&state.keys)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// A ticket that is sealed at the end of an epoch can be opened for one epoch more.
    fn lifetime(&self) -> u32 {
        EPOCH.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if !is_tls13(plain) {
            return None;
        }
        self.with_keys(|keys| {
            let key = keys.first()?;
            let mut sealed = plain.to_vec();
            let nonce = key
                .sealing
                .seal_in_place_append_tag(Aad::from(&key.name), &mut sealed)
                .ok()?;
            let ticket = [&key.name[..], nonce.as_ref(), &sealed].concat();
            (ticket.len() <= MAX_TICKET_BYTES).then_some(ticket)
        })
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > MAX_TICKET_BYTES {
            return None;
        }
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        self.with_keys(|keys| {
            let key = keys.iter().find(|key| key.name == *name)?;
            let mut sealed = sealed.to_vec();
            let length = key
                .sealing
                .open_in_place(nonce, Aad::from(&key.name), &mut sealed)
                .ok()?
                .len();
            sealed.truncate(length);
            Some(sealed)
        })
    }
}

/// Whether a session is one of TLS 1.3. rustls passes a session to a ticketer in this form:
/// a flag, the server name if the flag is 1, then the version. A session in any other form
/// does not count as one of TLS 1.3, so that a change of the form prevents resumption, but
/// never weakens secrecy.
fn is_tls13(session: &[u8]) -> bool {
    let after_name = match session {
        [0, rest @ ..] => rest,
        [1, length, rest @ ..] => rest.get(usize::from(*length)..).unwrap_or_default(),
        _ => return false,
    };
    after_name.starts_with(&[0x03, 0x04])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const HOUR: u64 = 3600;
    /// A session without a server name.
    const SESSION: &[u8] = b"\0\x03\x04session";

    fn tickets(secret: u8) -> (Arc<AtomicU64>, Tickets) {
        let now = Arc::new(AtomicU64::new(1000 * 6 * HOUR));
        let clock = Arc::clone(&now);
        let tickets = Tickets::new(move || clock.load(Ordering::Relaxed));
        tickets.set_secrets(&[[secret; 32]]);
        (now, tickets)
    }

    #[test]
    fn every_balancer_with_the_private_key_opens_what_another_one_sealed() {
        let (_, one) = tickets(1);
        let (_, other) = tickets(1);
        let (_, stranger) = tickets(2);
        let ticket = one.encrypt(SESSION).unwrap();
        assert_eq!(other.decrypt(&ticket).unwrap(), SESSION);
        assert_eq!(stranger.decrypt(&ticket), None);
        assert_ne!(one.encrypt(SESSION).unwrap(), ticket);
    }

    #[test]
    fn a_ticket_ends_with_its_key() {
        let (now, tickets) = tickets(1);
        let ticket = tickets.encrypt(SESSION).unwrap();
        for (hours, opens) in [(5, true), (11, true), (12, false)] {
            now.store((1000 * 6 + hours) * HOUR, Ordering::Relaxed);
            assert_eq!(tickets.decrypt(&ticket).is_some(), opens, "{hours} h");
        }
        // A balancer whose clock is behind opens what the next epoch's key has sealed.
        let ahead = tickets.encrypt(SESSION).unwrap();
        now.store((1000 * 6 + 11) * HOUR, Ordering::Relaxed);
        assert!(tickets.decrypt(&ahead).is_some());
    }

    #[test]
    fn a_replaced_certificate_ends_no_session_until_the_next_replacement() {
        let (_, tickets) = tickets(1);
        let ticket = tickets.encrypt(SESSION).unwrap();
        tickets.set_secrets(&[[2; 32]]);
        assert!(tickets.decrypt(&ticket).is_some());
        // Setting the same secret again changes nothing.
        tickets.set_secrets(&[[2; 32]]);
        assert!(tickets.decrypt(&ticket).is_some());
        tickets.set_secrets(&[[3; 32]]);
        assert_eq!(tickets.decrypt(&ticket), None);
    }

    #[test]
    fn bytes_that_are_no_ticket_are_not_opened() {
        let (_, tickets) = tickets(1);
        let mut ticket = tickets.encrypt(SESSION).unwrap();
        for length in 0..ticket.len() {
            assert_eq!(tickets.decrypt(&ticket[..length]), None, "{length}");
        }
        for at in 0..ticket.len() {
            ticket[at] ^= 1;
            assert_eq!(tickets.decrypt(&ticket), None, "{at}");
            ticket[at] ^= 1;
        }
        assert_eq!(tickets.decrypt(&vec![0; MAX_TICKET_BYTES + 1]), None);
        let long = [SESSION, &[0; MAX_TICKET_BYTES]].concat();
        assert_eq!(tickets.encrypt(&long), None);
    }

    #[test]
    fn only_sessions_of_tls13_are_sealed() {
        let (_, tickets) = tickets(1);
        for (session, sealed) in [
            (&b"\0\x03\x04..."[..], true),
            (b"\x01\x03a.b\x03\x04...", true),
            (b"\0\x03\x03...", false),
            (b"\x01\x03a.b\x03\x03...", false),
            (b"\x02\x03\x04", false),
            (b"\x01\xff\x03\x04", false),
            (b"", false),
        ] {
            assert_eq!(tickets.encrypt(session).is_some(), sealed, "{session:?}");
        }
    }
}
