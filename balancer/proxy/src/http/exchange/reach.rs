//! The connection to the endpoint: how a request gets one, and whether it is kept after the
//! answer.
//!
//! Whether an idle connection may be used again is decided in `pool`.

use std::io::{self, ErrorKind};

use scaledapp_select::Outcome;

use super::outcome::note;
use crate::config::UpstreamProtocol;
use crate::connect::{self, connect};
use crate::endpoint::{Endpoint, InFlight};
use crate::http::attempt::Answered;
use crate::http::client::Client;
use crate::http::upstream::Upstream;
use crate::http2;
use crate::memory::NEW_BYTES;
use crate::metrics::count;
use crate::thread::Thread;
use crate::unread::Link;

/// Returns a kept or a new connection to the endpoint; `None` if the endpoint cannot be
/// reached, or if the client's connection must end.
pub(super) async fn reach(
    thread: &Thread,
    client: &Client,
    entered: &InFlight<'_>,
    is_repeated: bool,
) -> Option<Upstream> {
    let endpoint = entered.endpoint();
    if thread.config.upstream == UpstreamProtocol::Http2 {
        return match http2::open(thread, endpoint, &client.deadline).await {
            Ok(transport) => Some(Upstream::new(Link::new(transport), false)),
            Err(error) => {
                refused(thread, endpoint, &error);
                None
            }
        };
    }
    let pool = &thread.upstreams.pool;
    // After a failure, a kept connection is not worth another attempt.
    if !is_repeated {
        let now = thread.clock.now();
        let kept = pool.borrow_mut().take(endpoint.id(), now);
        if let Some(link) = kept {
            count(&thread.counts.reuses);
            return Some(Upstream::new(link, true));
        }
    }
    if !client.may_have(thread, NEW_BYTES as usize) {
        return None;
    }
    thread.memory.spend(NEW_BYTES);
    count(&thread.counts.connects);
    let limits = &thread.config.limits;
    match connect(endpoint.address(), &client.deadline, limits).await {
        Ok(transport) => Some(Upstream::new(Link::new(transport), false)),
        // The attempt was broken off, which says nothing about the endpoint.
        Err(_) if client.deadline.cut().is_some() => None,
        Err(error) => {
            refused(thread, endpoint, &error);
            None
        }
    }
}

/// No connection to the endpoint could be opened.
pub(crate) fn refused(thread: &Thread, endpoint: &Endpoint, error: &io::Error) {
    tracing::debug!(endpoint = endpoint.name(), %error, "no connection");
    if connect::is_ours(error) {
        thread.is_short_of("no connection can be made", error);
    } else if error.kind() != ErrorKind::ConnectionRefused || !endpoint.refuses() {
        note(thread, endpoint, Outcome::Refused);
    } else {
        thread.upstreams.forget(endpoint.id());
    }
}

/// Keeps the connection if it may be used again. `is_sent` says whether the whole request has
/// been sent.
pub(super) fn keep(
    thread: &Thread,
    is_sent: bool,
    upstream: Upstream,
    answered: Answered,
    endpoint: &Endpoint,
) {
    let Upstream {
        link, mut input, ..
    } = upstream;
    // Bytes after the answer belong to no request.
    let is_clean = input.is_empty();
    input.consume(usize::MAX);
    input.release(&thread.buffers);
    if let Some(time) = answered.keep
        && is_sent
        && is_clean
        && !endpoint.is_closed()
    {
        let now = thread.clock.now();
        let mut pool = thread.upstreams.pool.borrow_mut();
        if answered.bodiless {
            pool.put_to_rest(endpoint.id(), link, now, now + time);
        } else {
            pool.put(endpoint.id(), link, now + time);
        }
    }
}
