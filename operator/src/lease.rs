//! Which replica writes: the one that holds the Lease.
//!
//! [`decide`] is pure. Clocks of different machines are never compared: a Lease has expired when,
//! by the replica's own monotonic clock, it has not changed for its duration. A leader that
//! cannot renew stops writing after [`GRACE`] and becomes a follower; unless the Lease is
//! released, another replica may lead only after [`DURATION`], which is longer. Losing the Lease
//! does not end a replica.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use scaledapp_crds::words::MANAGER;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::call::CALL_TIMEOUT;

/// Name of the Lease.
pub const NAME: &str = MANAGER;
/// Another replica takes over when the Lease has not been renewed for this long.
pub const DURATION: Duration = Duration::from_secs(10);
/// How often the holder renews the Lease and the others read it.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// How long the holder may write after the start of its last successful renewal. This plus
/// a call's timeout is less than [`DURATION`].
pub const GRACE: Duration = Duration::from_secs(6);

const _: () = assert!(GRACE.as_secs() + CALL_TIMEOUT.as_secs() < DURATION.as_secs());

/// The content of a Lease, and since when the content has not changed.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseContent {
    /// The replica that holds it; none after a release.
    pub holder: Option<String>,
    /// How long it stays valid without a change.
    pub duration: Duration,
    /// When this content was first read, by the replica's own clock.
    pub since: Instant,
}

/// What to do about the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The Lease does not exist: create it.
    Create,
    /// The Lease is free or expired: take it.
    Acquire,
    /// This replica holds the Lease: renew it.
    Renew,
    /// Another replica holds the Lease: follow.
    Follow,
}

/// What replica `me` does at `now` about the Lease that it last read.
pub fn decide(lease: Option<&LeaseContent>, me: &str, now: Instant) -> Decision {
    let Some(lease) = lease else {
        return Decision::Create;
    };
    match lease.holder.as_deref() {
        Some(holder) if holder == me => Decision::Renew,
        None | Some("") => Decision::Acquire,
        Some(_) if now.duration_since(lease.since) >= lease.duration => Decision::Acquire,
        Some(_) => Decision::Follow,
    }
}

/// Whether this replica leads. A check is cheap, so it is made before each write.
#[derive(Debug, Clone)]
pub struct Leadership {
    until: watch::Receiver<Option<Instant>>,
    terms: watch::Receiver<u64>,
    holder: watch::Receiver<Option<String>>,
}

impl Leadership {
    /// A leadership that never changes, for tests.
    pub fn fixed(leads: bool) -> Self {
        let (until, _) = watch::channel(leads.then(|| Instant::now() + Duration::from_hours(24)));
        let (terms, _) = watch::channel(u64::from(leads));
        let (holder, _) = watch::channel(None);
        Self {
            until: until.subscribe(),
            terms: terms.subscribe(),
            holder: holder.subscribe(),
        }
    }

    /// Whether this replica may write now.
    pub fn leads(&self) -> bool {
        self.until
            .borrow()
            .is_some_and(|until| Instant::now() < until)
    }

    /// The replica that holds the Lease, if known.
    pub fn holder(&self) -> Option<String> {
        self.holder.borrow().clone()
    }

    /// Waits until this replica becomes the leader; returns immediately if it has become the
    /// leader since the previous call. Never returns once the [`Elector`] is dropped. Cancel
    /// safe.
    pub async fn gained(&mut self) {
        if self.terms.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Takes part in the leader election.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    me: String,
    /// The Lease as last read or written.
    lease: Option<Lease>,
    seen: Option<LeaseContent>,
    until: watch::Sender<Option<Instant>>,
    terms: watch::Sender<u64>,
    holder: watch::Sender<Option<String>>,
}

impl Elector {
    /// Takes part as `me`, from [`Self::run`] on.
    pub fn new(api: Api<Lease>, me: String) -> (Self, Leadership) {
        let (until, until_seen) = watch::channel(None);
        let (terms, terms_seen) = watch::channel(0);
        let (holder, holder_seen) = watch::channel(None);
        let elector = Self {
            api,
            me,
            lease: None,
            seen: None,
            until,
            terms,
            holder,
        };
        let leadership = Leadership {
            until: until_seen,
            terms: terms_seen,
            holder: holder_seen,
        };
        (elector, leadership)
    }

    /// Takes part until dropped. Cancel safe: if a write was cut off, the next write gets a
    /// conflict, and then the Lease is read again.
    pub async fn run(&mut self) {
        let mut failing = false;
        loop {
            let begun = Instant::now();
            let led = self.leads(begun);
            match self.step(begun).await {
                Ok(()) if failing => {
                    failing = false;
                    tracing::info!("the Lease can be read and renewed again");
                }
                Ok(()) => {}
                Err(error) => {
                    if !failing {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "cannot read or renew the Lease");
                    }
                    failing = true;
                }
            }
            let leads = self.leads(Instant::now());
            if led && !leads {
                tracing::warn!("this replica is no longer the leader");
            }
            tokio::time::sleep_until(begun + RENEW_INTERVAL).await;
        }
    }

    fn leads(&self, now: Instant) -> bool {
        self.until.borrow().is_some_and(|until| now < until)
    }

    /// Reads the Lease, unless this replica already holds it. Then creates, takes or renews the
    /// Lease if [`decide`] says so.
    ///
    /// # Errors
    /// The API server refused or did not answer. Unless a later step succeeds, leadership
    /// expires.
    pub async fn step(&mut self, now: Instant) -> Result<(), LeaseError> {
        let stepped = self.look(now).await;
        if stepped.is_err() {
            // The next step reads the result.
            self.lease = None;
        }
        stepped
    }

    async fn look(&mut self, now: Instant) -> Result<(), LeaseError> {
        let ours = self.seen.as_ref().and_then(|seen| seen.holder.as_deref()) == Some(&self.me);
        if self.lease.is_none() || !ours {
            let lease = self.timed(self.api.get_opt(NAME)).await?;
            self.see(lease, now);
        }
        let decision = decide(self.seen.as_ref(), &self.me, now);
        let written = match decision {
            Decision::Follow => {
                self.until.send_replace(None);
                return Ok(());
            }
            Decision::Create => {
                let lease = self.written(decision);
                self.timed(self.api.create(&PostParams::default(), &lease))
                    .await?
            }
            Decision::Acquire | Decision::Renew => {
                let lease = self.written(decision);
                // The write carries the resourceVersion, so that the slower replica gets a
                // conflict.
                self.timed(self.api.replace(NAME, &PostParams::default(), &lease))
                    .await?
            }
        };
        self.see(Some(written), now);
        if !self.leads(now) {
            tracing::info!(identity = self.me, "this replica is the leader");
            self.until.send_replace(Some(now + GRACE));
            self.terms.send_modify(|terms| *terms += 1);
        }
        self.until.send_replace(Some(now + GRACE));
        Ok(())
    }

    /// Stops leading and releases the Lease, so that another replica can take it immediately. Best
    /// effort.
    pub async fn release(&mut self) {
        let led = self.leads(Instant::now());
        self.until.send_replace(None);
        let Some(mut lease) = self.lease.take().filter(|_| led) else {
            return;
        };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        let params = PostParams::default();
        let replaced = self.timed(self.api.replace(NAME, &params, &lease));
        if let Err(error) = replaced.await {
            tracing::warn!(%error, "cannot release the Lease; another replica waits for it to expire");
        }
    }

    async fn timed<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
        match timeout(CALL_TIMEOUT, call).await {
            Ok(result) => result.map_err(LeaseError::new),
            Err(_elapsed) => Err(LeaseError::Timeout),
        }
    }

    /// Records the current content of the Lease.
    fn see(&mut self, lease: Option<Lease>, now: Instant) {
        let version = |lease: &Option<Lease>| {
            lease
                .as_ref()
                .and_then(|lease| lease.metadata.resource_version.clone())
        };
        let spec = lease
            .as_ref()
            .map(|lease| lease.spec.clone().unwrap_or_default());
        let same = self.seen.is_some() && version(&self.lease) == version(&lease);
        let since = self.seen.as_ref().filter(|_| same).map(|seen| seen.since);
        self.seen = spec.map(|spec| LeaseContent {
            holder: spec.holder_identity,
            duration: spec.lease_duration_seconds.map_or(DURATION, |seconds| {
                Duration::from_secs(seconds.max(1) as u64)
            }),
            since: since.unwrap_or(now),
        });
        let holder = self.seen.as_ref().and_then(|seen| seen.holder.clone());
        self.holder.send_if_modified(|shown| {
            let changed = *shown != holder;
            *shown = holder;
            changed
        });
        self.lease = lease;
    }

    /// The Lease to write.
    fn written(&self, decision: Decision) -> Lease {
        let mut lease = self.lease.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        // The times are for people; no decision depends on them.
        let time = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        if decision == Decision::Acquire {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
        }
        if decision != Decision::Renew {
            spec.acquire_time = Some(time.clone());
        }
        *spec = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            renew_time: Some(time),
            ..spec.clone()
        };
        lease
    }
}

/// The Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another replica has written the Lease in the meantime.
    #[error("another replica was faster")]
    Conflict,
    /// The API server refused.
    #[error("the API server refuses: {0}")]
    Refused(String),
    /// The API server could not be reached.
    #[error("the API server cannot be reached")]
    Unreachable(#[source] Box<kube::Error>),
    /// The API server did not answer in time.
    #[error("the API server did not answer within {CALL_TIMEOUT:?}")]
    Timeout,
}

impl LeaseError {
    fn new(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 409 => Self::Conflict,
            kube::Error::Api(status) => Self::Refused(status.message.clone()),
            error => Self::Unreachable(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_renews_the_lease_and_others_wait_until_it_is_free_or_expired() {
        let start = Instant::now();
        let held_by = |holder: Option<&str>| LeaseContent {
            holder: holder.map(ToOwned::to_owned),
            duration: DURATION,
            since: start,
        };
        let fresh = Duration::from_secs(9);
        for (lease, age, expected) in [
            (None, Duration::ZERO, Decision::Create),
            (Some(held_by(Some("me"))), Duration::ZERO, Decision::Renew),
            // No other replica took the Lease while this one was suspended, so this one probably
            // still holds it. The write shows whether it does.
            (Some(held_by(Some("me"))), 9 * DURATION, Decision::Renew),
            (Some(held_by(None)), Duration::ZERO, Decision::Acquire),
            (Some(held_by(Some(""))), Duration::ZERO, Decision::Acquire),
            (
                Some(held_by(Some("other"))),
                Duration::ZERO,
                Decision::Follow,
            ),
            (Some(held_by(Some("other"))), fresh, Decision::Follow),
            (Some(held_by(Some("other"))), DURATION, Decision::Acquire),
        ] {
            assert_eq!(
                decide(lease.as_ref(), "me", start + age),
                expected,
                "{lease:?} after {age:?}"
            );
        }
    }
}
