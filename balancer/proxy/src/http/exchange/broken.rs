//! An attempt without a complete answer: what became of its worker, what it means for the
//! endpoint, and whether another attempt follows.
//!
//! What may be repeated is decided in `scaledapp-select`; what was certainly not read, in
//! `unread`.

use scaledapp_http1::{Elsewhere, Trust};
use scaledapp_select::{self as select, EndedBy, Failed, Fate, HandBack, Next, Outcome};

use super::outcome::note;
use super::state::Exchange;
use crate::endpoint::Endpoint;
use crate::http::attempt::BrokenOff;
use crate::http::request::Then;
use crate::http::upstream::Upstream;
use crate::metrics::{Failure, count};
use crate::thread::Thread;

impl Exchange<'_> {
    /// What an attempt without a complete answer means; `None`: another attempt follows.
    pub(super) async fn broke_off(
        &mut self,
        broken: BrokenOff,
        upstream: Upstream,
        endpoint: &Endpoint,
    ) -> Option<Then> {
        let thread = self.thread;
        let is_idempotent = self.meta.is_idempotent;
        let BrokenOff {
            cause,
            headed,
            answered,
        } = broken;
        let mut failed = Failed {
            written: self.request.has_begun(),
            answered,
            replayable: self.request.is_whole(),
            // A dispatcher that hands a request back has answered, so its connection was
            // not stale.
            reused: upstream.reused && cause != Failure::HandedBack,
        };
        let is_unprocessed = upstream.link.transport.is_unprocessed();
        if is_unprocessed {
            // The failure is treated like that of a kept connection that was closed in the
            // meantime.
            failed.written = false;
            failed.reused = true;
        }
        let hands_back = upstream.hands_back;
        let sent = upstream.sent(endpoint.may_reset());
        // The connection is closed now, so that a request that is given up ends at its
        // server even if its client reads the answer slowly. Moreover, the kernel reports
        // on the proxy's socket only once the socket is closed.
        drop(upstream);
        if cause == Failure::Upstream
            && select::needs_proof(failed, &self.past, is_idempotent)
            && let Some(sent) = sent
            && thread.upstreams.witness.is_unread(&sent).await
        {
            count(&thread.counts.unread);
            failed.written = false;
        }
        let fate = fate(endpoint, cause, failed, hands_back).await;
        self.past.broke(failed, fate.0);
        if failed.written {
            self.search
                .broke(thread, &self.request, endpoint, &self.past, fate);
        }
        let max_tries = thread.config.limits.attempts;
        let next = select::next(failed, &self.past, is_idempotent, max_tries);
        if settle(thread, endpoint, (cause, is_unprocessed), failed, next) {
            self.past.handed_back |= cause == Failure::HandedBack;
            self.search.go_on(endpoint, failed, &self.past);
            return None;
        }
        thread.counts.failed(cause);
        let elsewhere = match next {
            Next::HandBack(HandBack::NotExecuted) if cause == Failure::Upstream => {
                Some(Elsewhere::NotExecuted)
            }
            Next::HandBack(HandBack::Interrupted) if cause == Failure::Upstream => {
                Some(Elsewhere::Interrupted)
            }
            // The budget did not allow another attempt.
            Next::Again if cause == Failure::Upstream && self.past.deaths == 0 => {
                Some(Elsewhere::Interrupted)
            }
            _ => None,
        };
        // Only a ScaledApp proxy may see this report.
        let elsewhere = elsewhere.filter(|_| self.client.trust == Trust::Behind);
        let answer = self.give_up(cause, Some(endpoint), headed, elsewhere);
        Some(answer.await)
    }
}

/// What became of the process behind an endpoint at which an attempt has failed, and
/// whether this was the only request there. `says` is what a dispatcher there has reported.
async fn fate(
    endpoint: &Endpoint,
    cause: Failure,
    failed: Failed,
    says: Option<Elsewhere>,
) -> (Fate, bool) {
    match (cause, says) {
        (Failure::HandedBack, Some(Elsewhere::Interrupted)) => (Fate::Ended(EndedBy::Other), false),
        // Dispatchers of older versions report this for every end of a worker, whatever its
        // cause.
        (Failure::HandedBack, _) => (Fate::Unknown, false),
        (Failure::Upstream | Failure::CutOff, _) if failed.written => endpoint.fate().await,
        _ => (Fate::Lives, false),
    }
}

/// What a failed attempt means for the endpoint, and whether another attempt follows.
fn settle(
    thread: &Thread,
    endpoint: &Endpoint,
    (cause, is_unprocessed): (Failure, bool),
    failed: Failed,
    next: Next,
) -> bool {
    // None of these is the endpoint's fault.
    if matches!(
        cause,
        Failure::ClientGone | Failure::ClientTimeout | Failure::Memory | Failure::GaveWay
    ) {
        return false;
    }
    if cause == Failure::Unasked {
        // The endpoint's answer did not belong to this request. The request now goes over a
        // new connection, where that cannot happen, so this costs neither an attempt nor
        // budget.
        count(&thread.counts.repeated);
        return true;
    }
    endpoint.count_broken();
    count(&thread.counts.not_served);
    if cause == Failure::HandedBack {
        note(thread, endpoint, Outcome::Error);
    } else if !failed.reused {
        note(thread, endpoint, Outcome::Broken);
    } else if !is_unprocessed {
        // A server that merely refuses one stream keeps its connection.
        thread.upstreams.forget(endpoint.id());
    }
    // After a timeout the client has waited long enough, and the server may be overloaded.
    let may_repeat = matches!(cause, Failure::Upstream | Failure::HandedBack);
    if !may_repeat || next != Next::Again {
        return false;
    }
    // A kept connection that was closed in the meantime is no sign of trouble.
    if !failed.reused && !thread.upstreams.budget.borrow_mut().withdraw() {
        count(&thread.counts.budget_spent);
        return false;
    }
    count(&thread.counts.repeated);
    true
}
