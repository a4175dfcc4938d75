//! How much of a request's body is read before an endpoint is chosen.
//!
//! A client that sends slowly would block a server that does one thing at a time. So a
//! short body is read completely first. A longer body is passed on as it arrives. So is the
//! body of an upgrade, of a gRPC call, of a request without a length to a server that speaks HTTP/2,
//! and of a client that waits for `100 Continue`.

use std::future::poll_fn;

use scaledapp_http1::Framing;

use super::state::Exchange;
use crate::http::allowance::Allowance;
use crate::http::client::Gone;
use crate::http::request::Then;
use crate::metrics::Failure;

impl Exchange<'_> {
    /// Reads the part of the body that has arrived, and all of it if it is short. An error
    /// means that the request is over, and says what becomes of the connection.
    pub(super) async fn gather(&mut self) -> Result<(), Then> {
        let most = self.request.pending() + self.replay_bytes;
        // The body's first bytes usually came with the head. A malformed body is refused
        // before any of it is sent to an endpoint.
        if let Err(malformed) = self.request.take(&mut self.client.input) {
            return Err(self.refuse_body(malformed).await);
        }
        if self.exceeds_body() {
            return Err(self.body_is_too_large().await);
        }
        if !self.request.is_taken() {
            self.gather_short(most).await?;
        }
        if let Some(record) = &self.client.record {
            record.received(self.request.data());
        }
        // The memory of the input is not needed while the request waits in the queue or for
        // a connection.
        self.client.input.release(&self.thread.buffers);
        Ok(())
    }

    /// Reads a short body to its end; together with the head it has at most `most` bytes.
    async fn gather_short(&mut self, most: usize) -> Result<(), Then> {
        let thread = self.thread;
        let is_short = match self.meta.framing {
            Framing::Length(length) => length <= self.replay_bytes as u64,
            // A body counts as short until it turns out to be longer.
            Framing::Chunked => self.replay_bytes > 0,
            Framing::None | Framing::UntilClose => false,
        };
        self.client.body = Allowance::to_send(&thread.config.limits);
        // The client of an open-ended request may wait for a part of the answer before it sends the rest.
        if !is_short || self.meta.upgrade || self.meta.expects_continue || self.meta.is_open_ended {
            return Ok(());
        }
        while !self.request.is_taken() && self.request.pending() < most {
            let (client, request) = (&mut *self.client, &mut self.request);
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
                    self.tell_failed(Failure::ClientGone);
                    return Err(Then::End);
                }
                Ok(read) => client.body.moved(read, thread.clock.now()),
                Err(Gone::Late) => {
                    let cut = client.deadline.cut();
                    let cause = cut.map_or(Failure::ClientTimeout, Failure::from);
                    thread.counts.failed(cause);
                    return Err(self.give_up(cause, None, false, None).await);
                }
            }
            if let Err(malformed) = self.request.take(&mut self.client.input) {
                return Err(self.refuse_body(malformed).await);
            }
            if !thread.memory.takes(self.request.grown() as u64) {
                thread.counts.failed(Failure::Memory);
                return Err(self.give_up(Failure::Memory, None, false, None).await);
            }
            if self.exceeds_body() {
                return Err(self.body_is_too_large().await);
            }
        }
        Ok(())
    }
}
