//! What is read of a request's body before an endpoint is chosen.
//!
//! A client that sends slowly would hold a server that does one thing at a time. So a
//! short body is read to its end first. A longer one goes on as it comes, and so does one
//! whose client waits for a word of the server.

use std::future::poll_fn;

use scaledapp_http1::Framing;

use super::state::Exchange;
use crate::http::allowance::Allowance;
use crate::http::client::Gone;
use crate::http::request::Then;
use crate::metrics::Failure;

impl Exchange<'_> {
    /// Takes what there is of the body, and all of it if it is short. An error is what
    /// becomes of the connection instead.
    pub(super) async fn gather(&mut self) -> Result<(), Then> {
        let most = self.request.pending() + self.replay_bytes;
        // The body's first bytes usually came with the head. A malformed body is refused
        // before an endpoint hears of it.
        if let Err(malformed) = self.request.take(&mut self.client.input) {
            return Err(self.refuse_body(malformed).await);
        }
        if !self.request.is_taken() {
            self.gather_short(most).await?;
        }
        // Neither a queue nor a connection to come needs its memory.
        self.client.input.release(&self.thread.buffers);
        Ok(())
    }

    /// Reads a short body to its end; with the head it has `most` bytes.
    async fn gather_short(&mut self, most: usize) -> Result<(), Then> {
        let thread = self.thread;
        let is_short = match self.meta.framing {
            Framing::Length(length) => length <= self.replay_bytes as u64,
            // It is taken for short until it has shown that it is longer.
            Framing::Chunked => self.replay_bytes > 0,
            Framing::None | Framing::UntilClose => false,
        };
        self.client.body = Allowance::to_send(&thread.config.limits);
        if !is_short || self.meta.upgrade || self.meta.expects_continue {
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
        }
        Ok(())
    }
}
