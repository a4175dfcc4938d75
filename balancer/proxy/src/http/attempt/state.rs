//! The state of an attempt, and how it can end.
//!
//! Nothing is decided here: bytes are moved in `attempt`, heads are read in
//! `attempt::head`.

use std::time::Duration;

use crate::buffer::Held;
use crate::endpoint::{Endpoint, InFlight};
use crate::http::allowance::Allowance;
use crate::http::body::Flow;
use crate::http::client::Client;
use crate::http::request::RequestMeta;
use crate::http::upstream::Upstream;
use crate::metrics::Failure;
use crate::pipes::Pipe;
use crate::thread::Thread;

/// How many bytes of an answer are kept for a client that reads slowly. A server that can
/// do only one thing at a time is then free as soon as it has sent its last byte.
pub(super) const MAX_ANSWER_BYTES: usize = 256 << 10;

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The upstream has sent the whole answer. A part of it may still be on its way to the
    /// client.
    Answered(Answered),
    /// The client and the upstream have switched to another protocol.
    Switched,
    /// There is no complete answer, whichever side caused that.
    Failed(BrokenOff),
    /// The rest of the request's body is not well-formed, or too large.
    BadBody {
        status: u16,
        reason: &'static str,
        headed: bool,
    },
}

/// An attempt without a complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BrokenOff {
    pub(crate) cause: Failure,
    /// The client has received a part of an answer.
    pub(crate) headed: bool,
    /// The upstream has sent a part of an answer.
    pub(crate) answered: bool,
}

/// What is known of an answer after its head was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    /// The client's connection ends with this answer.
    pub(crate) close: bool,
    /// How long the upstream connection may be kept; `None`: it is closed.
    pub(crate) keep: Option<Duration>,
    /// By its status or the method, it has no body.
    pub(crate) bodiless: bool,
    /// It answers a gRPC call, whose status may be in a trailer field.
    pub(crate) is_grpc: bool,
    /// The status of the gRPC call shows a failure of the server.
    pub(crate) has_failed: bool,
}

/// How far the answer has come.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// Its head is awaited; interim responses may be in the flow.
    Head,
    /// Its head is in the flow, and its body follows.
    Body(Answered),
    /// The 101 response is in the flow.
    Switching,
}

/// One attempt in progress.
#[derive(Debug)]
pub(crate) struct Attempt<'a, 't> {
    pub(super) thread: &'t Thread,
    pub(super) client: &'a mut Client,
    pub(super) meta: &'a RequestMeta,
    pub(super) request: &'a mut Flow,
    pub(super) upstream: Upstream,
    pub(super) entered: &'a InFlight<'a>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) answer: Flow,
    pub(super) state: State,
    pub(super) begun: Duration,
    /// When a byte last moved in either direction.
    pub(super) moved: Duration,
    /// The client has sent more of its request since the attempt began.
    pub(super) sends: bool,
    /// When the wait for the answer's head began: the whole request has been sent, and no interim
    /// response has come since.
    pub(super) sent: Option<Duration>,
    /// The answer is marked as a stream.
    pub(super) streams: bool,
    /// How long the client may take to read the answer.
    pub(super) reader: Allowance,
    /// The part of the answer that is kept for a client that reads slowly.
    pub(super) waiting: Held<'t>,
    /// The pipe through which the body passes.
    pub(super) pipe: Option<Box<Pipe<'t>>>,
    /// The answer is sent only once it is complete; until then another attempt can follow.
    pub(super) held: bool,
    /// The number of interim responses so far.
    pub(super) interims: u32,
}

impl<'a, 't> Attempt<'a, 't> {
    pub(crate) fn new(
        thread: &'t Thread,
        client: &'a mut Client,
        meta: &'a RequestMeta,
        request: &'a mut Flow,
        upstream: Upstream,
        entered: &'a InFlight<'a>,
    ) -> Self {
        let now = thread.clock.now();
        Self {
            thread,
            client,
            meta,
            request,
            upstream,
            entered,
            endpoint: entered.endpoint(),
            answer: Flow::of(thread.buffers.output()),
            state: State::Head,
            begun: now,
            moved: now,
            sends: false,
            sent: None,
            streams: false,
            reader: Allowance::to_take(&thread.config.limits),
            waiting: Held::new(&thread.buffers),
            pipe: None,
            held: false,
            interims: 0,
        }
    }
}
