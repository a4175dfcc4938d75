//! The rest of an answer after its server has sent all of it: from then on only the
//! client's pace matters, and the server is free for another request.
//!
//! How long a client may take is decided by its allowance.

use std::future::poll_fn;
use std::task::Poll;

use super::allowance::Allowance;
use super::body::Flow;
use super::client::{Client, LOOK_INTERVAL};
use super::request::Then;
use crate::buffer::Held;
use crate::metrics::Failure;
use crate::thread::Thread;

/// The part of an answer that is still to be sent.
#[derive(Debug)]
pub(crate) struct Unsent<'a> {
    pub(crate) flow: Flow,
    pub(crate) reader: Allowance,
    pub(crate) held: Held<'a>,
}

impl Unsent<'_> {
    /// Sends the rest. If that succeeds, `then` says what becomes of the connection.
    pub(crate) async fn send(self, thread: &Thread, client: &mut Client, then: Then) -> Then {
        let Self {
            mut flow,
            mut reader,
            held,
        } = self;
        let is_last = matches!(then, Then::Close | Then::Finish);
        let written = poll_fn(|context| {
            let before = flow.pending();
            if let Poll::Ready(written) = flow.poll_write(&mut client.transport, is_last, context) {
                if let Some(record) = &client.record {
                    record.sent(flow.data_written());
                }
                return Poll::Ready(written.map_err(|_| Failure::ClientGone));
            }
            let now = thread.clock.now();
            if flow.pending() < before {
                reader.moved(before - flow.pending(), now);
                if let Some(record) = &client.record {
                    record.sent(flow.data_written());
                }
            }
            // After the last answer, nothing that the client sends is used. It is still read
            // and discarded, because many clients do not read before they have sent
            // everything.
            let is_gone = if is_last {
                client.poll_discard(thread, context)
            } else {
                client.poll_gone(thread, context)
            };
            if is_gone || client.has_left() {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            if client.deadline.is_squeezed() {
                flow.squeeze();
                client.input.squeeze(&thread.buffers);
            }
            client.deadline.holds(flow.held() + client.input.held());
            let until = reader.wait(now);
            let stalled = reader.stalled();
            let deadline = until.min(now + LOOK_INTERVAL);
            client.deadline.set_stalled(deadline, stalled);
            if until <= now {
                return Poll::Ready(Err(Failure::ClientTimeout));
            }
            client.deadline.poll(context).map(|()| {
                let cut = client.deadline.cut();
                Err(cut.map_or(Failure::ClientTimeout, Failure::from))
            })
        })
        .await;
        drop(held);
        thread.buffers.put_output(flow.into_out());
        match written {
            Err(failure) => {
                thread.counts.failed(failure);
                if let Some(record) = &mut client.record {
                    record.failed(failure);
                }
                Then::Reset
            }
            // Not `Finish`, which closes immediately: the client may have sent something in
            // the meantime, and would get a reset. `Close` reads on for a while.
            Ok(()) if is_last => Then::Close,
            Ok(()) => then,
        }
    }
}
