//! Large bodies of answers between two connections without encryption: the kernel moves their bytes
//! (splice(2)), and this process reads only the framing.
//!
//! A body goes this way while its length is known and much of it is missing. Near its end, or if a
//! pipe cannot be had, its bytes are copied: they can then wait here for a slow client while the
//! server is free.

use std::task::{Context, Poll};

use super::state::{Attempt, End, MAX_ANSWER_BYTES, State};
use crate::metrics::Failure;
use crate::pipes::{MAX_TURN_BYTES, PIPE_BYTES, Pipe};
use crate::transport::Transport;

/// The least number of missing bytes for which a pipe is used.
const MIN_BYTES: u64 = 32 << 10;

/// What has become of the bytes in a pipe.
enum Emptied {
    /// The client has taken all of them.
    All,
    /// They wait in memory.
    Kept,
    /// The client takes nothing at the moment.
    Waits,
    Failed(Failure),
}

impl Attempt<'_, '_> {
    /// The number of bytes that are on their way in a pipe.
    pub(super) fn in_pipe(&self) -> usize {
        self.pipe.as_deref().map_or(0, Pipe::held)
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
        let mut moved = 0;
        loop {
            if moved > MAX_TURN_BYTES {
                // Other connections of the thread come first.
                context.waker().wake_by_ref();
                return Some(Poll::Pending);
            }
            if self.in_pipe() > 0 {
                match self.empty_pipe(context) {
                    Emptied::All => {}
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
            let pipes = &self.thread.pipes;
            if left < MIN_BYTES || pipes.is_refused() {
                self.pipe = None;
                return None;
            }
            if self.pipe.is_none() {
                self.pipe = Some(Box::new(pipes.take()?));
            }
            let most = usize::try_from(left).map_or(PIPE_BYTES, |left| left.min(PIPE_BYTES));
            match self.pipe.as_mut()?.fill(from, most) {
                Ok(None) if pipes.is_refused() => {}
                Ok(None) => {
                    // Registers the waker; bytes may have arrived since the attempt above.
                    if from.poll_read_ready(context).is_ready() {
                        continue;
                    }
                    self.pipe = None;
                    return Some(Poll::Pending);
                }
                Ok(Some(0)) | Err(_) => {
                    self.upstream.finished = true;
                    return Some(Poll::Ready(self.failed(Failure::CutOff)));
                }
                Ok(Some(count)) => {
                    moved += count;
                    self.upstream.spoke = true;
                    self.has_moved();
                    self.endpoint.hear(self.moved);
                }
            }
        }
    }

    /// Moves bytes from the pipe to the client.
    fn empty_pipe(&mut self, context: &mut Context<'_>) -> Emptied {
        let (Some(pipe), Transport::Plain(client)) = (&mut self.pipe, &self.client.transport)
        else {
            return Emptied::Failed(Failure::ClientGone);
        };
        let before = pipe.held();
        let emptied = pipe.poll_empty(client, context);
        let moved = before - pipe.held();
        if moved > 0 {
            self.answer.bypassed(moved);
            self.has_moved();
            self.reader.moved(moved, self.moved);
            if let Some(record) = &self.client.record {
                record.sent(self.answer.data_written());
            }
        }
        match emptied {
            Poll::Ready(Ok(())) => Emptied::All,
            Poll::Ready(Err(_)) => Emptied::Failed(Failure::ClientGone),
            // The rest fits into memory here, so that the server need not wait for the client.
            Poll::Pending if self.answer.bypass() <= MAX_ANSWER_BYTES as u64 => self.keep_pipe(),
            Poll::Pending => Emptied::Waits,
        }
    }

    /// Copies what is in the pipe, as bytes that wait for the client.
    fn keep_pipe(&mut self) -> Emptied {
        if let Some(mut pipe) = self.pipe.take() {
            let held = pipe.held();
            if pipe.copy_to(self.answer.out()).is_err() {
                return Emptied::Failed(Failure::CutOff);
            }
            self.answer.bypassed(held);
        }
        Emptied::Kept
    }
}
