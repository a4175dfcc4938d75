//! What is known of a request once its head was read, and what becomes of the client's
//! connection after it.
//!
//! Decides nothing: it is what the reading of a head, an exchange and its attempts say to
//! each other.

use std::time::Instant;

use scaledapp_http1::{Framing, Version};

/// A request whose head was read and written anew.
#[derive(Debug)]
pub(crate) struct RequestMeta {
    /// How the end of its body is told.
    pub(crate) framing: Framing,
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    pub(crate) is_head: bool,
    pub(crate) is_idempotent: bool,
    /// A proxy of ours has repeated it already, see
    /// [`scaledapp_http1::Request::is_repeated`].
    pub(crate) is_repeated: bool,
    pub(crate) upgrade: bool,
    /// Its client waits for a word of the server before it sends the body.
    pub(crate) expects_continue: bool,
    /// When its head was complete.
    pub(crate) started: Instant,
}

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The client's next request is read.
    Next,
    /// The client has been told that it ends, and may still be sending.
    Close,
    /// The client has been told that it ends, and has nothing more to send.
    Finish,
    /// It is over.
    End,
    /// It is reset, so that the client does not take its last answer for whole.
    Reset,
}
