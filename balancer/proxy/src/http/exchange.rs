//! One request from its head to the end of its answer: the endpoint it goes to,
//! another try where that is allowed, and the answer where there is none.
//!
//! How bytes flow in one try is `attempt`'s business.

mod admission;
mod broken;
mod search;

use std::future::poll_fn;
use std::io::ErrorKind;

use scaledapp_http1::{self as http1, Elsewhere, Framing, Malformed, Version};

use self::admission::admit;
use self::broken::{Broke, broke_off, note};
use self::search::{Nobody, Search, choose};
use crate::allowance::Allowance;
use crate::attempt::{Answered, Attempt, End, Upstream};
use crate::body::Flow;
use crate::config::Role;
use crate::connect::{self, connect};
use crate::connection::{Asked, Client, Gone};
use crate::endpoint::{Endpoint, InFlight};
use crate::metrics::{Failure, count, shift};
use crate::outlier::Outcome;
use crate::retry::{self, Past};
use crate::suspects::Suspects;
use crate::thread::Thread;
use crate::tunnel;
use crate::unread::Link;

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Its next request.
    Next,
    /// It has been told that it ends, and may still be sending.
    Close,
    /// It has been told that it ends, and has nothing more to send.
    Finish,
    /// It is over.
    End,
    /// It must not look as if its last answer were whole.
    Reset,
}

/// Carries a request out.
pub(crate) async fn forward(thread: &Thread, client: &mut Client, mut asked: Asked) -> Then {
    thread.budget.borrow_mut().deposit();
    let head = std::mem::take(&mut asked.head);
    let mut request = match begin(thread, client, &asked, head).await {
        Ok(request) => request,
        Err(then) => return then,
    };
    let mut search = Search::default();
    let mut past = Past {
        deaths: u32::from(asked.is_repeated),
        ..Past::default()
    };
    let Ok(mut admitted) = admit(thread, &request, &mut search, &mut past) else {
        return refuse(thread, client, &asked, &request, Nobody::Suspect, &past).await;
    };
    let mut rest = None;
    let mut turn = None;
    let then = loop {
        let entered = match choose(thread, client, &mut search).await {
            Ok(entered) => entered,
            Err(nobody) => break refuse(thread, client, &asked, &request, nobody, &past).await,
        };
        let _counted = Counted::new(thread);
        if search.is_suspect {
            entered.suspect();
            if turn.is_none() {
                turn = thread.suspects.turn().await;
                search.has_waited = true;
            }
        }
        // Meanwhile others of its kind may have ended workers.
        if admitted.is_none() && std::mem::take(&mut search.has_waited) {
            let Ok(now) = admit(thread, &request, &mut search, &mut past) else {
                let nobody = Nobody::Suspect;
                break refuse(thread, client, &asked, &request, nobody, &past).await;
            };
            admitted = now;
        }
        let Some(mut upstream) = reach(thread, client, &entered, past.tries > 0).await else {
            search.failed_at(entered.endpoint());
            entered.end_quietly();
            continue;
        };
        past.tries += 1;
        if retry::may_need_proof(&past, asked.is_idempotent) {
            thread.witness.watch(thread.clock.now(), &mut upstream.link);
        }
        let mut attempt = Attempt::new(thread, client, &asked, &mut request, upstream, &entered);
        let end = if search.is_suspect {
            Suspects::alone(&mut turn, attempt.run()).await
        } else {
            attempt.run().await
        };
        let (upstream, unsent) = attempt.over(&end);
        rest = unsent;
        if !matches!(end, End::Failed { .. }) {
            drop(turn.take());
        }
        let ended = Ended {
            end,
            upstream,
            entered: &entered,
            past: &mut past,
            search: &mut search,
        };
        if let Some(then) = finish(thread, client, &asked, &request, ended).await {
            break then;
        }
        request.rewind();
        turn = None;
        if thread.config.role == Role::Balancer {
            tell_repeated(&mut asked, &mut request, &past);
        }
    };
    thread.buffers.put_output(request.into_out());
    match rest {
        None => then,
        // Its server has done its part, and is free for another one.
        Some(rest) => client.send_rest(thread, rest, then).await,
    }
}

/// A dispatcher that gets a request again must not begin to count its ends anew.
fn tell_repeated(asked: &mut Asked, request: &mut Flow, past: &Past) {
    if past.deaths > 0 && !std::mem::replace(&mut asked.is_repeated, true) {
        request.add_field(http1::REPEATED);
    }
}

/// Takes what there is of a request, and all of it if that is short.
async fn begin(
    thread: &Thread,
    client: &mut Client,
    asked: &Asked,
    head: Vec<u8>,
) -> Result<Flow, Then> {
    let replay = thread.replay_bytes();
    let most = head.len() + replay;
    let mut request = Flow::new(head, asked.framing, asked.framing, replay);
    // The body's first bytes usually came with the head; a malformed one is
    // refused before anybody is bothered.
    if let Err(malformed) = request.take(&mut client.input) {
        return Err(refuse_body(thread, client, asked, malformed).await);
    }
    if !request.is_taken()
        && let Err(then) = gather(thread, client, asked, &mut request, replay, most).await
    {
        thread.buffers.put_output(request.into_out());
        return Err(then);
    }
    // Neither a queue nor a connection to come needs its memory.
    client.input.release(&thread.buffers);
    Ok(request)
}

/// Reads a short body to its end before an endpoint is chosen: a client that sends
/// slowly would hold a server that does one thing at a time. Longer ones go on as they
/// come, and so do those whose client waits for a word of the server. `replay` bytes
/// are kept at most, which with the head are `most`.
async fn gather(
    thread: &Thread,
    client: &mut Client,
    asked: &Asked,
    request: &mut Flow,
    replay: usize,
    most: usize,
) -> Result<(), Then> {
    let is_short = match asked.framing {
        Framing::Length(length) => length <= replay as u64,
        // Until it has shown that it is longer.
        Framing::Chunked => replay > 0,
        Framing::None | Framing::UntilClose => false,
    };
    client.body = Allowance::to_send(&thread.config.limits);
    if !is_short || asked.upgrade || asked.expects_continue {
        return Ok(());
    }
    while !request.is_taken() && request.pending() < most {
        let until = client.body.wait(thread.clock.now());
        client.deadline.set_stalled(until, client.body.stalled());
        let filled = poll_fn(|context| {
            if client.deadline.is_squeezed() {
                request.squeeze();
                client.input.squeeze(&thread.buffers);
            }
            let filled = client.poll_fill(thread, context);
            client.deadline.holds(request.held() + client.input.held());
            filled
        });
        match filled.await {
            Ok(0) | Err(Gone::Closed) => {
                thread.counts.failed(Failure::ClientGone);
                return Err(Then::End);
            }
            Ok(read) => client.body.moved(read, thread.clock.now()),
            Err(Gone::Late) => {
                let cut = client.deadline.cut();
                let cause = cut.map_or(Failure::ClientTimeout, Failure::from);
                thread.counts.failed(cause);
                return Err(give_up(thread, client, asked, (cause, None), false, None).await);
            }
        }
        if let Err(malformed) = request.take(&mut client.input) {
            return Err(refuse_body(thread, client, asked, malformed).await);
        }
    }
    Ok(())
}

/// The answer to a body that is not well-formed.
async fn refuse_body(
    thread: &Thread,
    client: &mut Client,
    asked: &Asked,
    malformed: Malformed,
) -> Then {
    thread.counts.failed(Failure::Refused);
    thread.request_is_refused(400, malformed.reason, malformed.rule());
    client
        .answer(thread, 400, malformed.reason, true, asked.is_head)
        .await
}

/// A try that is over.
struct Ended<'a, 'b> {
    end: End,
    upstream: Upstream,
    entered: &'a InFlight<'b>,
    past: &'a mut Past,
    search: &'a mut Search,
}

/// What a try's end means; `None`: another one.
async fn finish(
    thread: &Thread,
    client: &mut Client,
    asked: &Asked,
    request: &Flow,
    ended: Ended<'_, '_>,
) -> Option<Then> {
    let Ended {
        end,
        upstream,
        entered,
        past,
        search,
    } = ended;
    let endpoint = entered.endpoint();
    match end {
        End::Answered(answered) => {
            thread.suspects.note(thread.clock.now(), request.head());
            if thread.suspects.are_known() {
                search.answered(thread, request);
            }
            tally(endpoint, answered.status);
            keep(thread, request, upstream, answered, endpoint);
            thread
                .counts
                .answered(answered.status, asked.started.elapsed());
            Some(if !answered.close {
                Then::Next
            } else if request.is_sent() && client.input.is_empty() {
                // Nothing of the client's is lost by closing at once.
                Then::Finish
            } else {
                Then::Close
            })
        }
        End::Switched => {
            count(&thread.counts.upgrades);
            entered.upgrade();
            tally(endpoint, 101);
            note(thread, endpoint, Outcome::Answered);
            thread.counts.answered(101, asked.started.elapsed());
            shift(&thread.counts.tunnels, 1);
            if thread.suspects.are_known() {
                search.answered(thread, request);
            }
            // A tunnel's future is larger than all others: not in that of each request.
            Box::pin(switch(thread, client, upstream, endpoint)).await;
            shift(&thread.counts.tunnels, -1);
            // One that gives way has not read what was written to it.
            let is_cut = client.deadline.cut().is_some();
            Some(if is_cut { Then::Reset } else { Then::End })
        }
        End::BadBody { reason, headed } => {
            thread.counts.failed(Failure::Refused);
            if headed {
                return Some(Then::Reset);
            }
            thread.counts.answered(400, asked.started.elapsed());
            Some(
                client
                    .answer(thread, 400, reason, true, asked.is_head)
                    .await,
            )
        }
        End::Failed {
            cause,
            headed,
            answered,
        } => {
            let broke = Broke {
                cause,
                headed,
                answered,
                upstream,
                endpoint,
                past,
                search,
            };
            // As rare.
            Box::pin(broke_off(thread, client, asked, request, broke)).await
        }
    }
}

/// Counts a request at an endpoint.
struct Counted<'a>(&'a Thread);

impl<'a> Counted<'a> {
    fn new(thread: &'a Thread) -> Self {
        shift(&thread.counts.in_flight, 1);
        Self(thread)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        shift(&self.0.counts.in_flight, -1);
    }
}

/// A connection to the endpoint, kept or new; `None` if it has none for us.
async fn reach(
    thread: &Thread,
    client: &Client,
    entered: &InFlight<'_>,
    is_repeated: bool,
) -> Option<Upstream> {
    let endpoint = entered.endpoint();
    // After a failure a kept connection is not worth another try.
    if !is_repeated {
        let now = thread.clock.now();
        let kept = thread.pool.borrow_mut().take(endpoint.id(), now);
        if let Some(link) = kept {
            count(&thread.counts.reuses);
            return Some(Upstream::new(link, true));
        }
    }
    count(&thread.counts.connects);
    let limits = &thread.config.limits;
    match connect(endpoint.address(), &client.deadline, limits).await {
        Ok(stream) => Some(Upstream::new(Link::new(stream), false)),
        Err(error) => {
            tracing::debug!(endpoint = endpoint.name(), %error, "no connection");
            if connect::is_ours(&error) {
                thread.is_short("no connection can be made", &error);
            } else if error.kind() != ErrorKind::ConnectionRefused || !endpoint.refuses() {
                note(thread, endpoint, Outcome::Refused);
            } else {
                thread.pool.borrow_mut().forget(endpoint.id());
            }
            None
        }
    }
}

/// The answer for a request that found no endpoint.
async fn refuse(
    thread: &Thread,
    client: &mut Client,
    asked: &Asked,
    request: &Flow,
    nobody: Nobody,
    past: &Past,
) -> Then {
    let (failure, status, reason) = match nobody {
        Nobody::InTime if thread.ready() > 0 => (Failure::QueueTimeout, 503, "queue-timeout"),
        Nobody::InTime => (Failure::NoEndpoint, 503, "no-endpoint"),
        Nobody::QueueFull => (Failure::QueueFull, 503, "queue-full"),
        Nobody::Elsewhere => (Failure::HandedBack, 502, "upstream-failed"),
        // It was executed, so this is no matter of coming back later.
        Nobody::Suspect if past.written => (Failure::Suspect, 502, "upstream-failed"),
        Nobody::Suspect => (Failure::Suspect, 503, "path-ends-workers"),
        Nobody::ClientGone => {
            thread.counts.failed(Failure::ClientGone);
            return Then::End;
        }
    };
    thread.request_failed(status, reason, None);
    thread.counts.failed(failure);
    thread.counts.answered(status, asked.started.elapsed());
    let close = !asked.keep_alive
        || asked.version == Version::Http10
        || !request.is_taken()
        || thread.is_leaving();
    client
        .answer(thread, status, reason, close, asked.is_head)
        .await
}

/// The answer for a request whose attempts have failed; a balancer of ours in front
/// may learn that it can go `elsewhere`.
async fn give_up(
    thread: &Thread,
    client: &mut Client,
    asked: &Asked,
    (cause, endpoint): (Failure, Option<&Endpoint>),
    headed: bool,
    elsewhere: Option<Elsewhere>,
) -> Then {
    if headed {
        return Then::Reset;
    }
    let (status, reason) = match cause {
        Failure::ClientGone => return Then::End,
        Failure::ClientTimeout => (408, "body-timeout"),
        Failure::GaveWay => (408, "gave-way"),
        Failure::Timeout => (504, "upstream-timeout"),
        Failure::Malformed => (502, "upstream-malformed"),
        Failure::Memory => (503, "out-of-memory"),
        _ => (502, "upstream-failed"),
    };
    // What is malformed has a line of its own, and what is handed back may be served yet.
    if status >= 500 && cause != Failure::Malformed && elsewhere.is_none() {
        thread.request_failed(status, reason, endpoint);
    }
    thread.counts.answered(status, asked.started.elapsed());
    let mut out = thread.buffers.output();
    let is_head = asked.is_head;
    http1::write_answer(&mut out, status, reason, None, elsewhere, true, is_head);
    client.write(thread, out, true).await
}

/// Counts an answer under the name that its endpoint is counted by.
fn tally(endpoint: &Endpoint, status: u16) {
    if let Some(tally) = endpoint.tally() {
        tally.answered(status);
    }
}

/// Keeps the upstream connection if it may be used again.
fn keep(
    thread: &Thread,
    request: &Flow,
    upstream: Upstream,
    answered: Answered,
    endpoint: &Endpoint,
) {
    let outcome = if answered.status >= 500 {
        Outcome::Error
    } else {
        Outcome::Answered
    };
    note(thread, endpoint, outcome);
    let Upstream {
        link, mut input, ..
    } = upstream;
    // More than the answer was there: whose would it be?
    let is_clean = input.is_empty();
    input.consume(usize::MAX);
    input.release(&thread.buffers);
    if let Some(time) = answered.keep
        && request.is_sent()
        && is_clean
        && !endpoint.is_closed()
    {
        let now = thread.clock.now();
        let mut pool = thread.pool.borrow_mut();
        if answered.bodiless {
            pool.put_to_rest(endpoint.id(), link, now, now + time);
        } else {
            pool.put(endpoint.id(), link, now + time);
        }
    }
}

/// Hands both connections to the tunnel.
async fn switch(thread: &Thread, client: &mut Client, upstream: Upstream, endpoint: &Endpoint) {
    let Upstream {
        mut link,
        mut input,
        ..
    } = upstream;
    // The buffers are of no use any more; such a connection may last for days.
    let [early_of_client, early_of_upstream] = [&mut client.input, &mut input].map(|input| {
        let early = input.filled().to_vec();
        input.consume(early.len());
        input.release(&thread.buffers);
        early
    });
    let Client {
        stream: of_client,
        deadline,
        ..
    } = client;
    let limits = &thread.config.limits;
    let silence = tunnel::Silence::new(deadline, limits);
    tunnel::run(
        (of_client, &early_of_client),
        (&mut link.stream, &early_of_upstream),
        endpoint,
        &silence,
    )
    .await;
}
