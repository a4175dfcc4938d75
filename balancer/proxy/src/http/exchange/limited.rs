//! Whether a request exceeds a limit of its client, and the answer to one that does.
//!
//! How many requests an address may send is decided in `rate`.

use scaledapp_http1::Framing;

use super::state::Exchange;
use crate::clock;
use crate::http::request::{BODY_TOO_LARGE, Then};
use crate::metrics::Failure;

impl Exchange<'_> {
    /// Answers a request that exceeds a limit, before any of its body is read. `None`: the request
    /// goes on.
    pub(super) async fn limited(&mut self) -> Option<Then> {
        let thread = self.thread;
        // A proxy that the user has named carries many clients.
        let source = thread.callers.counted(self.client.source);
        if let (Some(rates), Some(address)) = (&thread.rates, source)
            && let Err(wait) = rates.take(address, clock::now())
        {
            thread.counts.failed(Failure::RateLimited);
            thread.complaints.address_is_too_fast(address);
            let elapsed = self.meta.started.elapsed();
            thread.counts.answered(429, elapsed);
            let close = !self.meta.goes_on_unread() || thread.activity.is_leaving();
            let seconds = Some(wait.seconds());
            let answer = self.answer_later(429, "too-many-requests", seconds, close);
            return Some(answer.await);
        }
        match (self.meta.framing, thread.config.limits.body_bytes) {
            (Framing::Length(length), Some(most)) if length > most => {
                Some(self.body_is_too_large().await)
            }
            _ => None,
        }
    }

    /// Whether more of the body has arrived than it may have.
    pub(super) fn exceeds_body(&self) -> bool {
        let most = self.thread.config.limits.body_bytes;
        most.is_some_and(|most| self.request.data() > most)
    }

    /// Answers a request whose body is too large.
    pub(super) async fn body_is_too_large(&mut self) -> Then {
        let thread = self.thread;
        thread.counts.failed(Failure::Refused);
        let rule = "its body is larger than --body-size allows";
        thread
            .complaints
            .request_is_refused(413, BODY_TOO_LARGE, rule);
        let elapsed = self.meta.started.elapsed();
        thread.counts.answered(413, elapsed);
        self.answer(413, BODY_TOO_LARGE, true).await
    }
}
