//! The search of one request for an endpoint: at which endpoints the request has failed,
//! which may still serve it, and how long it waits.
//!
//! What a failed attempt means for the next one is decided in `broken`.

use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Poll;
use std::time::Duration;

use scaledapp_select::{EndedBy, Failed, Fate, Past, Position, Preference, Ticket, Visit};

use crate::config::Limits;
use crate::endpoint::{Endpoint, InFlight};
use crate::held::{Held, Outcome};
use crate::http::body::Flow;
use crate::http::client::{Client, LOOK_INTERVAL};
use crate::metrics::{Counted, count};
use crate::suspects::{Name, Sign};
use crate::thread::Thread;

/// Why there is no endpoint for a request.
pub(super) enum NoEndpoint {
    /// No endpoint was free in time.
    InTime,
    /// No more requests may wait.
    QueueFull,
    /// Its client no longer waits.
    ClientGone,
    /// It was handed back and must go to another endpoint, and none is free.
    Elsewhere,
    /// Its path keeps ending workers.
    Suspect,
}

/// At which endpoints a request has failed, and how long it may still search.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Endpoints at which it has failed since it last waited.
    tried: Vec<u64>,
    /// Since when it has waited. Set at its first wait; the time applies to all of its waits
    /// together.
    since: Option<Duration>,
    /// It has been held, so it may wait for as long as that.
    was_held: bool,
    /// Until when its client waits, if the client has said so.
    client_waits_until: Option<Duration>,
    /// The endpoints that its client prefers, in this order.
    preferences: [Option<Preference>; 3],
    /// It has been sent to an endpoint.
    again: bool,
    /// It could not reach an endpoint.
    missed: bool,
    /// An endpoint has handed it back, so it must go to another one without waiting.
    elsewhere: bool,
    /// Its position in the queue, once it has waited.
    position: Option<Position>,
    /// It may be a request that ends workers.
    pub(super) is_suspect: bool,
    /// The first worker that ended while it executed this request.
    ended: Option<u64>,
    /// Method and path, known once they are needed.
    name: Option<Name>,
    /// It has waited for an endpoint since it was admitted.
    pub(super) has_waited: bool,
    /// For how long it has waited, in all.
    pub(super) waited: Duration,
}

impl Search {
    /// A search that has not begun.
    pub(super) fn new(
        client_waits_until: Option<Duration>,
        preferences: [Option<Preference>; 3],
    ) -> Self {
        Self {
            client_waits_until,
            preferences,
            ..Self::default()
        }
    }

    pub(super) fn failed_at(&mut self, endpoint: &Endpoint) {
        self.missed = true;
        self.tried.push(endpoint.id());
    }

    pub(super) fn name(&mut self, thread: &Thread, request: &Flow) -> &Name {
        self.name
            .get_or_insert_with(|| thread.upstreams.suspects.name(request.head()))
    }

    /// An attempt has broken off, and another one follows.
    pub(super) fn go_on(&mut self, endpoint: &Endpoint, failed: Failed, past: &Past) {
        self.again = true;
        self.elsewhere = past.handed_back;
        // A kept connection that was closed in the meantime says nothing about its
        // endpoint.
        if !failed.reused {
            self.failed_at(endpoint);
        }
    }

    /// An endpoint has broken off while it executed this request.
    pub(super) fn broke(
        &mut self,
        thread: &Thread,
        request: &Flow,
        endpoint: &Endpoint,
        past: &Past,
        (fate, was_alone): (Fate, bool),
    ) {
        self.is_suspect |= past.has_met_an_end();
        let Fate::Ended(by @ (EndedBy::Itself | EndedBy::Outside)) = fate else {
            return;
        };
        let worker = endpoint.id();
        let first = *self.ended.get_or_insert(worker);
        // Whether the request was the cause of a kill is decided only after a second
        // kill.
        if by == EndedBy::Outside && past.deaths < 2 {
            return;
        }
        count(&thread.counts.fatal);
        let sign = match past.deaths {
            // Both kills may have had another reason, such as a kill of all workers.
            2.. if by == EndedBy::Outside => Sign::Alone,
            2.. => Sign::Twice,
            _ if was_alone => Sign::Alone,
            _ => Sign::Beside,
        };
        let now = thread.clock.now();
        let name = self.name(thread, request);
        for worker in [first, worker] {
            thread.upstreams.suspects.ended(now, name, worker, sign);
        }
    }

    /// The request has been answered.
    pub(super) fn answered(&mut self, thread: &Thread, request: &Flow) {
        let (now, ended) = (thread.clock.now(), self.ended);
        let name = self.name(thread, request);
        thread.upstreams.suspects.answered(now, name, ended);
    }

    /// Until when it may wait.
    fn until(&self, since: Duration, limits: &Limits) -> Duration {
        let hold = limits.hold.filter(|_| self.was_held);
        let time = hold.map_or(limits.waiting_time, |hold| hold.time);
        let until = since.saturating_add(time);
        until.min(self.client_waits_until.unwrap_or(Duration::MAX))
    }

    fn visit(&self) -> Visit {
        if self.again || self.position.is_some() {
            Visit::Again(self.position)
        } else if self.missed {
            Visit::Unreached
        } else {
            Visit::First
        }
    }
}

/// Returns an endpoint that takes the request without waiting, if nobody waits already.
fn at_once<'a>(thread: &'a Thread, source: IpAddr, search: &Search) -> Option<InFlight<'a>> {
    let upstreams = &thread.upstreams;
    if upstreams.queue.is_contended() {
        return None;
    }
    let apart = search
        .is_suspect
        .then(|| upstreams.choose(source, &upstreams.apart(&search.tried), &search.preferences));
    apart
        .flatten()
        .or_else(|| upstreams.choose(source, &search.tried, &search.preferences))
}

/// Takes a place in the queue, if there is one.
fn join<'a>(thread: &'a Thread, search: &Search) -> Result<Ticket<'a>, NoEndpoint> {
    let queue = &thread.upstreams.queue;
    queue.join(search.visit()).ok_or_else(|| {
        if queue.is_holding() {
            count(&thread.counts.held_refused);
        }
        NoEndpoint::QueueFull
    })
}

/// Waits, within limits, for an endpoint and returns it.
pub(super) async fn choose<'a>(
    thread: &'a Thread,
    client: &mut Client,
    request: &mut Flow,
    search: &mut Search,
) -> Result<InFlight<'a>, NoEndpoint> {
    if let Some(entered) = at_once(thread, client.source, search) {
        return Ok(entered);
    }
    if search.elsewhere {
        return Err(NoEndpoint::Elsewhere);
    }
    let queue = &thread.upstreams.queue;
    let mut ticket = join(thread, search)?;
    search.position = Some(ticket.position());
    search.has_waited = true;
    let _waiting = Counted::new(&thread.counts.waiting);
    if ticket.is_first() {
        // The autoscaler hears at once that there is demand.
        thread.demand.send_replace(());
    }
    let now = thread.clock.now();
    let limits = &thread.config.limits;
    let began = *search.since.get_or_insert(now);
    let mut held = None;
    loop {
        let mut waited = false;
        poll_fn(|context| {
            let since = now;
            let now = thread.clock.now();
            if client.poll_gone(thread, context) || client.waits_until(thread, since) <= now {
                return Poll::Ready(Err(NoEndpoint::ClientGone));
            }
            if let Some(hold) = &limits.hold
                && (held.is_some() || queue.is_holding())
            {
                search.was_held = true;
                let held = held.get_or_insert_with(|| {
                    request.squeeze();
                    Held::begin(thread, hold)
                });
                if !held.keeps(request.held() + client.input.held()) {
                    held.ends(Outcome::Refused);
                    return Poll::Ready(Err(NoEndpoint::QueueFull));
                }
            }
            let until = search.until(began, limits);
            if until <= now {
                if let Some(held) = &mut held {
                    held.ends(Outcome::TimedOut);
                }
                return Poll::Ready(Err(NoEndpoint::InTime));
            }
            let leaves = client.waits_until(thread, since);
            // While the buffer for the client's bytes is full, the connection is not read, so
            // no read shows that the client has closed it. It is checked at this interval.
            let next = until.min(leaves).min(now + LOOK_INTERVAL);
            client.deadline.set_at(next);
            // The deadline lies ahead, so this only registers the waker.
            if client.deadline.poll(context).is_ready() {
                return Poll::Ready(Err(NoEndpoint::InTime));
            }
            let turn = ticket.poll_turn(context, now);
            waited |= turn.is_pending();
            turn.map(Ok)
        })
        .await?;
        if waited {
            // The endpoints at which the request has failed may be available again.
            search.tried.clear();
        }
        if let Some(entered) =
            thread
                .upstreams
                .choose(client.source, &search.tried, &search.preferences)
        {
            entered.was_held(ticket.found());
            if let Some(held) = &mut held {
                held.ends(Outcome::Served);
            }
            search.waited += thread.clock.now().saturating_sub(now);
            return Ok(entered);
        }
        ticket.found_nothing(search.tried.is_empty());
        search.tried.clear();
    }
}
