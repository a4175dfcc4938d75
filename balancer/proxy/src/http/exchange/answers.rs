//! The answers of the proxy itself: which status and reason a client gets if no endpoint
//! has answered.
//!
//! The steps of the exchange decide when that is so.

use scaledapp_http1::{self as http1, Elsewhere, GrpcStatus, Malformed, Version};

use super::search::NoEndpoint;
use super::state::Exchange;
use crate::endpoint::Endpoint;
use crate::http::client::{OwnAnswer, retry_after};
use crate::http::request::Then;
use crate::metrics::Failure;

impl Exchange<'_> {
    /// Answers a request that has found no endpoint.
    pub(super) async fn refuse(&mut self, reason: NoEndpoint) -> Then {
        let thread = self.thread;
        let (failure, status, reason) = match reason {
            NoEndpoint::InTime if thread.upstreams.ready() > 0 => {
                (Failure::QueueTimeout, 503, "queue-timeout")
            }
            NoEndpoint::InTime => (Failure::NoEndpoint, 503, "no-endpoint"),
            NoEndpoint::QueueFull => (Failure::QueueFull, 503, "queue-full"),
            NoEndpoint::Elsewhere => (Failure::HandedBack, 502, "upstream-failed"),
            // The request may have been executed, so the answer must not invite the client
            // to send it again.
            NoEndpoint::Suspect if self.past.written => (Failure::Suspect, 502, "upstream-failed"),
            NoEndpoint::Suspect => (Failure::Suspect, 503, "path-ends-workers"),
            NoEndpoint::ClientGone => {
                thread.counts.failed(Failure::ClientGone);
                self.tell_failed(Failure::ClientGone);
                return Then::End;
            }
        };
        thread.complaints.request_failed(status, reason, None);
        thread.counts.failed(failure);
        let elapsed = self.meta.started.elapsed();
        thread.counts.answered(status, elapsed);
        let close = !self.meta.keep_alive
            || self.meta.version == Version::Http10
            || !self.request.is_taken()
            || thread.activity.is_leaving();
        self.answer(status, reason, close).await
    }

    /// Sends an answer of the proxy itself, in the form that the client understands.
    pub(super) async fn answer(&mut self, status: u16, reason: &'static str, close: bool) -> Then {
        let retry_after = retry_after(status);
        self.answer_later(status, reason, retry_after, close).await
    }

    /// As [`Self::answer`], with the time in seconds after which the client may try again.
    pub(super) async fn answer_later(
        &mut self,
        status: u16,
        reason: &'static str,
        retry_after: Option<u32>,
        close: bool,
    ) -> Then {
        let thread = self.thread;
        if !self.meta.is_grpc {
            let answer = OwnAnswer {
                status,
                reason,
                retry_after,
                close,
                is_head: self.meta.is_head,
            };
            return self.client.answer(thread, answer).await;
        }
        let status = GrpcStatus::of_http(status);
        if let Some(record) = &mut self.client.record {
            record.answered(200, reason);
            record.grpc(Some(status));
        }
        let mut out = thread.buffers.output();
        http1::write_grpc_answer(&mut out, status, reason, close);
        self.client.write(thread, out, close).await
    }

    /// Answers a request whose attempts have failed. If the sender is a ScaledApp balancer,
    /// the answer may tell it that the request can go `elsewhere`.
    pub(super) async fn give_up(
        &mut self,
        cause: Failure,
        endpoint: Option<&Endpoint>,
        headed: bool,
        elsewhere: Option<Elsewhere>,
    ) -> Then {
        if headed {
            self.tell_failed(cause);
            if cause == Failure::Timeout {
                self.client.transport.is_late();
            }
            return Then::Reset;
        }
        let thread = self.thread;
        let (status, reason) = match cause {
            Failure::ClientGone => {
                self.tell_failed(cause);
                return Then::End;
            }
            Failure::ClientTimeout => (408, "body-timeout"),
            Failure::GaveWay => (408, "gave-way"),
            Failure::Timeout => (504, "upstream-timeout"),
            Failure::Malformed => (502, "upstream-malformed"),
            Failure::Memory => (503, "out-of-memory"),
            _ => (502, "upstream-failed"),
        };
        // A malformed answer has already been logged, and a request that is handed back may
        // still be served.
        if status >= 500 && cause != Failure::Malformed && elsewhere.is_none() {
            thread.complaints.request_failed(status, reason, endpoint);
        }
        let elapsed = self.meta.started.elapsed();
        thread.counts.answered(status, elapsed);
        if elsewhere.is_none() {
            return self.answer(status, reason, true).await;
        }
        if let Some(record) = &mut self.client.record {
            record.answered(status, reason);
        }
        let mut out = thread.buffers.output();
        let is_head = self.meta.is_head;
        http1::write_answer(&mut out, status, reason, None, elsewhere, true, is_head);
        self.client.write(thread, out, true).await
    }

    /// Tells the access log that the client gets no answer of the proxy after a failure.
    pub(super) fn tell_failed(&mut self, cause: Failure) {
        if let Some(record) = &mut self.client.record {
            record.failed(cause);
        }
    }

    /// Answers a request whose body is malformed.
    pub(super) async fn refuse_body(&mut self, malformed: Malformed) -> Then {
        let thread = self.thread;
        thread.counts.failed(Failure::Refused);
        let Malformed { reason } = malformed;
        thread
            .complaints
            .request_is_refused(400, reason, malformed.rule());
        self.answer(400, reason, true).await
    }
}
