//! What is known of an attempt while it is under way, and how it can end.
//!
//! Decides nothing: bytes are moved in `attempt`, heads are read in `attempt::head`.

use std::time::Duration;

use crate::buffer::Held;
use crate::endpoint::{Endpoint, InFlight};
use crate::http::allowance::Allowance;
use crate::http::body::Flow;
use crate::http::client::Client;
use crate::http::request::RequestMeta;
use crate::http::upstream::Upstream;
use crate::metrics::Failure;
use crate::thread::Thread;

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The answer is with the client.
    Answered(Answered),
    /// Both sides speak another protocol now.
    Switched,
    /// There is no complete answer, by whatever side's fault.
    Failed(BrokenOff),
    /// The rest of the request's body is not well-formed.
    BadBody { reason: &'static str, headed: bool },
}

/// An attempt without a complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BrokenOff {
    pub(crate) cause: Failure,
    /// The client has a part of an answer.
    pub(crate) headed: bool,
    /// The upstream has sent a part of one.
    pub(crate) answered: bool,
}

/// What is known of an answer once its head was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    /// The client's connection ends with it.
    pub(crate) close: bool,
    /// How long the upstream connection may be kept; `None`: not at all.
    pub(crate) keep: Option<Duration>,
    /// It has no body by rule.
    pub(crate) bodiless: bool,
}

/// How far the answer is.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// Its head is awaited; interim responses are in the flow.
    Head,
    /// Its head is in the flow, its body on the way.
    Body(Answered),
    /// 101 is in the flow.
    Switching,
}

/// One attempt that is under way.
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
    /// When a byte moved last, in whatever direction.
    pub(super) moved: Duration,
    /// The client has sent more of its request meanwhile.
    pub(super) sends: bool,
    /// Since when nothing but the answer's head is missing.
    pub(super) sent: Option<Duration>,
    /// The answer announces itself as a stream.
    pub(super) streams: bool,
    /// How long the client may be waited for to take the answer.
    pub(super) reader: Allowance,
    /// What waits of the answer for a client that reads slowly.
    pub(super) waiting: Held<'t>,
    /// The answer goes to the client as a whole: until then another can follow.
    pub(super) held: bool,
    /// Interim responses so far.
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
            held: false,
            interims: 0,
        }
    }
}
