//! A stream in the form of a connection with one request on it, as the exchange needs it.

use std::cell::Cell;
use std::fmt::Debug;
use std::io::Result;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

/// What is known of a connection, for all of its streams.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) local: Result<SocketAddr>,
    pub(crate) is_secured: bool,
    /// The version of TLS, if there is TLS.
    pub(crate) tls_version: Option<&'static str>,
    pub(crate) client_certificate: Option<String>,
    pub(super) peer: IpAddr,
    /// Its requests are redirected to `https` at this port.
    pub(super) redirects: Option<u16>,
    /// How many of its streams are tunnels.
    pub(super) tunnels: Cell<u32>,
}

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
