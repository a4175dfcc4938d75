//! Large bodies of answers between two connections without encryption: the kernel moves their bytes
//! (splice(2)), and this process reads only the framing.
//!
//! A body goes this way while its length is known and much of it is missing. Near its end, or if a
//! pipe cannot be had, its bytes are copied: they can then wait here for a slow client while the
//! server is free.

use std::task::{Context, Poll};

use super::MAX_ANSWER_BYTES;
use super::state::{Attempt, End, State};
use crate::metrics::Failure;
use crate::transport::Transport;

/// The least number of missing bytes for which a pipe is used.
const MIN_BYTES: u64 = 32 << 10;

/// What has become of the bytes in a pipe.
enum Emptied {
    /// The client has taken some of them.
    Some,
    /// They wait in memory.
    Kept,
    /// The client takes nothing at the moment.
    Waits,
    Failed(Failure),
}

impl Attempt<'_, '_> {
    /// The number of bytes that are on their way in a pipe.
    pub(super) fn in_pipe(&self) -> usize {
        self.pipe.bytes()
    }

    /// Whether bytes of the answer wait for the client.
    pub(super) fn awaits_reader(&self) -> bool {
        self.answer.is_pending() && !self.holds() || self.in_pipe() > 0
    }

    /// Moves as much of the body as possible without reading it. Returns `None` if the next bytes
    /// are to be copied.
    pub(super) fn bypass(&mut self, context: &mut Context<'_>) -> Option<Poll<End>> {
        if !matches!(self.state, State::Body(_)) {
            return None;
        }
        loop {
            if self.in_pipe() > 0 {
                match self.empty_pipe(context) {
                    Emptied::Some => continue,
                    Emptied::Kept => return None,
                    Emptied::Waits => return Some(Poll::Pending),
                    Emptied::Failed(cause) => return Some(Poll::Ready(self.failed(cause))),
                }
            }
            let left = self.answer.bypass();
            let transports = (&self.upstream.link.transport, &self.client.transport);
            let (Transport::Plain(from), Transport::Plain(_)) = transports else {
                return None;
            };
            if left < MIN_BYTES {
                self.pipe.release();
                return None;
            }
            let pipes = &self.thread.pipes;
            match self.pipe.get(pipes)?.poll_fill(from, left, context) {
                Poll::Pending => {
                    self.pipe.release();
                    return Some(Poll::Pending);
                }
                Poll::Ready(Err(error)) if pipes.is_refusal(&error) => {
                    self.pipe.release();
                    return None;
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.upstream.finished = true;
                    return Some(Poll::Ready(self.failed(Failure::CutOff)));
                }
                Poll::Ready(Ok(_)) => {
                    self.upstream.spoke = true;
                    self.has_moved();
                    self.endpoint.hear(self.moved);
                }
            }
        }
    }

    /// Moves bytes from the pipe to the client.
    fn empty_pipe(&mut self, context: &mut Context<'_>) -> Emptied {
        let Transport::Plain(client) = &self.client.transport else {
            return Emptied::Failed(Failure::ClientGone);
        };
        match self.pipe.poll_empty(client, context) {
            Poll::Ready(Ok(count)) => {
                self.answer.bypassed(count);
                self.has_moved();
                self.reader.moved(count, self.moved);
                Emptied::Some
            }
            Poll::Ready(Err(_)) => Emptied::Failed(Failure::ClientGone),
            // The rest fits into memory here, so that the server need not wait for the client.
            Poll::Pending if self.answer.bypass() <= MAX_ANSWER_BYTES as u64 => self.keep_pipe(),
            Poll::Pending => Emptied::Waits,
        }
    }

    /// Copies what is in the pipe, as bytes that wait for the client.
    fn keep_pipe(&mut self) -> Emptied {
        let count = self.in_pipe();
        if self.pipe.copy_to(self.answer.out()).is_err() {
            return Emptied::Failed(Failure::CutOff);
        }
        self.answer.bypassed(count);
        self.pipe.release();
        Emptied::Kept
    }
}
