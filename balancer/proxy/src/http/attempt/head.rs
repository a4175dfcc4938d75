//! Turns the bytes of the upstream into the answer to the client: the head is read and
//! rewritten, and the body is passed on.
//!
//! When bytes are read and written is decided in `attempt`.

use std::time::Duration;

use scaledapp_http1::{
    self as http1, Downstream, Framing, GrpcStatus, Limits, Response, Trust, Version,
};

use scaledapp_select::Preference;

use super::super::body::PassedTrailers;
use super::state::{Answered, Attempt, State};
use crate::access::Record;
use crate::complaints::Complaints;
use crate::config::grown;
use crate::endpoint::Endpoint;
use crate::metrics::Failure;
use crate::sticky::Binder;

/// The most interim responses to one request. A server that reports progress with them
/// (102, RFC 2518) may need hundreds. A server that sends more would probably go on
/// without end.
const MAX_INTERIMS: u32 = 1000;

/// If the request can be repeated, an answer with a body of at most this many bytes is
/// held back until it is complete. The repetition then remains possible even if the server
/// is killed between head and body, which many servers write separately. The wait is
/// usually too short to be noticed.
const MAX_HELD_BYTES: u64 = 16 << 10;

impl<'a> Attempt<'a, '_> {
    /// Uses the bytes that the upstream has sent; returns a cause if they cannot be used.
    pub(super) fn take_answer(&mut self) -> Option<Failure> {
        while !self.upstream.input.is_empty() {
            match self.state {
                State::Body(_) => {
                    let taken = self.answer.take(&mut self.upstream.input);
                    let malformed = taken.err()?;
                    self.thread.complaints.answer_is_malformed(
                        self.endpoint,
                        malformed.reason,
                        malformed.rule(),
                        b"",
                    );
                    return Some(Failure::CutOff);
                }
                State::Switching => return None,
                State::Head => match self.take_head() {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(cause) => return Some(cause),
                },
            }
        }
        None
    }

    /// The limits of an answer's head. A ScaledApp dispatcher has checked the head before
    /// it rewrote it, and the rewritten head may be larger.
    pub(super) fn head_limits(&self) -> Limits {
        let limits = self.thread.config.limits.answer_head;
        if self.endpoint.hands_back() {
            grown(limits)
        } else {
            limits
        }
    }

    /// The properties of the request that decide how its answer is read.
    fn asked(&self) -> http1::Asked {
        http1::Asked {
            head: self.meta.is_head,
            upgrade: self.meta.upgrade,
        }
    }

    /// Reads a head if all of it has arrived.
    fn take_head(&mut self) -> Result<bool, Failure> {
        self.take_head_of(false)
    }

    /// As `take_head`. `is_mended` says that there are no folded lines left to join.
    fn take_head_of(&mut self, is_mended: bool) -> Result<bool, Failure> {
        let is_sent = self.request.is_sent();
        let mut fields = self.thread.fields.borrow_mut();
        let limits = &self.head_limits();
        let bytes = self.upstream.input.filled();
        let endpoint = self.endpoint;
        let complaints = &self.thread.complaints;
        let response = match http1::parse_response(bytes, &mut fields, limits, self.asked()) {
            Ok(Some(response)) => response,
            Ok(None) => return Ok(false),
            Err(fault) if fault.is_folded() && !is_mended => {
                drop(fields);
                let is_mended = !http1::unfold(self.upstream.input.filled_mut());
                return self.take_head_of(is_mended);
            }
            Err(fault) => {
                let line = fields.refused(bytes);
                complaints.answer_is_malformed(endpoint, fault.reason, fault.rule(), line);
                return Err(Failure::Malformed);
            }
        };
        if self.is_unasked(&response) {
            return Err(Failure::Unasked);
        }
        if endpoint.hands_back() {
            self.upstream.hands_back = response.may_go_elsewhere();
            if self.upstream.hands_back.is_some() {
                return Err(Failure::HandedBack);
            }
        }
        let version = self.meta.version;
        let mut downstream = Downstream {
            version,
            close: false,
            keep_alive: false,
            hsts: self.hsts(),
        };
        let binder = self.binder();
        let out = self.answer.out();
        if response.interim {
            self.interims += 1;
            if self.interims > MAX_INTERIMS {
                return Err(too_many_interims(complaints, endpoint));
            }
            // An interim response shows that the server is working on the answer (102,
            // 103).
            self.sent = None;
            // An HTTP/1.0 client does not know interim responses (RFC 9110 section 15.2).
            if version == Version::Http11 {
                http1::write_response(out, &response, Framing::None, &downstream);
            }
        } else if response.switching {
            http1::write_response(out, &response, Framing::None, &downstream);
            binder.bind(out, &response);
            self.state = State::Switching;
        } else {
            let framing = http1::downstream_framing(response.framing, version);
            downstream.close = framing == Framing::UntilClose
                || !self.meta.keep_alive
                // The rest of this request would be mistaken for the next one.
                || !is_sent
                || self.thread.activity.is_leaving();
            downstream.keep_alive = version == Version::Http10 && !downstream.close;
            http1::write_response(out, &response, framing, &downstream);
            binder.bind(out, &response);
            let keep = self.keep(&response);
            if framing == Framing::UntilClose {
                self.client.set_resets(true);
            }
            self.state = State::Body(answered(&response, downstream.close, keep));
            let takes = self.meta.takes_trailers;
            self.answer
                .pass_trailers(PassedTrailers::of(takes, response.is_grpc()));
            self.held = self.may_be_held(response.framing);
            self.streams = response.is_stream();
            self.answer.set_body(response.framing, framing);
        }
        tell(self.client.record.as_deref_mut(), &response);
        let length = response.head_len;
        self.upstream.input.consume(length);
        if matches!(self.state, State::Body(_)) {
            self.begin_body()?;
        }
        Ok(true)
    }

    /// Whether the server answers before the whole body was sent. Such a server often closes
    /// afterwards, even if it has announced otherwise, and the next request would meet the closed
    /// connection.
    fn is_early(&self) -> bool {
        self.sent.is_none() && self.meta.framing != Framing::None
    }

    /// What decides whether the client gets a cookie.
    fn binder(&self) -> Binder<'a> {
        let shown = self.meta.returning.binding;
        let role = self.thread.config.role;
        let is_elsewhere = match shown.and_then(|shown| shown.preference(role)) {
            Some(Preference::Tag(tag)) => {
                tag != self.endpoint.tag() && self.thread.upstreams.serves(tag)
            }
            _ => false,
        };
        Binder {
            sticky: self.thread.config.sticky,
            role,
            is_behind: self.client.trust == Trust::Behind,
            is_secured: self.client.transport.is_secured(),
            endpoint: self.endpoint,
            shown,
            is_elsewhere,
        }
    }

    /// The seconds in `Strict-Transport-Security`, if the client is connected over TLS.
    fn hsts(&self) -> Option<u64> {
        let hsts = self.thread.config.hsts?;
        let is_secured = self.client.transport.is_secured();
        is_secured.then_some(hsts.as_secs())
    }

    /// Whether another server could still give the answer if this one breaks off.
    fn may_be_held(&self, framing: Framing) -> bool {
        self.meta.is_idempotent
            && self.request.is_sent()
            && self.request.is_whole()
            && matches!(framing, Framing::Length(length) if length <= MAX_HELD_BYTES)
    }

    /// Starts the body; a message without a body ends right after the head.
    fn begin_body(&mut self) -> Result<(), Failure> {
        let taken = self.answer.take(&mut self.upstream.input);
        taken.map(drop).map_err(|fault| {
            self.thread.complaints.answer_is_malformed(
                self.endpoint,
                fault.reason,
                fault.rule(),
                b"",
            );
            Failure::Malformed
        })
    }

    /// Whether the answer belongs to no request. A server that gives up an idle connection
    /// may send 408 at the moment when a request is written to it. By RFC 9110 section
    /// 15.5.9 it has not received that request, which may therefore be repeated in any
    /// case.
    fn is_unasked(&self, response: &Response<'_>) -> bool {
        response.status == 408
            && !response.keep_alive
            && self.upstream.reused
            && self.request.is_whole()
            && self.interims == 0
    }

    /// How long the connection to the server may be kept; `None`: it is closed.
    fn keep(&self, response: &Response<'_>) -> Option<Duration> {
        let may_keep = response.keep_alive && response.framing != Framing::UntilClose;
        let is_kept = may_keep && !self.is_early();
        is_kept.then(|| self.keep_time(response.keep_alive_timeout))
    }

    /// How long to keep the connection: less than the peer has announced, if it has
    /// announced a time.
    fn keep_time(&self, told: Option<u64>) -> Duration {
        let ours = self.thread.config.limits.upstream_idle_time;
        let theirs = told.map(|seconds| Duration::from_secs(seconds.saturating_sub(1)));
        theirs.map_or(ours, |theirs| theirs.min(ours))
    }
}

/// Tells the access log of a head.
fn tell(record: Option<&mut Record>, response: &Response<'_>) {
    if let Some(record) = record.filter(|_| !response.interim) {
        record.headed(response.status);
        let status = response.field("grpc-status");
        let status = status.filter(|_| response.is_grpc());
        record.grpc(status.and_then(GrpcStatus::of));
    }
}

/// What is known of the answer. `close` says whether the client's connection ends, and `keep`
/// says how long the upstream's connection is kept.
fn answered(response: &Response<'_>, close: bool, keep: Option<Duration>) -> Answered {
    Answered {
        status: response.status,
        close,
        keep,
        bodiless: response.bodiless,
        is_grpc: response.is_grpc(),
        has_failed: has_failed(response.field("grpc-status")),
    }
}

/// Whether a value of `grpc-status` shows a failure of the server.
pub(super) fn has_failed(status: Option<&[u8]>) -> bool {
    let status = status.and_then(GrpcStatus::of);
    status.is_some_and(GrpcStatus::is_failure_of_server)
}

fn too_many_interims(complaints: &Complaints, endpoint: &Endpoint) -> Failure {
    let rule = "it has more than 1000 interim answers (1xx)";
    complaints.answer_is_malformed(endpoint, "too-many-interim", rule, b"");
    Failure::Malformed
}
