//! One request from its head to the end of its answer: the endpoint that it goes to,
//! further attempts where they are allowed, and the answer if there is no endpoint.
//!
//! How bytes flow in one attempt is decided in `attempt`; how long a request waits for an
//! endpoint, in `search`; what a failed attempt means, in `broken`.

mod admission;
mod answers;
mod broken;
mod gather;
mod limited;
mod outcome;
mod reach;
mod search;
mod state;

use scaledapp_http1 as http1;
use scaledapp_select::{Outcome, may_need_proof};
use tokio::sync::SemaphorePermit;

pub(crate) use self::outcome::note;
pub(crate) use self::reach::refused;
use self::reach::{keep, reach};
use self::search::{NoEndpoint, choose};
use self::state::Exchange;
use super::attempt::{Answered, Attempt, End};
use super::client::Client;
use super::request::{RequestMeta, Then};
use super::tunnel;
use super::unsent::Unsent;
use super::upstream::Upstream;
use crate::config::Role;
use crate::endpoint::{Endpoint, InFlight};
use crate::metrics::{Counted, Failure, count};
use crate::suspects::Suspects;
use crate::thread::Thread;

/// Carries out a request; `head` is the rewritten head.
pub(super) async fn forward(
    thread: &Thread,
    client: &mut Client,
    meta: RequestMeta,
    head: Vec<u8>,
) -> Then {
    let mut exchange = Exchange::new(thread, client, meta, head);
    if thread.limits_requests
        && let Some(then) = Box::pin(exchange.limited()).await
    {
        thread.buffers.put_output(exchange.request.into_out());
        return then;
    }
    count(&thread.counts.arrivals);
    thread.upstreams.budget.borrow_mut().deposit();
    let (then, unsent) = match exchange.gather().await {
        Ok(()) => exchange.walk().await,
        Err(then) => (then, None),
    };
    thread.buffers.put_output(exchange.request.into_out());
    match unsent {
        None => then,
        // The server is done, and free for another request.
        Some(unsent) => unsent.send(thread, exchange.client, then).await,
    }
}

impl<'a> Exchange<'a> {
    /// Goes from endpoint to endpoint until there is an answer or a failure. Also returns
    /// the part of the answer that is still to be sent.
    async fn walk(&mut self) -> (Then, Option<Unsent<'a>>) {
        let thread = self.thread;
        if self.admit().is_err() {
            return (self.refuse(NoEndpoint::Suspect).await, None);
        }
        let mut turn = None;
        loop {
            let entered =
                match choose(thread, self.client, &mut self.request, &mut self.search).await {
                    Ok(entered) => entered,
                    Err(reason) => return (self.refuse(reason).await, None),
                };
            let _counted = Counted::new(&thread.counts.in_flight);
            if self.search.is_suspect {
                entered.suspect();
                if turn.is_none() {
                    turn = thread.upstreams.suspects.turn().await;
                    self.search.has_waited = true;
                }
            }
            // While this request waited, other requests for its path may have ended workers.
            if self.admitted.is_none()
                && std::mem::take(&mut self.search.has_waited)
                && self.admit().is_err()
            {
                return (self.refuse(NoEndpoint::Suspect).await, None);
            }
            let is_repeated = self.past.tries > 0;
            let Some(upstream) = reach(thread, self.client, &entered, is_repeated).await else {
                self.search.failed_at(entered.endpoint());
                entered.end_quietly();
                continue;
            };
            let (end, upstream, unsent) = self.attempt(upstream, &entered, &mut turn).await;
            if let Some(then) = self.finish(end, upstream, &entered).await {
                return (then, unsent);
            }
            self.request.rewind();
            turn = None;
            if thread.config.role == Role::Balancer {
                self.tell_repeated();
            }
        }
    }

    /// Makes one attempt. The turn of a suspect request ends with the attempt, unless the
    /// attempt fails.
    async fn attempt(
        &mut self,
        mut upstream: Upstream,
        entered: &InFlight<'_>,
        turn: &mut Option<SemaphorePermit<'_>>,
    ) -> (End, Upstream, Option<Unsent<'a>>) {
        let Self {
            thread,
            client,
            meta,
            request,
            past,
            search,
            ..
        } = self;
        past.tries += 1;
        if let Some(record) = &mut client.record {
            record.attempt(entered.endpoint().name());
        }
        if may_need_proof(past, meta.is_idempotent) {
            let witness = &thread.upstreams.witness;
            witness.watch(thread.clock.now(), &mut upstream.link);
        }
        let mut attempt = Attempt::new(thread, client, meta, request, upstream, entered);
        let end = if search.is_suspect {
            Suspects::alone(turn, attempt.run()).await
        } else {
            attempt.run().await
        };
        let (upstream, unsent) = attempt.over(&end);
        if !matches!(end, End::Failed(_)) {
            drop(turn.take());
        }
        (end, upstream, unsent)
    }

    /// Marks the request as repeated, so that the next dispatcher does not begin again at zero
    /// when it counts the workers that have ended over this request.
    fn tell_repeated(&mut self) {
        let is_told = &mut self.meta.is_repeated;
        if self.past.deaths > 0 && !std::mem::replace(is_told, true) {
            self.request.add_field(http1::REPEATED);
        }
    }

    /// What the end of an attempt means; `None`: another attempt follows.
    async fn finish(
        &mut self,
        end: End,
        upstream: Upstream,
        entered: &InFlight<'_>,
    ) -> Option<Then> {
        let endpoint = entered.endpoint();
        match end {
            End::Answered(answered) => Some(self.has_answer(answered, upstream, endpoint)),
            End::Switched => {
                entered.upgrade();
                // A tunnel's future is larger than all others, so it is not part of the
                // future of each request.
                Box::pin(self.switch(upstream, endpoint)).await;
                // A client whose connection ended to make room has not read all bytes that
                // were written to it.
                let is_cut = self.client.deadline.cut().is_some();
                Some(if is_cut { Then::Reset } else { Then::End })
            }
            End::BadBody {
                status,
                reason,
                headed,
            } => {
                self.thread.counts.failed(Failure::Refused);
                if headed {
                    if let Some(record) = &mut self.client.record {
                        record.failed(Failure::ClientGone);
                    }
                    return Some(Then::Reset);
                }
                let elapsed = self.meta.started.elapsed();
                self.thread.counts.answered(status, elapsed);
                Some(self.answer(status, reason, true).await)
            }
            // A failure is rare, so its future is not part of the future of each request either.
            End::Failed(broken) => Box::pin(self.broke_off(broken, upstream, endpoint)).await,
        }
    }

    /// The complete answer has been received from the endpoint.
    fn has_answer(&mut self, answered: Answered, upstream: Upstream, endpoint: &Endpoint) -> Then {
        let thread = self.thread;
        let suspects = &thread.upstreams.suspects;
        suspects.note(thread.clock.now(), self.request.head());
        if suspects.are_known() {
            self.search.answered(thread, &self.request);
        }
        if answered.status < 400 {
            self.learn(endpoint);
        }
        endpoint.count_answer(answered.status);
        let outcome = if answered.status >= 500 || answered.has_failed {
            Outcome::Error
        } else {
            Outcome::Answered
        };
        note(thread, endpoint, outcome);
        keep(thread, self.request.is_sent(), upstream, answered, endpoint);
        let elapsed = self.meta.started.elapsed();
        thread.counts.answered(answered.status, elapsed);
        let served = elapsed.saturating_sub(self.search.waited);
        thread.counts.served(answered.status, served);
        if !answered.close {
            Then::Next
        } else if self.request.is_sent() && self.client.input.is_empty() {
            // Closing immediately loses no bytes of the client.
            Then::Finish
        } else {
            Then::Close
        }
    }

    /// If the request belongs to a session of engine.io, remembers that the session is at this
    /// endpoint, which has accepted the request.
    fn learn(&self, endpoint: &Endpoint) {
        let engine_io = self.meta.returning.engine_io;
        if let Some(session) = engine_io.and_then(|it| it.session) {
            self.thread
                .upstreams
                .sessions
                .learn(session, endpoint.tag());
        }
    }

    /// Passes bytes between the client and the upstream, which speak another protocol from here
    /// on, until the tunnel ends.
    async fn switch(&mut self, upstream: Upstream, endpoint: &Endpoint) {
        let thread = self.thread;
        count(&thread.counts.upgrades);
        self.learn(endpoint);
        endpoint.count_answer(101);
        note(thread, endpoint, Outcome::Answered);
        let elapsed = self.meta.started.elapsed();
        thread.counts.answered(101, elapsed);
        let served = elapsed.saturating_sub(self.search.waited);
        thread.counts.served(101, served);
        let _counted = Counted::new(&thread.counts.tunnels);
        if thread.upstreams.suspects.are_known() {
            self.search.answered(thread, &self.request);
        }
        let Upstream {
            mut link,
            mut input,
            ..
        } = upstream;
        let client = &mut *self.client;
        // The buffers are no longer needed, and an upgraded connection may last for days.
        let [early_of_client, early_of_upstream] = [&mut client.input, &mut input].map(|input| {
            let early = input.filled().to_vec();
            input.consume(early.len());
            input.release(&thread.buffers);
            early
        });
        let silence = tunnel::Silence::new(&client.deadline, &thread.config.limits);
        let record = client.record.as_deref();
        let leaving = tunnel::Leaving {
            activity: &thread.activity,
            share: thread.random.borrow_mut().f64(),
            is_websocket: self.meta.is_websocket,
        };
        tunnel::run(
            (&mut client.transport, &early_of_client),
            (&mut link.transport, &early_of_upstream),
            endpoint,
            &silence,
            &leaving,
            record,
        )
        .await;
    }
}
