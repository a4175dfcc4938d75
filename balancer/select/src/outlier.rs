//! Outlier detection: which endpoints are ejected for a while because requests to them
//! have failed.
//!
//! The decision depends on outcomes and on the time that is passed in; the caller decides
//! what counts as a failure. After an ejection, an endpoint gets one request at a time until
//! one succeeds. The first success then clears its record; another failure of the same kind
//! ejects it for twice as long.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// This many failures in a row ([`Outcome::Broken`]) eject an endpoint: its pod may have
/// been deleted.
const MAX_FAILURES: u32 = 3;
/// This many 5xx answers without a good answer in between eject an endpoint (Envoy's
/// default).
const MAX_ERRORS: u32 = 5;
/// Failures of any kind are counted for this long, from the first one on.
const WINDOW: Duration = Duration::from_secs(10);
/// At least this many failures within [`WINDOW`] eject an endpoint, if they are more than
/// [`MAX_FAILED_PERCENT`] of its requests. With fewer, a coincidence would eject endpoints.
const MIN_FAILED: u32 = 5;
/// If an endpoint fails more often than this, clients are better off without it (Linkerd's
/// default).
const MAX_FAILED_PERCENT: u32 = 20;
/// How long the first ejection lasts; each further one lasts twice as long.
pub const FIRST_EJECTION: Duration = Duration::from_secs(1);
/// The longest ejection: after about this time at the latest, an endpoint that is still
/// listed may be tried again.
const MAX_EJECTION: Duration = Duration::from_mins(1);
/// An ejection lasts up to this much longer, in percent. Otherwise balancers that have ejected
/// an endpoint at the same moment would also try it again at the same moment.
const JITTER_PERCENT: u32 = 25;
/// After an ejection, requests to an endpoint are this far apart until one succeeds. A request
/// that takes longer does not keep the endpoint from being tried.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How a request at an endpoint turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, and the answer shows no failure of the server.
    Answered,
    /// The answer shows a failure of the server, such as a status of 500 or more.
    Error,
    /// No process listens there.
    Refused,
    /// The connection broke, or no answer came in time.
    Broken,
}

impl Outcome {
    /// The reason of an ejection, for the log.
    pub fn words(self) -> &'static str {
        match self {
            Self::Refused => "the endpoint refuses connections (does its server run?)",
            Self::Error => "the endpoint has answered with 5xx several times",
            Self::Broken => "the endpoint has broken off, or not answered in time, several times",
            Self::Answered => "the endpoint has answered",
        }
    }
}

/// What an outcome changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Same,
    /// The endpoint is ejected, for this many times in a row.
    Ejected(u32),
    /// The endpoint was ejected, and has served again.
    Back,
}

/// Which endpoints may be ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether 5xx answers count against an endpoint.
    pub counts_errors: bool,
}

/// The record of one endpoint. All threads write to it. If two write at the same time, one
/// update may be lost; the endpoint is then ejected one failure later, which is harmless.
#[derive(Debug, Default)]
pub struct Outlier {
    failures: AtomicU32,
    errors: AtomicU32,
    ejections: AtomicU32,
    /// Until when it is ejected, in milliseconds on the process's clock; 0 if it has served
    /// since.
    until: AtomicU64,
    /// It was ejected for its answers, so an answer does not end the ejection.
    for_errors: AtomicBool,
    /// When the next request may try it after the ejection, in milliseconds.
    next_probe: AtomicU64,
    /// When the window began, in milliseconds; 0 if nothing has failed recently.
    window: AtomicU64,
    /// Requests and failures in the window.
    requests: AtomicU32,
    failed: AtomicU32,
}

impl Outlier {
    /// Records an outcome. `may_eject` is asked only if the outcome is a reason to eject the
    /// endpoint; it says whether the others can do its work. `random` lengthens an ejection.
    ///
    /// A refused connection ejects in any case. It shows that no process listens, and requests
    /// that are sent there help nobody.
    pub fn note(
        &self,
        outcome: Outcome,
        now: Duration,
        rules: Rules,
        may_eject: impl FnOnce() -> bool,
        random: &mut fastrand::Rng,
    ) -> Verdict {
        let failed = match outcome {
            Outcome::Answered => false,
            Outcome::Error => rules.counts_errors,
            Outcome::Broken | Outcome::Refused => true,
        };
        self.count(now, failed);
        if !failed {
            return self.succeeded(now);
        }
        let is_enough = match outcome {
            Outcome::Answered => false,
            Outcome::Error => {
                self.failures.store(0, Ordering::Relaxed);
                self.errors.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_ERRORS
            }
            Outcome::Refused => true,
            Outcome::Broken => self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_FAILURES,
        };
        let is_outlier = is_enough || self.fails_often();
        // Requests that were already in flight at the ejection say nothing new.
        let is_due = is_outlier && !self.is_ejected(now);
        if !is_due {
            return Verdict::Same;
        }
        if outcome != Outcome::Refused && !may_eject() {
            // It was ejected, and meanwhile the others fail as well, or are ejected themselves.
            self.forgive();
            return Verdict::Same;
        }
        let is_error = outcome == Outcome::Error;
        self.for_errors.store(is_error, Ordering::Relaxed);
        self.eject(now, random)
    }

    /// A request has been answered, and the answer shows no failure of the server.
    fn succeeded(&self, now: Duration) -> Verdict {
        // An endpoint that answers some requests with errors answers others well. Such an
        // answer may come from before the ejection.
        if self.for_errors.load(Ordering::Relaxed) && self.is_ejected(now) {
            return Verdict::Same;
        }
        self.forgive_streak();
        if self.forgive() {
            Verdict::Back
        } else {
            Verdict::Same
        }
    }

    /// Counts in the window, which begins with the first failure, so that an endpoint without
    /// failures costs one read.
    fn count(&self, now: Duration, failed: bool) {
        let (now, begun) = (
            milliseconds(now).max(1),
            self.window.load(Ordering::Relaxed),
        );
        let is_over = begun == 0 || now.saturating_sub(begun) > WINDOW.as_millis() as u64;
        if is_over && !failed {
            if begun != 0 {
                self.window.store(0, Ordering::Relaxed);
            }
            return;
        }
        if is_over {
            self.window.store(now, Ordering::Relaxed);
            self.requests.store(0, Ordering::Relaxed);
            self.failed.store(0, Ordering::Relaxed);
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn fails_often(&self) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        let requests = self.requests.load(Ordering::Relaxed);
        // The window begins with a failure, which is therefore no sample.
        let sample = |count: u32| u64::from(count.saturating_sub(1));
        let most = sample(requests) * u64::from(MAX_FAILED_PERCENT);
        failed >= MIN_FAILED && sample(failed) * 100 > most
    }

    /// The failures and the requests of the current window; `None` if nothing has failed
    /// recently.
    pub fn recent(&self, now: Duration) -> Option<(u32, u32)> {
        let begun = self.window.load(Ordering::Relaxed);
        let age = milliseconds(now).saturating_sub(begun);
        let is_current = begun != 0 && age <= WINDOW.as_millis() as u64;
        let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        is_current.then(|| (count(&self.failed), count(&self.requests)))
    }

    /// Ends an ejection, and clears the record of it. Returns whether there was one.
    pub fn forgive(&self) -> bool {
        let was_out = self.is_out();
        if was_out {
            self.forgive_streak();
            self.ejections.store(0, Ordering::Relaxed);
            self.window.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
        was_out
    }

    fn forgive_streak(&self) {
        // Reading first avoids a write to a shared cache line in the usual case.
        for counter in [&self.failures, &self.errors] {
            if counter.load(Ordering::Relaxed) != 0 {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }

    fn eject(&self, now: Duration, random: &mut fastrand::Rng) -> Verdict {
        let before = self.ejections.fetch_add(1, Ordering::Relaxed);
        let time = FIRST_EJECTION
            .saturating_mul(1 << before.min(6))
            .min(MAX_EJECTION);
        let jitter = time * random.u32(..=JITTER_PERCENT) / 100;
        let until = milliseconds(now + time + jitter);
        self.next_probe.store(until, Ordering::Relaxed);
        self.until.store(until, Ordering::Relaxed);
        Verdict::Ejected(before + 1)
    }

    /// Whether it is ejected at `now`.
    pub fn is_ejected(&self, now: Duration) -> bool {
        self.until.load(Ordering::Relaxed) > milliseconds(now)
    }

    /// Whether it was ejected and has not served since.
    pub fn is_out(&self) -> bool {
        self.until.load(Ordering::Relaxed) != 0
    }

    /// Whether it should get a request at `now`: it is not ejected, and if it was and has not
    /// served since, nobody is trying it at the moment.
    pub fn admits(&self, now: Duration) -> bool {
        !self.is_out() || self.next_probe.load(Ordering::Relaxed) <= milliseconds(now)
    }

    /// A request is about to be sent there because [`Self::admits`] has allowed it. Returns
    /// `false` if another request was faster at trying the endpoint.
    pub fn enter(&self, now: Duration) -> bool {
        if !self.is_out() {
            return true;
        }
        let next = milliseconds(now + PROBE_INTERVAL);
        let order = Ordering::Relaxed;
        let due = |probe| (probe <= milliseconds(now)).then_some(next);
        self.next_probe.fetch_update(order, order, due).is_ok()
    }
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// Whether one more of `all` endpoints may be ejected while `ejected` of the others are. At most half
/// are ejected, and never the only one.
pub fn may_eject_one_more(ejected: usize, all: usize) -> bool {
    (ejected + 1) * 2 <= all
}

/// Whether an endpoint fails clearly more often than the others: at least twice as often as
/// they do on average. `this` is what [`Outlier::recent`] returns for it, and `others` what it
/// returns for each other endpoint. If all fail alike, the cause is behind them, and to eject
/// some of them would only overload the rest.
pub fn stands_out(
    this: Option<(u32, u32)>,
    others: impl Iterator<Item = Option<(u32, u32)>>,
) -> bool {
    let thousandths = |recent: Option<(u32, u32)>| {
        recent.map_or(0, |(failed, requests)| {
            u64::from(failed) * 1000 / u64::from(requests.max(1))
        })
    };
    let (sum, count) = others.fold((0, 0), |(sum, count), one| {
        (sum + thousandths(one), count + 1)
    });
    sum * 2 <= thousandths(this) * count
}

#[cfg(test)]
mod tests;
