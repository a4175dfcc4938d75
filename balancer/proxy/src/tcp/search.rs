//! The search of one connection for an endpoint: which endpoints it tries, and how long it waits.
//!
//! An endpoint that cannot be reached has received nothing, so the connection may go to another
//! one. Once an endpoint has accepted the connection, the connection stays there.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::Poll;
use std::time::Duration;

use scaledapp_select::{Outcome, Position, Preference, Visit, client_hash};

use crate::clock::{self, Deadline};
use crate::connect::connect;
use crate::endpoint::InFlight;
use crate::held::{Held, Outcome as HeldOutcome};
use crate::http::exchange::{note, refused};
use crate::metrics::{Counted, count};
use crate::sticky_kind::Sticky;
use crate::thread::Thread;
use crate::transport::Transport;

/// How often it is checked whether the client still waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Why there is no endpoint for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoEndpoint {
    /// No endpoint could be reached in time.
    InTime,
    /// No more connections may wait.
    QueueFull,
    /// An endpoint has reset it, and there is no other one.
    Reset,
    /// Its client has reset it.
    ClientGone,
}

/// What a connection has tried so far.
struct Search<'a> {
    thread: &'a Thread,
    source: IpAddr,
    /// Endpoints that it could not reach since it last waited.
    tried: Vec<u64>,
    /// Its position in the queue, once it has waited.
    position: Option<Position>,
    has_failed: bool,
    /// An endpoint has reset it at once.
    was_reset: bool,
    /// When its search began.
    began: Duration,
    /// It has been held, so it may wait for as long as that.
    was_held: bool,
}

/// Connects the client, whose address is `source`, to an endpoint.
pub(super) async fn reach<'a>(
    thread: &'a Thread,
    client: &Transport,
    source: IpAddr,
    deadline: &Deadline,
) -> Result<(InFlight<'a>, Transport), NoEndpoint> {
    let limits = &thread.config.limits;
    let mut search = Search {
        thread,
        source,
        tried: Vec::new(),
        position: None,
        has_failed: false,
        was_reset: false,
        began: clock::now(),
        was_held: false,
    };
    loop {
        let entered = search.choose(client, deadline).await?;
        count(&thread.counts.connects);
        let endpoint = entered.endpoint();
        match connect(endpoint.address(), deadline, limits).await {
            Ok(upstream) => {
                note(thread, endpoint, Outcome::Answered);
                return Ok((entered, upstream));
            }
            // The endpoint has accepted the connection and reset it at once. It may be about to
            // exit, or it may not want this client, which says nothing about others.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                search.was_reset = true;
            }
            Err(error) => refused(thread, endpoint, &error),
        }
        search.tried.push(endpoint.id());
        search.has_failed = true;
        entered.end_quietly();
        if client.heard().is_broken {
            return Err(NoEndpoint::ClientGone);
        }
        // No attempt begins after this, however many endpoints there are.
        if clock::now() >= search.until().saturating_add(limits.connect_time) {
            return Err(NoEndpoint::InTime);
        }
        count(&thread.counts.repeated);
    }
}

impl<'a> Search<'a> {
    /// The end of all waits together.
    fn until(&self) -> Duration {
        let limits = &self.thread.config.limits;
        let hold = limits.hold.filter(|_| self.was_held);
        let time = hold.map_or(limits.waiting_time, |hold| hold.time);
        self.began.saturating_add(time)
    }

    /// Waits, within limits, for an endpoint that has not been tried.
    async fn choose(
        &mut self,
        client: &Transport,
        deadline: &Deadline,
    ) -> Result<InFlight<'a>, NoEndpoint> {
        let thread = self.thread;
        let queue = &thread.upstreams.queue;
        if !queue.is_contended()
            && let Some(entered) = self.find()
        {
            return Ok(entered);
        }
        if self.was_reset {
            return Err(NoEndpoint::Reset);
        }
        let visit = match self.position {
            Some(position) => Visit::Again(Some(position)),
            None if self.has_failed => Visit::Unreached,
            None => Visit::First,
        };
        let Some(mut ticket) = queue.join(visit) else {
            if queue.is_holding() {
                count(&thread.counts.held_refused);
            }
            return Err(NoEndpoint::QueueFull);
        };
        self.position = Some(ticket.position());
        let _waiting = Counted::new(&thread.counts.waiting);
        if ticket.is_first() {
            // The autoscaler hears at once that there is demand.
            thread.demand.send_replace(());
        }
        let mut held = None;
        loop {
            let mut waited = false;
            poll_fn(|context| {
                if client.heard().is_broken {
                    return Poll::Ready(Err(NoEndpoint::ClientGone));
                }
                let now = clock::now();
                if let Some(hold) = &thread.config.limits.hold
                    && (held.is_some() || queue.is_holding())
                {
                    // What the client has sent stays in the kernel.
                    self.was_held = true;
                    held.get_or_insert_with(|| Held::begin(thread, hold));
                }
                let until = self.until();
                if until <= now {
                    if let Some(held) = &mut held {
                        held.ends(HeldOutcome::TimedOut);
                    }
                    return Poll::Ready(Err(NoEndpoint::InTime));
                }
                deadline.set_at(until.min(now + LOOK_INTERVAL));
                // The deadline lies ahead of the thread's clock, so this registers the waker.
                // It is ready only if the client's connection must end to make room.
                if deadline.poll(context).is_ready() {
                    return Poll::Ready(Err(NoEndpoint::InTime));
                }
                let turn = ticket.poll_turn(context, now);
                waited |= turn.is_pending();
                turn.map(Ok)
            })
            .await?;
            if waited {
                // The endpoints that could not be reached may be back.
                self.tried.clear();
            }
            if let Some(entered) = self.find() {
                entered.was_held(ticket.found());
                if let Some(held) = &mut held {
                    held.ends(HeldOutcome::Served);
                }
                return Ok(entered);
            }
            ticket.found_nothing(self.tried.is_empty());
            self.tried.clear();
        }
    }

    fn find(&self) -> Option<InFlight<'a>> {
        let thread = self.thread;
        let is_sticky = thread.config.sticky == Some(Sticky::Address);
        let preference = is_sticky.then(|| Preference::Weight(client_hash(self.source)));
        thread
            .upstreams
            .choose(self.source, &self.tried, &[preference])
    }
}
