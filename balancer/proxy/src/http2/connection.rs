//! A client's HTTP/2 connection: its streams, its limits, and how it ends.
//!
//! What becomes of a stream's request is decided by the exchange, as in HTTP/1.1.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use tokio::sync::Notify;

use super::as_connection::About;
use super::io::Io;
use super::limits::{CONNECTION_WINDOW, MAX_STREAMS, SEND_BYTES, STREAM_WINDOW};
use super::message::{self, Unfit};
use super::stream::Stream;
use crate::clock::Deadline;
use crate::config::{Config, UpstreamProtocol};
use crate::http::client::Client;
use crate::http::connection::{Stream as StreamEnd, serve_stream};
use crate::metrics::{Counted, Failure, count};
use crate::thread::Thread;
use crate::transport::Transport;

/// How many streams a client may have opened and reset before they were accepted
/// (CVE-2023-44487).
const MAX_RESET: usize = 20;
/// How many streams the proxy may have reset because of the client's errors
/// (CVE-2025-8671).
const MAX_RESET_BY_US: usize = 4096;
/// How many streams that have ended before their requests are remembered, and for how long.
const REMEMBERED_STREAMS: usize = 500;
const REMEMBERED_FOR: Duration = Duration::from_secs(2);
/// How much `h2` lets frames of few bytes wait, in bytes that such frames lack to 256. Only the
/// client's own connection ends if it sends more of them than servers read.
const DATA_FRAME_BUDGET: usize = 16 << 20;
/// About what a connection without streams costs, in bytes: the buffers and tables of the `h2` crate.
const CONNECTION_BYTES: usize = 16 << 10;
/// How long a client may take to close a connection after `GOAWAY` was sent.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);
/// How old a connection becomes before its client is told to open another one, give or take a
/// fifth. A client that lives for months, such as a gRPC client, would otherwise never use a
/// balancer that was added in the meantime.
const MAX_AGE: Duration = Duration::from_mins(10);

/// The streams of a connection that are served now.
#[derive(Debug, Default)]
struct Streams {
    count: Cell<u32>,
    /// Notified when the count changes.
    changed: Notify,
}

/// Counts one stream until it is dropped.
struct Counting(Rc<Streams>);

impl Counting {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.count.set(streams.count.get() + 1);
        streams.changed.notify_one();
        Self(Rc::clone(streams))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.changed.notify_one();
    }
}

fn builder(config: &Config) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(config.limits.request_head.head_bytes as u32)
        .max_send_buffer_size(SEND_BYTES)
        .max_pending_accept_reset_streams(MAX_RESET)
        .max_local_error_reset_streams(Some(MAX_RESET_BY_US))
        // What a client still sends on a stream that has ended is ignored, and counts as no error.
        .max_concurrent_reset_streams(REMEMBERED_STREAMS)
        .reset_stream_duration(REMEMBERED_FOR)
        .data_frame_budget(DATA_FRAME_BUDGET);
    // Only HTTP/1.1 servers are asked for WebSockets.
    if config.upstream == UpstreamProtocol::Http1 {
        builder.enable_connect_protocol();
    }
    builder
}

/// Serves a connection to its end. What `client` has already sent begins with the preface
/// (RFC 9113 section 3.4), unless it has sent nothing.
pub(crate) async fn serve(thread: Rc<Thread>, mut client: Client) {
    count(&thread.counts.http2);
    client.owes(&thread, thread.config.limits.head_time);
    let about = Rc::new(About {
        local: client.transport.local_address(),
        is_secured: client.transport.is_secured(),
        tls_version: client.transport.tls_version(),
        client_certificate: client.transport.client_certificate().map(str::to_owned),
        peer: client.peer,
        redirects: client.redirects,
        tunnels: Cell::new(0),
    });
    let early = client.take_input(&thread);
    let io = Io::to_client(&mut client.transport, early);
    let deadline = &client.deadline;
    let mut handshake = pin!(builder(&thread.config).handshake::<_, Bytes>(io));
    let connection = poll_fn(|context| {
        if let Poll::Ready(made) = handshake.as_mut().poll(context) {
            return Poll::Ready(made.ok());
        }
        deadline.poll(context).map(|()| None)
    });
    let Some(connection) = connection.await else {
        thread.counts.failed(Failure::ClientTimeout);
        return;
    };
    deadline.holds(CONNECTION_BYTES);
    run(&thread, connection, &about, deadline).await;
}

/// An event that the loop of a connection waits for.
enum Heard {
    Request(Box<(Request<RecvStream>, SendResponse<Bytes>)>),
    /// The number of streams has changed.
    Changed,
    Late,
    Leaving,
    Ended,
}

async fn run(
    thread: &Rc<Thread>,
    mut connection: Connection<Io<&mut Transport>, Bytes>,
    about: &Rc<About>,
    deadline: &Deadline,
) {
    let streams = Rc::new(Streams::default());
    let (mut is_leaving, mut is_late) = (false, false);
    let jitter = thread.random.borrow_mut().f64().mul_add(0.4, 0.8);
    let mut ends_at = thread.clock.now() + MAX_AGE.mul_f64(jitter);
    deadline.set_idle(thread.config.limits.idle_time);
    loop {
        let mut changed = pin!(streams.changed.notified());
        let mut leaving = pin!(thread.activity.leaves());
        let heard = poll_fn(|context| {
            if changed.as_mut().poll(context).is_ready() {
                return Poll::Ready(Heard::Changed);
            }
            if !is_leaving && leaving.as_mut().poll(context).is_ready() {
                return Poll::Ready(Heard::Leaving);
            }
            if deadline.poll(context).is_ready() {
                return Poll::Ready(Heard::Late);
            }
            Poll::Ready(match ready!(connection.poll_accept(context)) {
                Some(Ok(asked)) => Heard::Request(Box::new(asked)),
                error => ended(thread, about, error.and_then(Result::err).as_ref()),
            })
        });
        match heard.await {
            Heard::Request(asked) => {
                thread.activity.begins();
                let counting = Counting::new(&streams);
                let (thread, about) = (Rc::clone(thread), Rc::clone(about));
                tokio::task::spawn_local(async move {
                    let (request, respond) = *asked;
                    serve_request(&thread, about, request, respond).await;
                    drop(counting);
                });
            }
            Heard::Changed => {
                let count = streams.count.get();
                if count > 0 {
                    // Each stream has a deadline of its own.
                    deadline.set_lax(ends_at);
                } else if is_leaving || is_late {
                    deadline.set_idle(GOAWAY_TIMEOUT);
                } else {
                    deadline.set_idle(thread.config.limits.idle_time);
                    thread.occupancy.one_could_end();
                }
            }
            Heard::Leaving => {
                is_leaving = true;
                connection.graceful_shutdown();
                if streams.count.get() == 0 {
                    deadline.set_idle(GOAWAY_TIMEOUT);
                }
            }
            // Memory or room is short, or `GOAWAY` was sent and the client has not closed
            // the connection.
            Heard::Late if deadline.cut().is_some() || is_late && streams.count.get() == 0 => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
                // The frame is sent only if the socket takes it immediately.
                let mut context = Context::from_waker(std::task::Waker::noop());
                let _ended = connection.poll_closed(&mut context);
                return;
            }
            Heard::Late if streams.count.get() > 0 => {
                // Firefox closes the WebSockets of a connection that is told to end.
                if about.tunnels.get() > 0 {
                    ends_at = thread.clock.now() + MAX_AGE;
                } else {
                    ends_at = Duration::MAX;
                    is_late = true;
                    connection.graceful_shutdown();
                }
                deadline.set_lax(ends_at);
            }
            Heard::Late => {
                is_late = true;
                connection.graceful_shutdown();
                deadline.set_idle(GOAWAY_TIMEOUT);
            }
            Heard::Ended => return,
        }
    }
}

/// The connection has ended. If the `h2` crate has ended it because of what the client sent, nothing
/// is known of the request.
fn ended(thread: &Thread, about: &About, error: Option<&h2::Error>) -> Heard {
    if let Some(error) = error.filter(|error| error.is_library() && error.is_go_away())
        && let Some(reason) = error.reason()
        && reason != Reason::NO_ERROR
    {
        let complaints = &thread.complaints;
        thread.counts.failed(Failure::Refused);
        complaints.http2_is_malformed(about.peer, reason.description());
        if let Some(access) = &thread.access {
            access.refused(about.peer, about.tls_version, 400, "http2");
        }
    }
    Heard::Ended
}

/// Serves one stream.
async fn serve_request(
    thread: &Thread,
    about: Rc<About>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let _counted = Counted::new(&thread.counts.streams);
    let has_body = !request.body().is_end_stream();
    let protocol = request.extensions().get::<Protocol>();
    let protocol = protocol.map(|protocol| protocol.as_str().to_owned());
    let mut head = Vec::new();
    let written = message::write_request(&mut head, &request, protocol.as_deref(), has_body);
    let asked = match written {
        Ok(asked) => asked,
        Err(unfit) => {
            thread.counts.failed(Failure::Refused);
            if let Some(access) = &thread.access {
                access.refused(about.peer, about.tls_version, unfit.status, unfit.reason);
            }
            refuse(&mut respond, unfit);
            return;
        }
    };
    let body = has_body.then(|| request.into_body());
    let (peer, redirects) = (about.peer, about.redirects);
    let stream = Stream::new(about, asked, head, body, respond);
    let transport = Transport::Stream(Box::new(stream));
    let mut client = Client::new(thread, transport, peer, thread.clock.deadline());
    client.redirects = redirects;
    let end = serve_stream(thread, &mut client).await;
    if end == StreamEnd::Broken
        && let Transport::Stream(stream) = &mut client.transport
    {
        stream.reset();
    }
}

fn refuse(respond: &mut SendResponse<Bytes>, unfit: Unfit) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(unfit.status).unwrap_or(StatusCode::BAD_REQUEST);
    if let Ok(mut send) = respond.send_response(response, false) {
        let text = format!("{}\n", unfit.reason);
        let _gone = send.send_data(Bytes::from(text), true);
    }
}
