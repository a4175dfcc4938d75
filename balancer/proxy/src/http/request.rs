//! What is known of a request after its head was read, and what becomes of the client's
//! connection after it.
//!
//! Nothing is decided here: these types connect the reading of a head, an exchange and its
//! attempts.

use std::time::{Duration, Instant};

use scaledapp_http1::{Framing, Version};

use crate::sticky::Returning;

/// The reason of a 413.
pub(crate) const BODY_TOO_LARGE: &str = "body-too-large";

/// A request whose head was read and rewritten.
#[derive(Debug)]
pub(crate) struct RequestMeta {
    /// How the end of its body is marked.
    pub(crate) framing: Framing,
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    pub(crate) is_head: bool,
    pub(crate) is_idempotent: bool,
    /// Another ScaledApp proxy has already repeated it, see
    /// [`scaledapp_http1::Request::is_repeated`].
    pub(crate) is_repeated: bool,
    pub(crate) upgrade: bool,
    /// The protocol that its `Upgrade` names is WebSocket.
    pub(crate) is_websocket: bool,
    /// Its client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// Its client can use trailer fields of the answer.
    pub(crate) takes_trailers: bool,
    /// Both of its directions may last, and each may wait for the other: a call of gRPC, or a body
    /// without a length for a server that speaks HTTP/2.
    pub(crate) is_open_ended: bool,
    /// It is a gRPC call.
    pub(crate) is_grpc: bool,
    /// Until when its client waits, on the clock of the thread, if the client has said so.
    pub(crate) until: Option<Duration>,
    /// What it shows about the endpoint to which its client comes back.
    pub(crate) returning: Returning,
    /// When its head was complete.
    pub(crate) started: Instant,
}

impl RequestMeta {
    /// Whether the connection continues after an answer for which the body is not read. It
    /// continues only if the request has no body.
    pub(crate) fn goes_on_unread(&self) -> bool {
        self.keep_alive && self.framing == Framing::None
    }
}

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next request is read.
    Next,
    /// The answer announces that the connection ends, and the client may still be sending.
    Close,
    /// The answer announces that the connection ends, and the client has nothing more to
    /// send.
    Finish,
    /// The connection is over.
    End,
    /// The connection is reset, so that the client does not take its last answer for
    /// complete.
    Reset,
}
