//! Whether anybody still waits for an answer.
//!
//! A reset says no. The end of the client's side (FIN) can mean both: `printf … | nc`
//! has said all it had to say and waits, a browser tab that was closed looks the same
//! until something is written to it. RFC 9112 section 9.6 lets a server go on or not.
//! So a client is believed for a bounded time, and a proxy of ours not at all: it never
//! ends its side of a connection on which it waits for an answer.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use scaledapp_http1::Trust;
use tokio::io::Interest;

use crate::connection::Client;
use crate::thread::Thread;

/// How often a connection is looked at that cannot be read because we hold as many of
/// its bytes as we want.
pub(crate) const LOOK: Duration = Duration::from_millis(500);

impl Client {
    /// Takes what it sends meanwhile, within its buffer, and notes the end of its
    /// side. Whether its connection is broken.
    pub(crate) fn poll_gone(&mut self, thread: &Thread, context: &mut Context<'_>) -> bool {
        while !self.finished {
            if !self.input.has_room() {
                return self.looks_gone(thread);
            }
            match self
                .input
                .poll_fill(&mut self.stream, &thread.buffers, context)
            {
                Poll::Pending => return false,
                Poll::Ready(Ok(0)) => {
                    self.finished = true;
                    self.half_closed.get_or_insert(thread.clock.now());
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return true,
            }
        }
        false
    }

    /// Takes what it sends and throws it away. Whether its connection is broken.
    pub(crate) fn poll_discard(&mut self, thread: &Thread, context: &mut Context<'_>) -> bool {
        while !self.finished {
            self.input.consume(usize::MAX);
            self.input.widen();
            match self
                .input
                .poll_fill(&mut self.stream, &thread.buffers, context)
            {
                Poll::Pending => return false,
                Poll::Ready(Ok(0)) => {
                    self.finished = true;
                    self.half_closed.get_or_insert(thread.clock.now());
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return true,
            }
        }
        false
    }

    /// The same by what the reactor has heard of the connection (`EPOLLRDHUP`), where
    /// nothing can be read. Costs no system call and wakes nobody: the caller looks
    /// again after [`LOOK`].
    pub(crate) fn looks_gone(&mut self, thread: &Thread) -> bool {
        let heard = pin!(self.stream.ready(Interest::READABLE | Interest::ERROR));
        let heard = heard.poll(&mut Context::from_waker(Waker::noop()));
        match heard {
            Poll::Ready(Ok(ready)) => {
                if ready.is_read_closed() && self.half_closed.is_none() {
                    self.half_closed = Some(thread.clock.now());
                }
                ready.is_error()
            }
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Until when an answer is worth waiting for, when something moved last at `moved`.
    pub(crate) fn waits_until(&self, thread: &Thread, moved: Duration) -> Duration {
        match self.half_closed {
            None => Duration::MAX,
            Some(_) if self.trust == Trust::Behind => Duration::ZERO,
            Some(ended) => ended
                .max(moved)
                .saturating_add(thread.config.limits.half_close_time),
        }
    }
}
