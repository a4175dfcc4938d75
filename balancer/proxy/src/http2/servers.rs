//! HTTP/2 connections of one thread to the endpoints: which of them a request uses, and how long
//! they are kept. How one is opened is decided in `open`.
//!
//! A connection is shared by all requests to its endpoint, up to the number of streams that the
//! server allows. The endpoint itself is chosen before, for each request. So a long-lived client
//! does not keep all of its requests at one endpoint.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;

use super::limits::MAX_STREAMS;

/// Stands for the number of streams that a server allows, until that number is known. No server
/// sends this value.
pub(super) const UNKNOWN_STREAMS: usize = 0x5ca1_ed00;
/// How long a connection without streams is kept. The server announces the end of a connection
/// (GOAWAY), so the connection may be kept for longer than a connection of HTTP/1.1.
const IDLE_TIME: Duration = Duration::from_mins(1);

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) send: SendRequest<Bytes>,
    /// The connection has ended.
    is_over: Rc<Cell<bool>>,
    streams: Cell<u32>,
    /// Since when it has had no streams, as far as a sweep has noticed.
    idle_since: Cell<Option<Duration>>,
}

impl Server {
    /// A connection without streams. `is_over` is set when it ends.
    pub(super) fn new(send: SendRequest<Bytes>, is_over: Rc<Cell<bool>>) -> Self {
        Self {
            send,
            is_over,
            streams: Cell::new(0),
            idle_since: Cell::new(None),
        }
    }

    fn has_room(&self) -> bool {
        let allowed = u32::try_from(self.send.current_max_send_streams()).unwrap_or(u32::MAX);
        self.streams.get() < allowed.min(MAX_STREAMS)
    }

    /// Whether a stream can be opened, as far as is known: the end of the connection, or its
    /// announcement, may be on its way.
    fn is_usable(&self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let ready = self.send.clone().poll_ready(&mut context);
        !self.is_over.get() && !matches!(ready, Poll::Ready(Err(_)))
    }
}

/// Counts one stream until this value is dropped.
#[derive(Debug)]
pub(super) struct InUse(Rc<Server>);

impl InUse {
    pub(super) fn new(server: Rc<Server>) -> Self {
        server.streams.set(server.streams.get() + 1);
        server.idle_since.set(None);
        Self(server)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

/// A connection is being opened. Requests that arrive meanwhile wait for it.
#[derive(Debug, Default)]
pub(super) struct Opening {
    pub(super) done: Notify,
    pub(super) error: Cell<Option<io::ErrorKind>>,
}

/// The connections of one thread to the endpoints.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    /// Keyed by the endpoint's id.
    pub(super) of: HashMap<u64, Vec<Rc<Server>>>,
    pub(super) opening: HashMap<u64, Rc<Opening>>,
}

impl Servers {
    /// A connection to the endpoint on which a stream can be opened.
    pub(super) fn find(&mut self, endpoint: u64) -> Option<Rc<Server>> {
        let servers = self.of.get_mut(&endpoint)?;
        servers.retain(|server| server.is_usable());
        servers.iter().find(|server| server.has_room()).cloned()
    }

    /// Gives up the connections to an endpoint; their streams go on.
    pub(crate) fn forget(&mut self, endpoint: u64) {
        self.of.remove(&endpoint);
    }

    /// Gives up connections that have been idle for long, or whose endpoint no longer exists.
    pub(crate) fn sweep(&mut self, now: Duration, is_used: impl Fn(u64) -> bool) {
        self.of.retain(|endpoint, servers| {
            servers.retain(|server| {
                if server.streams.get() > 0 {
                    return !server.is_over.get();
                }
                let since = server.idle_since.get().unwrap_or(now);
                server.idle_since.set(Some(since));
                !server.is_over.get() && now.saturating_sub(since) < IDLE_TIME
            });
            !servers.is_empty() && is_used(*endpoint)
        });
    }
}
