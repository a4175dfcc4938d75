//! HTTP/2 with clients and with servers: connections, and each stream as the HTTP/1.1 message that
//! it stands for.
//!
//! A stream looks to the exchange like a connection with one request on it ([`AsConnection`]): a
//! client's stream is read like a client that sends HTTP/1.1, and a stream to a server is written
//! like a server that reads it. So both protocols go through the same checks, queue and retries
//! (RFC 9113 section 8: both carry the semantics of RFC 9110). The `h2` crate handles frames,
//! header compression and their limits.

mod body;
mod call;
pub(crate) mod connection;
mod io;
mod message;
pub(crate) mod servers;
pub(crate) mod stream;

use std::fmt::Debug;
use std::io::Result;
use std::task::{Context, Poll};

use self::stream::About;

/// A stream in the form of a connection.
pub(crate) trait AsConnection: Debug {
    /// Ready when [`Self::try_read`] has something to return.
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<Result<()>>;

    /// Reads bytes that are there; 0 is the end of the peer's side.
    fn try_read(&mut self, into: &mut [u8]) -> Result<usize>;

    /// As [`crate::transport::Transport::poll_write`].
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>>;

    /// Ends the proxy's side of a tunnel. The end of any other message is in its framing.
    fn finish(&mut self);

    /// The message is incomplete because a time-out has passed. A later [`Self::reset`] says so if
    /// the protocol allows that.
    fn is_late(&mut self) {}

    /// Ends a stream whose message is incomplete, in a way that the peer notices.
    fn reset(&mut self);

    /// Whether the stream, or its connection, is known to be broken.
    fn is_broken(&self) -> bool;

    /// Whether the peer has certainly not begun to execute the request on it.
    fn is_unprocessed(&self) -> bool;

    /// The client's connection; `None` for a stream to a server.
    fn about(&self) -> Option<&About>;
}

/// How many streams one connection may have at the same time, whichever side opens them.
const MAX_STREAMS: u32 = 100;
/// How many bytes one stream may have received that have not been used yet. A larger window for
/// connections with few streams would not do: the peer may use it on many streams before it
/// receives a smaller one.
const STREAM_WINDOW: u32 = 64 << 10;
/// How many unused bytes all streams of a connection together may have received. Bodies that stall
/// on all other streams must leave room for the last one (RFC 9113 section 5.2.2), so this is the
/// sum of the windows.
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
/// How many bytes of one message may wait for a peer that reads slowly.
const SEND_BYTES: usize = 64 << 10;
