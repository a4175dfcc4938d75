//! A try that has got no whole answer: what became of its worker, what it means for the
//! endpoint, and whether another try follows.
//!
//! What may be repeated is decided in `retry`, what was certainly not read in `unread`.

use scaledapp_http1::{Elsewhere, Trust};

use super::search::Search;
use super::{Then, give_up};
use crate::attempt::Upstream;
use crate::body::Flow;
use crate::clock;
use crate::connection::{Asked, Client};
use crate::endpoint::{EndedBy, Endpoint};
use crate::metrics::{Failure, count};
use crate::outlier::{self, Outcome};
use crate::retry::{self, Failed, Fate, Next, Past};
use crate::thread::Thread;

/// A try that has got no whole answer.
pub(super) struct Broke<'a> {
    pub(super) cause: Failure,
    pub(super) headed: bool,
    pub(super) answered: bool,
    pub(super) upstream: Upstream,
    pub(super) endpoint: &'a Endpoint,
    pub(super) past: &'a mut Past,
    pub(super) search: &'a mut Search,
}

/// What such a try means; `None`: another one.
pub(super) async fn broke_off(
    thread: &Thread,
    client: &mut Client,
    asked: &Asked,
    request: &Flow,
    broke: Broke<'_>,
) -> Option<Then> {
    let Broke {
        cause,
        headed,
        answered,
        upstream,
        endpoint,
        past,
        search,
    } = broke;
    let mut failed = Failed {
        written: request.has_begun(),
        answered,
        replayable: request.is_whole(),
        // Who hands back has answered: its connection was no stale one.
        reused: upstream.reused && cause != Failure::HandedBack,
    };
    let hands_back = upstream.hands_back;
    let sent = upstream.sent(endpoint.may_reset());
    // What is given up ends there now, however long the client takes to hear it; and
    // the kernel tells of an end of ours only when it is closed.
    drop(upstream);
    if cause == Failure::Upstream
        && retry::needs_proof(failed, past, asked.is_idempotent)
        && let Some(sent) = sent
        && thread.witness.is_unread(&sent).await
    {
        count(&thread.counts.unread);
        failed.written = false;
    }
    let fate = fate(endpoint, cause, failed, hands_back).await;
    past.broke(failed, fate.0);
    if failed.written {
        search.broke(thread, request, endpoint, past, fate);
    }
    let tries = thread.config.limits.attempts;
    let next = retry::next(failed, past, asked.is_idempotent, tries);
    if settle(thread, endpoint, cause, failed, next) {
        past.handed_back |= cause == Failure::HandedBack;
        search.go_on(endpoint, failed, past);
        return None;
    }
    thread.counts.failed(cause);
    let elsewhere = match next {
        Next::HandBack(elsewhere) if cause == Failure::Upstream => Some(elsewhere),
        // For want of budget.
        Next::Again if cause == Failure::Upstream && past.deaths == 0 => {
            Some(Elsewhere::Interrupted)
        }
        _ => None,
    };
    // Clients must not see it.
    let elsewhere = elsewhere.filter(|_| client.trust == Trust::Behind);
    Some(
        give_up(
            thread,
            client,
            asked,
            (cause, Some(endpoint)),
            headed,
            elsewhere,
        )
        .await,
    )
}

/// What became of the process behind an endpoint at which a try has failed, and whether
/// this was the only request there; `says` is what a dispatcher there has said of it.
async fn fate(
    endpoint: &Endpoint,
    cause: Failure,
    failed: Failed,
    says: Option<Elsewhere>,
) -> (Fate, bool) {
    match (cause, says) {
        (Failure::HandedBack, Some(Elsewhere::Interrupted)) => (Fate::Ended(EndedBy::Other), false),
        // Dispatchers of older versions say so of whatever ended their workers.
        (Failure::HandedBack, _) => (Fate::Unknown, false),
        (Failure::Upstream | Failure::CutOff, _) if failed.written => endpoint.fate().await,
        _ => (Fate::Lives, false),
    }
}

/// Takes an outcome into the endpoint's record.
pub(super) fn note(thread: &Thread, endpoint: &Endpoint, outcome: Outcome) {
    let counts_errors =
        thread.config.ejects_errors && (outcome != Outcome::Error || !thread.ejects_too_many());
    match endpoint.outlier.note(outcome, clock::now(), counts_errors) {
        None => return,
        Some(1) => tracing::warn!(
            endpoint = endpoint.name(),
            "{}; it gets no requests for {:?}, and longer each time if it goes on",
            outcome.words(),
            outlier::FIRST
        ),
        Some(times) => tracing::debug!(
            endpoint = endpoint.name(),
            ?outcome,
            times,
            "left alone again"
        ),
    }
    count(&thread.counts.ejections);
}

/// What a failed attempt means for the endpoint, and whether another follows.
fn settle(
    thread: &Thread,
    endpoint: &Endpoint,
    cause: Failure,
    failed: Failed,
    next: Next,
) -> bool {
    // None of them is the endpoint's doing.
    if matches!(
        cause,
        Failure::ClientGone | Failure::ClientTimeout | Failure::Memory | Failure::GaveWay
    ) {
        return false;
    }
    if cause == Failure::Unasked {
        // Not an answer to this request. It goes over a connection of its own now,
        // where no such thing can be, so this costs neither a try nor the budget.
        count(&thread.counts.repeated);
        return true;
    }
    if let Some(tally) = endpoint.tally() {
        tally.broke();
    }
    if cause == Failure::HandedBack {
        note(thread, endpoint, Outcome::Error);
    } else if failed.reused {
        thread.pool.borrow_mut().forget(endpoint.id());
    } else {
        note(thread, endpoint, Outcome::Broken);
    }
    // A time-out has used up the client's patience, and maybe the server's strength.
    let may_repeat = matches!(cause, Failure::Upstream | Failure::HandedBack);
    if !may_repeat || next != Next::Again {
        return false;
    }
    // A kept connection that was closed in between is no sign of trouble.
    if !failed.reused && !thread.budget.borrow_mut().withdraw() {
        count(&thread.counts.budget_spent);
        return false;
    }
    count(&thread.counts.repeated);
    true
}
