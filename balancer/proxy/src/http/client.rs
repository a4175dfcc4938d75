//! The client's side of a connection: bytes that it has sent and that have not been used,
//! whether it still waits for an answer, and what is written to it.
//!
//! A reset shows that the client no longer waits. The end of its sending side (FIN) shows
//! neither that it waits nor that it does not: `printf … | nc` has sent everything and
//! waits for the answer, while a closed browser tab looks the same until something is
//! written to it. RFC 9112 section 9.6 leaves it to the server whether to continue. So a
//! client that has closed its side gets its answer only within a bounded time. A ScaledApp
//! proxy never closes its side while it waits for an answer, so from such a proxy a FIN
//! means that it no longer waits.
//!
//! Which requests a connection carries is decided in `connection`.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use scaledapp_http1::{self as http1, Trust};

use super::allowance::Allowance;
use super::body::Flow;
use super::request::Then;
use crate::access::Record;
use crate::buffer::{Buffer, SMALL_BYTES};
use crate::clock::Deadline;
use crate::metrics::count;
use crate::pages::Accepted;
use crate::thread::Thread;
use crate::transport::Transport;

/// How often a connection is checked while it is not read, because the proxy has already
/// buffered as many of its bytes as it may.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The client's side of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) transport: Transport,
    pub(crate) peer: IpAddr,
    /// The peer is a proxy that the user has named.
    pub(super) is_named: bool,
    /// How the sender of its last request was treated.
    pub(super) trust: Trust,
    /// The client of its last request, as far as it is known; otherwise the peer.
    pub(super) source: IpAddr,
    pub(super) input: Buffer,
    pub(crate) deadline: Deadline,
    /// It has closed its sending side, and everything before that was read.
    pub(super) finished: bool,
    /// When the closing was noticed, even if there are still bytes to read.
    half_closed: Option<Duration>,
    /// How long the proxy waits for the body of its request.
    pub(super) body: Allowance,
    /// See [`Client::set_resets`].
    resets: bool,
    /// Its requests are redirected to `https` at this port.
    pub(crate) redirects: Option<u16>,
    /// The forms of pages that it has accepted with its last request.
    pub(super) accepted: Accepted,
    /// What the access log will say about the request that is carried out; `None` if requests
    /// are not logged.
    pub(super) record: Option<Box<Record>>,
}

/// An answer of the proxy itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnAnswer {
    pub(super) status: u16,
    pub(super) reason: &'static str,
    /// After how many seconds the client may try again.
    pub(super) retry_after: Option<u32>,
    /// The connection ends with it.
    pub(super) close: bool,
    /// It answers a `HEAD` request.
    pub(super) is_head: bool,
}

impl OwnAnswer {
    /// The last answer of a connection whose request is not known.
    pub(super) fn last(status: u16, reason: &'static str) -> Self {
        Self {
            status,
            reason,
            retry_after: retry_after(status),
            close: true,
            is_head: false,
        }
    }
}

/// A client that should try again later should not do so immediately.
pub(super) fn retry_after(status: u16) -> Option<u32> {
    (status == 503).then_some(1)
}

/// Why a client sends nothing more.
pub(super) enum Gone {
    Closed,
    Late,
}

impl Client {
    pub(crate) fn new(
        thread: &Thread,
        transport: Transport,
        peer: IpAddr,
        deadline: Deadline,
    ) -> Self {
        let is_named = thread.callers.is_named(peer);
        Self {
            transport,
            peer,
            is_named,
            trust: thread.callers.trust(None, is_named),
            source: peer,
            input: Buffer::default(),
            deadline,
            finished: false,
            half_closed: None,
            body: Allowance::to_send(&thread.config.limits),
            resets: false,
            redirects: None,
            accepted: Accepted::default(),
            record: None,
        }
    }

    /// Takes out the bytes that it has sent and that have not been used.
    pub(crate) fn take_input(&mut self, thread: &Thread) -> Vec<u8> {
        let input = self.input.filled().to_vec();
        self.input.consume(input.len());
        self.input.release(&thread.buffers);
        input
    }

    /// Sets whether the connection is reset when it ends. While an answer is being sent
    /// whose end is marked by the end of the connection, every other end (a failure, the
    /// end of a drain, SIGKILL) must reset the connection: the client would take an
    /// orderly close for the end of the answer.
    pub(super) fn set_resets(&mut self, resets: bool) {
        self.resets = resets;
        self.transport.set_resets(resets);
    }

    /// The last answer is complete, so its connection may end with an orderly close.
    pub(super) fn ends_in_order(&mut self) {
        if self.resets {
            self.set_resets(false);
        }
    }

    /// The client must send or read within `time`. From now on its connection counts as
    /// stalled.
    pub(crate) fn owes(&self, thread: &Thread, time: Duration) {
        let now = thread.clock.now();
        self.deadline
            .set_stalled(now.saturating_add(time), Some(now));
    }

    /// Whether there is memory for the next read. If there is none, the connection must end.
    pub(super) fn may_read(&self, thread: &Thread) -> bool {
        !self.input.takes_memory(&thread.buffers) || self.may_have(thread, SMALL_BYTES)
    }

    /// Whether the connection may have `bytes` more of memory. If not, it must end.
    pub(super) fn may_have(&self, thread: &Thread, bytes: usize) -> bool {
        let has = thread.memory.has(bytes as u64);
        if !has {
            count(&thread.counts.shed_largest);
            self.deadline.end_for_memory();
        }
        has
    }

    /// Reads once, at most until the deadline; 0 is the end of the client's side.
    pub(super) fn poll_fill(
        &mut self,
        thread: &Thread,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, Gone>> {
        if !self.may_read(thread) {
            return Poll::Ready(Err(Gone::Late));
        }
        if let Poll::Ready(read) =
            self.input
                .poll_fill(&mut self.transport, &thread.buffers, context)
        {
            return Poll::Ready(read.map_err(|_| Gone::Closed));
        }
        ready!(self.deadline.poll(context));
        Poll::Ready(Err(Gone::Late))
    }

    /// Reads what the client sends in the meantime, as far as its buffer has room, and
    /// notes the end of its side. Returns whether the connection is broken.
    pub(super) fn poll_gone(&mut self, thread: &Thread, context: &mut Context<'_>) -> bool {
        while !self.finished {
            if !self.input.has_room() {
                return self.looks_gone(thread);
            }
            if let Some(is_broken) = self.poll_more(thread, context) {
                return is_broken;
            }
        }
        false
    }

    /// Reads what the client sends and discards it. Returns whether the connection is
    /// broken.
    pub(super) fn poll_discard(&mut self, thread: &Thread, context: &mut Context<'_>) -> bool {
        while !self.finished {
            self.input.consume(usize::MAX);
            if thread.memory.may_widen() {
                self.input.widen(&thread.buffers);
            }
            if let Some(is_broken) = self.poll_more(thread, context) {
                return is_broken;
            }
        }
        false
    }

    /// Reads once and notes the end of the client's side. `Some` if there is nothing more
    /// to read now; its value says whether the connection is broken.
    fn poll_more(&mut self, thread: &Thread, context: &mut Context<'_>) -> Option<bool> {
        let read = self
            .input
            .poll_fill(&mut self.transport, &thread.buffers, context);
        match read {
            Poll::Pending => return Some(false),
            Poll::Ready(Err(_)) => return Some(true),
            Poll::Ready(Ok(0)) => {
                self.finished = true;
                self.half_closed.get_or_insert(thread.clock.now());
            }
            Poll::Ready(Ok(_)) => {}
        }
        None
    }

    /// Whether the connection is broken, as far as the event loop knows. This is for a
    /// connection that is not read at present. The caller checks again after
    /// [`LOOK_INTERVAL`].
    pub(super) fn looks_gone(&mut self, thread: &Thread) -> bool {
        let heard = self.transport.heard();
        if heard.is_read_closed && self.half_closed.is_none() {
            self.half_closed = Some(thread.clock.now());
        }
        heard.is_broken
    }

    /// Whether it is a ScaledApp proxy that has closed its side, and therefore no longer
    /// waits for an answer.
    pub(super) fn has_left(&self) -> bool {
        self.half_closed.is_some() && self.trust == Trust::Behind
    }

    /// Until when it is worth waiting for the answer, if bytes last moved at `moved`.
    pub(super) fn waits_until(&self, thread: &Thread, moved: Duration) -> Duration {
        match self.half_closed {
            None => Duration::MAX,
            Some(_) if self.trust == Trust::Behind => Duration::ZERO,
            Some(ended) => ended
                .max(moved)
                .saturating_add(thread.config.limits.half_close_time),
        }
    }

    /// Sends an answer of the proxy itself.
    pub(super) async fn answer(&mut self, thread: &Thread, answer: OwnAnswer) -> Then {
        let OwnAnswer {
            status,
            reason,
            retry_after,
            close,
            is_head,
        } = answer;
        let pages = thread.pages.as_ref();
        let page = pages.and_then(|pages| pages.borrow().find(status, self.accepted));
        if let Some(record) = &mut self.record {
            record.answered(status, reason);
            let length = page
                .as_ref()
                .map_or(reason.len() + 1, |page| page.body.len());
            record.sent(if is_head { 0 } else { length as u64 });
        }
        let mut out = thread.buffers.output();
        if let Some(page) = &page {
            let page = http1::Page {
                content_type: page.content_type,
                body: &page.body,
                reason,
            };
            http1::write_page(&mut out, status, page, retry_after, close, is_head);
        } else {
            http1::write_answer(&mut out, status, reason, retry_after, None, close, is_head);
        }
        self.write(thread, out, close).await
    }

    /// Sends a complete answer; `close` ends the connection with it.
    pub(super) async fn write(&mut self, thread: &Thread, out: Vec<u8>, close: bool) -> Then {
        let mut flow = Flow::of(out);
        self.owes(thread, thread.config.limits.head_time);
        let written = poll_fn(|context| {
            if let Poll::Ready(written) = flow.poll_write(&mut self.transport, close, context) {
                return Poll::Ready(written);
            }
            self.deadline
                .poll(context)
                .map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await;
        thread.buffers.put_output(flow.into_out());
        match written {
            Err(_) => Then::End,
            Ok(()) if close => Then::Close,
            Ok(()) => Then::Next,
        }
    }
}
