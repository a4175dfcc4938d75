//! Opens streams to servers of HTTP/2, and the connections that they need (RFC 9113 section 3.3,
//! prior knowledge).

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::Builder;

use super::call::Call;
use super::io::Io;
use super::limits::{CONNECTION_WINDOW, SEND_BYTES, STREAM_WINDOW};
use super::servers::{InUse, Opening, Server, UNKNOWN_STREAMS};
use crate::clock::Deadline;
use crate::connect::connect;
use crate::endpoint::Endpoint;
use crate::metrics::count;
use crate::thread::Thread;
use crate::transport::Transport;

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
    let io = Io::to_server(transport);
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
    Ok(Rc::new(Server::new(send, is_over)))
}
