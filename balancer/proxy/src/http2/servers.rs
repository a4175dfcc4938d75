//! HTTP/2 connections of one thread to the endpoints: which of them a request uses, and when a new
//! one is opened (RFC 9113 section 3.3, prior knowledge).
//!
//! A connection is shared by all requests to its endpoint, up to the number of streams that the
//! server allows. The endpoint itself is chosen before, for each request. So a long-lived client
//! does not keep all of its requests at one endpoint.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::sync::Notify;

use super::call::Call;
use super::io::Io;
use super::{CONNECTION_WINDOW, MAX_STREAMS, SEND_BYTES, STREAM_WINDOW};
use crate::clock::Deadline;
use crate::connect::connect;
use crate::endpoint::Endpoint;
use crate::metrics::count;
use crate::thread::Thread;
use crate::transport::Transport;

/// Stands for the number of streams that a server allows, until it is known. No server gives it.
const UNKNOWN_STREAMS: usize = 0x5ca1_ed00;
/// How long the first request waits for the settings of a server, which sends them immediately (RFC
/// 9113 section 3.4). A stream beyond the server's limit would be refused.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often they are looked for.
const SETTINGS_INTERVAL: Duration = Duration::from_millis(1);
/// How much `h2` lets frames of few bytes wait, in bytes that such frames lack to 256. Each of
/// these frames is the message of a call whose client reads slowly.
const DATA_FRAME_BUDGET: usize = 64 << 20;
/// How many streams that the proxy has reset are remembered, so that what their servers still send
/// is ignored.
const RESET_STREAMS: usize = 1000;
/// How long a connection without streams is kept. The server announces the end of a connection
/// (GOAWAY), so the connection may be kept for longer than a connection of HTTP/1.1.
const IDLE_TIME: Duration = Duration::from_mins(1);

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Server {
    send: SendRequest<Bytes>,
    /// The connection has ended.
    is_over: Rc<Cell<bool>>,
    streams: Cell<u32>,
    /// Since when it has had no streams, as far as a sweep has noticed.
    idle_since: Cell<Option<Duration>>,
}

impl Server {
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

/// Counts one stream until it is dropped.
#[derive(Debug)]
pub(super) struct InUse(Rc<Server>);

impl InUse {
    fn new(server: Rc<Server>) -> Self {
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
struct Opening {
    done: Notify,
    error: Cell<Option<io::ErrorKind>>,
}

/// The connections of one thread to the endpoints.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    /// Keyed by the endpoint's id.
    of: HashMap<u64, Vec<Rc<Server>>>,
    opening: HashMap<u64, Rc<Opening>>,
}

impl Servers {
    /// A connection to the endpoint on which a stream can be opened.
    fn find(&mut self, endpoint: u64) -> Option<Rc<Server>> {
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

/// Opens a stream to the endpoint, on a connection that exists or on a new one.
///
/// # Errors
/// As [`connect`], or the server has ended the connection.
pub(crate) async fn open(
    thread: &Thread,
    endpoint: &Endpoint,
    deadline: &Deadline,
) -> io::Result<Transport> {
    let id = endpoint.id();
    let servers = &thread.upstreams.servers;
    let server = loop {
        let found = servers.borrow_mut().find(id);
        if let Some(server) = found {
            count(&thread.counts.reuses);
            break server;
        }
        let opening = servers.borrow().opening.get(&id).cloned();
        match opening {
            Some(opening) => wait(&opening, deadline, thread).await?,
            None => break begin(thread, endpoint, deadline).await?,
        }
    };
    let mut send = server.send.clone();
    // For a handle that has not opened a stream yet, this shows only whether the connection is
    // open.
    let ready = poll_fn(|context| send.poll_ready(context)).await;
    ready.map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?;
    let call = Call::new(InUse::new(server), send);
    Ok(Transport::Stream(Box::new(call)))
}

/// Waits for the connection that another request opens.
async fn wait(opening: &Rc<Opening>, deadline: &Deadline, thread: &Thread) -> io::Result<()> {
    deadline.set(thread.config.limits.connect_time);
    let mut done = pin!(opening.done.notified());
    poll_fn(|context| {
        if done.as_mut().poll(context).is_ready() {
            return Poll::Ready(match opening.error.get() {
                None => Ok(()),
                Some(kind) => Err(kind.into()),
            });
        }
        deadline
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    })
    .await
}

/// Wakes, when it is dropped, the requests that wait for a connection, even if opening the
/// connection was given up.
struct Announced<'t> {
    thread: &'t Thread,
    endpoint: u64,
    opening: Rc<Opening>,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let mut servers = self.thread.upstreams.servers.borrow_mut();
        servers.opening.remove(&self.endpoint);
        self.opening.done.notify_waiters();
    }
}

async fn begin(
    thread: &Thread,
    endpoint: &Endpoint,
    deadline: &Deadline,
) -> io::Result<Rc<Server>> {
    let id = endpoint.id();
    let servers = &thread.upstreams.servers;
    let opening = Rc::<Opening>::default();
    servers.borrow_mut().opening.insert(id, Rc::clone(&opening));
    let announced = Announced {
        thread,
        endpoint: id,
        opening,
    };
    count(&thread.counts.connects);
    let connected = connect(endpoint.address(), deadline, &thread.config.limits).await;
    let opened = match connected {
        Ok(transport) => handshake(thread, transport).await,
        Err(error) => Err(error),
    };
    match opened {
        Ok(server) => {
            let mut servers = servers.borrow_mut();
            servers.of.entry(id).or_default().push(Rc::clone(&server));
            drop(servers);
            drop(announced);
            Ok(server)
        }
        Err(error) => {
            announced.opening.error.set(Some(error.kind()));
            Err(error)
        }
    }
}

/// Sends the preface, and waits for the server's settings.
async fn handshake(thread: &Thread, transport: Transport) -> io::Result<Rc<Server>> {
    let io = Io {
        transport,
        early: Bytes::new(),
    };
    let handshake = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(UNKNOWN_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(thread.config.limits.answer_head.head_bytes as u32)
        .max_send_buffer_size(SEND_BYTES)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .handshake::<_, Bytes>(io)
        .await;
    let broken = |error: h2::Error| {
        let error = error.into_io();
        error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    };
    let (send, connection) = handshake.map_err(broken)?;
    let is_over = Rc::<Cell<bool>>::default();
    let ended = Rc::clone(&is_over);
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a server has ended");
        }
        ended.set(true);
    });
    let begun = Instant::now();
    while send.current_max_send_streams() == UNKNOWN_STREAMS
        && !is_over.get()
        && begun.elapsed() < SETTINGS_TIMEOUT
    {
        tokio::time::sleep(SETTINGS_INTERVAL).await;
    }
    Ok(Rc::new(Server {
        send,
        is_over,
        streams: Cell::new(0),
        idle_since: Cell::new(None),
    }))
}
