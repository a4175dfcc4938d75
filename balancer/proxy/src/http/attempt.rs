//! One attempt: a request and its answer on one upstream connection, both directions at the
//! same time.
//!
//! A server may answer before it has the whole request (413, 100), and a client may close
//! its connection before it has its answer. What a failed attempt means is decided in
//! `exchange`.

mod bypass;
mod head;
mod state;

use std::future::poll_fn;
use std::io::ErrorKind;
use std::task::{Context, Poll};
use std::time::Duration;

use scaledapp_http1::{GrpcStatus, Malformed, Trust};

use self::head::has_failed;
pub(crate) use self::state::{Answered, Attempt, BrokenOff, End};
use self::state::{MAX_ANSWER_BYTES, State};
use super::body::GATHER_BYTES;
use super::client::LOOK_INTERVAL;
use super::request::BODY_TOO_LARGE;
use super::unsent::Unsent;
use super::upstream::Upstream;
use crate::metrics::Failure;

/// Whether more bytes of an answer may be kept for its reader.
enum AnswerRoom {
    None,
    /// No more could be kept until now, so more bytes may be ready to read.
    New,
    Left,
}

impl<'t> Attempt<'_, 't> {
    /// Runs until the attempt has ended. It takes a reference, because a future that owned
    /// the attempt would take the memory of another copy of it at each await.
    pub(super) async fn run(&mut self) -> End {
        poll_fn(|context| self.poll(context)).await
    }

    /// What is left of an attempt that has ended: its connection, on which bytes may have
    /// come after the answer, and the part of the answer that has not been sent yet.
    pub(super) fn over(self, end: &End) -> (Upstream, Option<Unsent<'t>>) {
        let rest = if matches!(end, End::Answered(_)) && self.answer.is_pending() {
            Some(Unsent {
                flow: self.answer,
                reader: self.reader,
                held: self.waiting,
            })
        } else {
            self.thread.buffers.put_output(self.answer.into_out());
            None
        };
        (self.upstream, rest)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        if self.client.deadline.is_squeezed() {
            self.squeeze();
        }
        if let Poll::Ready(end) = self.poll_send(context) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_answer(context) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_discard(context) {
            return Poll::Ready(end);
        }
        let is_gone = if self.request.is_sent() {
            self.client.poll_gone(self.thread, context)
        } else {
            // The client is read only as fast as the upstream takes its bytes.
            !self.awaits_body() && self.client.looks_gone(self.thread)
        };
        if is_gone {
            return Poll::Ready(self.failed(Failure::ClientGone));
        }
        if let Some(cut) = self.client.deadline.cut() {
            return Poll::Ready(self.failed(cut.into()));
        }
        let grown = self.request.grown() + self.answer.grown();
        if grown > 0 && !self.thread.memory.takes(grown as u64) {
            return Poll::Ready(self.failed(Failure::Memory));
        }
        self.client.deadline.holds(self.held());
        let now = self.thread.clock.now();
        let (until, cause) = self.until(now);
        let stalled = self.stalled();
        if until <= now {
            return Poll::Ready(self.failed(cause));
        }
        let look = self.look_at(now);
        self.client.deadline.set_stalled(until.min(look), stalled);
        // The deadline lies ahead, so this only registers the waker.
        self.client
            .deadline
            .poll(context)
            .map(|()| self.failed(self.client.deadline.cut().map_or(cause, Failure::from)))
    }

    /// The memory in bytes that both directions take.
    fn held(&self) -> usize {
        let inputs = self.client.input.held() + self.upstream.input.held();
        inputs + self.request.held() + self.answer.held() + self.in_pipe()
    }

    /// Gives back the memory that is not needed.
    fn squeeze(&mut self) {
        self.request.squeeze();
        self.answer.squeeze();
        let buffers = &self.thread.buffers;
        self.client.input.squeeze(buffers);
        self.upstream.input.squeeze(buffers);
    }

    /// Whether the client still has to send the rest of the request.
    fn awaits_body(&self) -> bool {
        !(self.request.is_taken() || self.request.is_pending() || self.upstream.deaf)
    }

    /// Until when the attempt may continue in its state at `now`, and the failure with which
    /// it ends then.
    fn until(&mut self, now: Duration) -> (Duration, Failure) {
        let limits = &self.thread.config.limits;
        let has_head = !matches!(self.state, State::Head);
        let awaits_reader = self.awaits_reader();
        // A client that expects `100 Continue` may be waiting for it.
        let awaits_word = self.meta.expects_continue && !self.upstream.spoke && !self.sends;
        let awaits_body = self.awaits_body() && !awaits_word;
        let is_held_up = awaits_body && !has_head
            || awaits_reader && (self.answer.is_full() || self.in_pipe() > 0);
        self.entered.hold_up(is_held_up, now);
        let mut least = (Duration::MAX, Failure::Timeout);
        let mut bound = |until: Duration, cause| {
            if until < least.0 {
                least = (until, cause);
            }
        };
        // A server whose answer begins before it has the whole request decides by itself
        // how fast it takes the rest.
        if awaits_body && !has_head && !self.meta.is_open_ended {
            bound(self.client.body.wait(now), Failure::ClientTimeout);
        } else {
            self.client.body.pause(now);
        }
        if let Some(until) = self.meta.until {
            bound(until, Failure::Timeout);
        }
        if awaits_reader {
            bound(self.reader.wait(now), Failure::ClientTimeout);
        } else {
            self.reader.pause(now);
        }
        if self.request.is_pending() && !self.upstream.deaf {
            let until = self.moved.saturating_add(limits.stall_time);
            bound(until, Failure::Timeout);
        } else if !has_head && !awaits_body {
            let sent = *self.sent.get_or_insert(now);
            bound(sent.saturating_add(limits.answer_time), Failure::Timeout);
        } else if !has_head && self.meta.is_open_ended {
            // The client and the server may both be silent: the client decides when it sends its
            // next message.
            bound(
                self.moved.saturating_add(limits.stream_time),
                Failure::Timeout,
            );
        }
        if has_head && !awaits_reader {
            let time = if self.streams {
                limits.stream_time
            } else {
                limits.stall_time
            };
            bound(self.moved.saturating_add(time), Failure::Timeout);
        }
        // The code before this limits how long a client may leave its answer unread.
        // Between ScaledApp proxies, a closed side means that the peer no longer waits.
        if !awaits_reader || self.client.trust == Trust::Behind {
            // A client that has closed its side may still wait for the end of an answer, but
            // a stream has no end.
            let moved = if self.streams { self.begun } else { self.moved };
            let until = self.client.waits_until(self.thread, moved);
            bound(until, Failure::ClientGone);
        }
        least
    }

    /// Since when this attempt has been waiting for the client to send or to read, at the
    /// last check.
    fn stalled(&self) -> Option<Duration> {
        let sends = self.client.body.stalled();
        let reads = self.reader.stalled();
        sends.into_iter().chain(reads).min()
    }

    /// When to check next whether the client has closed its connection, if nothing is read
    /// from it now.
    fn look_at(&self, now: Duration) -> Duration {
        let is_read = if self.request.is_sent() {
            self.client.finished || self.client.input.has_room()
        } else {
            self.awaits_body()
        };
        if is_read {
            Duration::MAX
        } else {
            now + LOOK_INTERVAL
        }
    }

    /// Whether the part of the answer that has arrived must wait for the rest.
    fn holds(&self) -> bool {
        self.held && !self.answer.is_taken()
    }

    /// Whether the client has received a part of the answer, so that no other answer can
    /// follow.
    fn is_headed(&self) -> bool {
        match self.state {
            State::Head => self.answer.has_begun() && self.answer.is_pending(),
            State::Body(_) | State::Switching => self.answer.has_begun(),
        }
    }

    /// Whether the bytes that wait for the client are the last that it gets.
    fn is_last(&self) -> bool {
        matches!(self.state, State::Body(answered) if answered.close) && self.answer.is_taken()
    }

    fn failed(&self, cause: Failure) -> End {
        End::Failed(BrokenOff {
            cause,
            headed: self.is_headed(),
            // What a dispatcher sends when it hands a request back is not a worker's answer.
            answered: self.upstream.spoke && cause != Failure::HandedBack && !self.holds(),
        })
    }

    /// Records that bytes have moved.
    fn has_moved(&mut self) {
        self.moved = self.thread.clock.now();
    }

    /// Sends as much of the request as possible; ready only if that ends the attempt.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<End> {
        while !self.upstream.deaf {
            if self.request.is_pending() {
                let link = &mut self.upstream.link;
                let before = self.request.pending();
                let written = self.request.poll_write(&mut link.transport, false, context);
                link.sent += (before - self.request.pending()) as u64;
                match written {
                    Poll::Pending => return Poll::Pending,
                    // The upstream may have answered before it stopped reading.
                    Poll::Ready(Err(error)) => {
                        self.upstream.deaf = true;
                        // EPIPE means that its orderly close came first.
                        self.upstream.reset = error.kind() != ErrorKind::BrokenPipe;
                    }
                    Poll::Ready(Ok(())) => self.has_moved(),
                }
                continue;
            }
            if self.request.is_taken() {
                return Poll::Pending;
            }
            match self.request.take(&mut self.client.input) {
                Err(Malformed { reason }) => {
                    let headed = self.is_headed();
                    return Poll::Ready(End::BadBody {
                        status: 400,
                        reason,
                        headed,
                    });
                }
                Ok(0) => {}
                Ok(_) => {
                    let most = self.thread.config.limits.body_bytes;
                    if most.is_some_and(|most| self.request.data() > most) {
                        let headed = self.is_headed();
                        return Poll::Ready(End::BadBody {
                            status: 413,
                            reason: BODY_TOO_LARGE,
                            headed,
                        });
                    }
                    if let Some(record) = &self.client.record {
                        record.received(self.request.data());
                    }
                    continue;
                }
            }
            if self.thread.memory.may_widen() {
                self.client.input.widen(&self.thread.buffers);
            }
            let client = &mut *self.client;
            if !client.may_read(self.thread) {
                return Poll::Ready(self.failed(Failure::Memory));
            }
            match client
                .input
                .poll_fill(&mut client.transport, &self.thread.buffers, context)
            {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => {
                    return Poll::Ready(self.failed(Failure::ClientGone));
                }
                Poll::Ready(Ok(read)) => {
                    self.has_moved();
                    self.sends = true;
                    self.client.body.moved(read, self.moved);
                }
            }
        }
        Poll::Pending
    }

    /// Discards the rest of an upload that the server no longer reads, so that a client
    /// that sends everything before it reads gets its answer.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let State::Body(answered) = self.state else {
            return Poll::Pending;
        };
        if self.request.is_taken() || !self.awaits_reader() {
            return Poll::Pending;
        }
        // Avoids a deadlock: a server that has answered with an error and reads nothing
        // more waits until the proxy reads the answer, the proxy waits until the client
        // reads it, and the client waits until the proxy takes its upload.
        let is_stuck = answered.status >= 400 && self.request.is_pending();
        if !self.upstream.deaf && !is_stuck {
            return Poll::Pending;
        }
        self.upstream.deaf = true;
        if self.client.poll_discard(self.thread, context) {
            return Poll::Ready(self.failed(Failure::ClientGone));
        }
        Poll::Pending
    }

    /// Passes as much of the answer on as possible.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Some(cause) = self.take_answer() {
                return Poll::Ready(self.failed(cause));
            }
            if self.answer.is_pending() && !self.holds() {
                let last = self.is_last();
                let before = self.answer.pending();
                let transport = &mut self.client.transport;
                let written = self.answer.poll_write(transport, last, context);
                if self.answer.pending() < before {
                    self.has_moved();
                    let moved = before - self.answer.pending();
                    self.reader.moved(moved, self.moved);
                    if let Some(record) = &self.client.record {
                        record.sent(self.answer.data_written());
                    }
                }
                match written {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(self.failed(Failure::ClientGone)),
                    Poll::Pending => {}
                }
                match self.state {
                    // The rest concerns only the client and this proxy.
                    State::Body(answered) if self.answer.is_taken() => {
                        return Poll::Ready(self.ended(answered));
                    }
                    State::Body(_) => match self.room() {
                        AnswerRoom::None => return Poll::Pending,
                        AnswerRoom::New => continue,
                        AnswerRoom::Left => {}
                    },
                    State::Head | State::Switching => return Poll::Pending,
                }
            }
            if let Some(next) = self.bypass(context) {
                return next;
            }
            match self.state {
                State::Switching if self.request.is_sent() => return Poll::Ready(End::Switched),
                // The request's body comes before bytes of the new protocol (RFC 9110
                // section 7.8), and must be complete.
                State::Switching if self.upstream.deaf => {
                    return Poll::Ready(self.failed(Failure::CutOff));
                }
                State::Switching => return Poll::Pending,
                State::Body(answered) if self.answer.is_taken() => {
                    return Poll::Ready(self.ended(answered));
                }
                State::Body(_) | State::Head => self.make_room(),
            }
            let upstream = &mut self.upstream;
            let read = upstream.input.poll_fill(
                &mut upstream.link.transport,
                &self.thread.buffers,
                context,
            );
            upstream.finished |= matches!(read, Poll::Ready(Ok(0)));
            match read {
                Poll::Pending => return Poll::Pending,
                // A body without any other framing ends only with an orderly close (RFC
                // 9112 section 8: a body that a reset cuts off must not count as complete).
                Poll::Ready(Ok(0)) if self.is_ended_by_close() => {}
                Poll::Ready(Ok(0) | Err(_)) => match self.state {
                    State::Body(_) if self.holds() => {
                        return Poll::Ready(self.failed(Failure::Upstream));
                    }
                    State::Body(_) => return Poll::Ready(self.failed(Failure::CutOff)),
                    State::Head | State::Switching => {
                        return Poll::Ready(self.failed(Failure::Upstream));
                    }
                },
                Poll::Ready(Ok(_)) => {
                    self.upstream.spoke = true;
                    self.moved = self.thread.clock.now();
                    self.endpoint.hear(self.moved);
                }
            }
        }
    }

    /// Makes room for more of the answer.
    fn make_room(&mut self) {
        let most = self.head_limits().head_bytes;
        let (input, buffers) = (&mut self.upstream.input, &self.thread.buffers);
        if !matches!(self.state, State::Head) {
            if self.thread.memory.may_widen() {
                input.widen(buffers);
            }
        } else if input.is_full() {
            input.grow(most, buffers);
        }
    }

    /// The whole answer is there.
    fn ended(&mut self, mut answered: Answered) -> End {
        if answered.is_grpc {
            let status = self.answer.trailers().field("grpc-status");
            answered.has_failed |= has_failed(status);
            if let (Some(record), Some(status)) = (&mut self.client.record, status) {
                record.grpc(GrpcStatus::of(status));
            }
        }
        End::Answered(answered)
    }

    /// Whether more of the answer may be kept for its reader.
    fn room(&mut self) -> AnswerRoom {
        let has_memory = self.waiting.set(self.answer.pending());
        let was_full = self.answer.is_full();
        self.answer.gather(if has_memory {
            MAX_ANSWER_BYTES
        } else {
            GATHER_BYTES
        });
        match (was_full, self.answer.is_full()) {
            (_, true) => AnswerRoom::None,
            (true, false) => AnswerRoom::New,
            (false, false) => AnswerRoom::Left,
        }
    }

    /// Treats the orderly end of the upstream's side as the end of the body.
    fn is_ended_by_close(&mut self) -> bool {
        let is_body = matches!(self.state, State::Body(_));
        is_body && !self.upstream.reset && self.answer.close().is_ok()
    }
}
