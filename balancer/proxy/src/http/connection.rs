//! A client's connection: its requests one after the other, and how it ends.
//!
//! What a request is, and why it is refused, is decided in `scaledapp-http1`; what becomes
//! of it is decided in `exchange`.

use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Poll;
use std::time::{Duration, Instant};

use scaledapp_http1::{self as http1, Origin, Refusal, Trust};

use super::client::{Client, Gone, OwnAnswer};
use super::exchange;
use super::handshake;
use super::linger::Linger;
use super::redirect;
use super::request::{RequestMeta, Then};
use crate::access::Record;
use crate::clock::Cut;
use crate::config::{Role, UpstreamProtocol};
use crate::metrics::Failure;
use crate::pages::Accepted;
use crate::sticky::Returning;
use crate::thread::Thread;
use crate::transport::Transport;

/// The text that an HTTP/2 client gets; gRPC shows it in the error of the call.
const HTTP2_TEXT: &str = "this server speaks HTTP/1.1, not HTTP/2 or gRPC";

/// The first byte that a TLS client sends (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

enum Next {
    /// A request, and its head as it is sent upstream.
    Request(RequestMeta, Vec<u8>),
    /// A request that is to be made at `https`, and the answer that says so.
    Redirected(RequestMeta, Vec<u8>),
    Refused(Refusal),
    /// The client speaks HTTP/2.
    Http2,
    /// The client took too long to send a head.
    Late,
    /// The client sends nothing more.
    End,
    /// The client has sent nothing for a while.
    Rest,
}

/// How serving a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// The connection is over.
    Ended,
    /// The connection is idle, and its task can do other work until something arrives.
    Rests,
    /// The client speaks HTTP/2. What it has sent is unread.
    Http2,
}

/// How the service of a stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Whole,
    /// The client must not take what it has received for the whole answer.
    Broken,
}

/// Serves a connection while it is busy.
pub(crate) async fn serve(thread: &Thread, client: &mut Client) -> Served {
    match handshake::settle(thread, client).await {
        Ok(Some(settled)) if settled.is_http2 => return Served::Http2,
        Ok(_) => {}
        Err(()) => return Served::Ended,
    }
    // A connection without any request yet has less time than one that was kept after a
    // request.
    let mut timeout = thread.config.limits.head_time;
    loop {
        let next = next(thread, client, timeout).await;
        timeout = thread.config.limits.idle_time;
        let then = match next {
            Next::Http2 if thread.config.http2 => return Served::Http2,
            Next::Rest => return Served::Rests,
            next => answer(thread, client, next).await,
        };
        if let Some(record) = client.record.take() {
            record.over();
        }
        match then {
            Then::Next => continue,
            Then::Close => {
                client.ends_in_order();
                linger(thread, client).await;
            }
            Then::Finish => {
                client.ends_in_order();
                client.transport.finish();
            }
            Then::End => {}
            // The client must not take the bytes that it has for the whole answer.
            Then::Reset => client.transport.set_resets(true),
        }
        break;
    }
    client.input.consume(usize::MAX);
    client.input.release(&thread.buffers);
    Served::Ended
}

/// Serves the one request of a stream.
pub(crate) async fn serve_stream(thread: &Thread, client: &mut Client) -> Stream {
    let next = next(thread, client, thread.config.limits.head_time).await;
    let then = answer(thread, client, next).await;
    if let Some(record) = client.record.take() {
        record.over();
    }
    client.input.consume(usize::MAX);
    client.input.release(&thread.buffers);
    match then {
        Then::Next | Then::Close | Then::Finish => Stream::Whole,
        Then::End | Then::Reset => Stream::Broken,
    }
}

/// Answers what `next` has returned. Returns what becomes of the connection.
async fn answer(thread: &Thread, client: &mut Client, next: Next) -> Then {
    match next {
        Next::Request(meta, head) => exchange::forward(thread, client, meta, head).await,
        Next::Redirected(meta, answer) => {
            thread.counts.answered(308, meta.started.elapsed());
            if let Some(record) = &mut client.record {
                record.redirected();
            }
            client.write(thread, answer, !meta.goes_on_unread()).await
        }
        Next::Refused(refusal) => refuse(thread, client, &refusal).await,
        Next::Http2 => {
            thread.counts.failed(Failure::Refused);
            thread.complaints.client_spoke_http2();
            not_understood(thread, client);
            if let Some(record) = &mut client.record {
                record.answered(400, "http2");
            }
            let mut out = thread.buffers.output();
            http1::write_http2_refusal(&mut out, HTTP2_TEXT);
            client.write(thread, out, true).await
        }
        Next::Late => {
            let cut = client.deadline.cut();
            let failure = cut.map_or(Failure::ClientTimeout, Failure::from);
            thread.counts.failed(failure);
            let reason = match cut {
                Some(Cut::Room) => "gave-way",
                _ => "head-timeout",
            };
            not_understood(thread, client);
            client.answer(thread, OwnAnswer::last(408, reason)).await
        }
        Next::End | Next::Rest => Then::End,
    }
}

/// Begins the record of a request that was not understood.
fn not_understood(thread: &Thread, client: &mut Client) {
    // What the request before it has accepted does not count.
    client.accepted = Accepted::default();
    if let Some(access) = &thread.access {
        let tls = client.transport.tls_version();
        let input = client.input.filled();
        client.record = Some(access.begin_refused(client.peer, tls, input));
    }
}

/// Answers a request that is malformed or too large.
async fn refuse(thread: &Thread, client: &mut Client, refusal: &Refusal) -> Then {
    thread.counts.failed(Failure::Refused);
    let Refusal { status, reason, .. } = *refusal;
    not_understood(thread, client);
    if client.input.filled().first() == Some(&TLS_HANDSHAKE) {
        thread.complaints.client_spoke_tls();
    } else {
        thread
            .complaints
            .request_is_refused(status, reason, refusal.rule());
    }
    client.answer(thread, OwnAnswer::last(status, reason)).await
}

/// Reads the next head; its first byte must come within `timeout`.
async fn next(thread: &Thread, client: &mut Client, timeout: Duration) -> Next {
    let mut looked = 0;
    let mut newcomer = None;
    let limits = thread.config.limits.request_head;
    // Old clients send an extra line end after a body, which is not the start of a request.
    skip_empty_lines(client);
    if client.input.is_empty() {
        client.deadline.set_idle(timeout);
        thread.occupancy.one_could_end();
    } else {
        begin_head(thread, client);
    }
    loop {
        // A head can be complete only at the end of a line, so it is not parsed between two
        // line ends. The first bytes are parsed anyway, because they may show that there is no
        // head at all: a TLS client sends no line end, and would wait for an answer.
        let filled = client.input.filled();
        let is_first = looked == 0 && !filled.is_empty();
        // Each limit is checked once, when it is exceeded.
        let is_beyond = |limit| looked <= limit && limit < filled.len();
        if is_first
            || filled[looked..].contains(&b'\n')
            || is_beyond(limits.target_bytes)
            || is_beyond(limits.head_bytes - 1)
        {
            match parse(thread, client, &limits) {
                Ok(Some(next)) => return next,
                Ok(None) => {}
                Err(_) if http1::is_http2(client.input.filled()) => return Next::Http2,
                Err(refusal) => return Next::Refused(refusal),
            }
        }
        looked = client.input.filled().len();
        if client.input.is_full() {
            if !client.may_have(thread, client.input.held()) {
                return Next::Late;
            }
            client.input.grow(limits.head_bytes, &thread.buffers);
        }
        let was_empty = client.input.is_empty();
        let filled = poll_fn(|context| {
            let is_squeezed = client.deadline.is_squeezed();
            let filled = client.poll_fill(thread, context).map(Some);
            if filled.is_pending() {
                // Most heads arrive in one piece. A connection that waits for the rest of a
                // head may wait for long, and needs no more memory than it has bytes.
                client.input.squeeze(&thread.buffers);
                if !client.input.is_empty() && newcomer.is_none() {
                    newcomer = Some(thread.occupancy.newcomer(&client.deadline, client.peer));
                }
            }
            client.deadline.holds(client.input.held());
            let may_rest =
                client.input.is_empty() && (is_squeezed || thread.occupancy.is_crowded());
            if filled.is_pending() && may_rest {
                return Poll::Ready(None);
            }
            filled
        });
        let Some(filled) = filled.await else {
            return Next::Rest;
        };
        match filled {
            Ok(0) | Err(Gone::Closed) => return Next::End,
            Ok(_) => {
                thread.activity.begins();
                if was_empty {
                    skip_empty_lines(client);
                }
                if was_empty && !client.input.is_empty() {
                    begin_head(thread, client);
                }
            }
            Err(Gone::Late) if was_empty => return Next::End,
            Err(Gone::Late) => return Next::Late,
        }
    }
}

/// The first byte of a head has arrived: the client now owes the rest.
fn begin_head(thread: &Thread, client: &Client) {
    client.owes(thread, thread.config.limits.head_time);
}

fn skip_empty_lines(client: &mut Client) {
    while client.input.filled().starts_with(b"\r\n") {
        client.input.consume(2);
    }
}

/// Parses a head if all of it has arrived, and writes the head that is sent upstream.
fn parse(
    thread: &Thread,
    client: &mut Client,
    limits: &http1::Limits,
) -> Result<Option<Next>, Refusal> {
    let mut fields = thread.fields.borrow_mut();
    let Some(request) = http1::parse_request(client.input.filled(), &mut fields, limits)? else {
        return Ok(None);
    };
    let mut head = thread.buffers.output();
    let id = request_id(&mut thread.random.borrow_mut());
    let trust = thread.callers.trust(request.token(), client.is_named);
    let source = match trust {
        Trust::Proxy => request.source(client.peer, |hop| thread.callers.is_named(hop)),
        Trust::Behind => request.real_ip().unwrap_or(client.peer),
        Trust::Edge => client.peer,
    };
    // HTTP/1.0 does not require `Host`, and HTTP/1.1 does, so the proxy's own address is
    // used.
    let ours = if request.host.is_empty() {
        client
            .transport
            .local_address()
            .map_or_else(|_| String::new(), |address| address.to_string())
    } else {
        String::new()
    };
    let is_grpc = request.is_grpc();
    let timeout = is_grpc.then(|| request.grpc_timeout()).flatten();
    let meta = RequestMeta {
        framing: request.framing,
        version: request.version,
        keep_alive: request.keep_alive,
        is_head: request.is_head(),
        is_idempotent: request.is_idempotent(),
        is_repeated: trust == Trust::Behind && request.is_repeated(),
        upgrade: request.upgrade,
        is_websocket: request.upgrade && is_websocket(&request),
        expects_continue: request.expects_continue,
        takes_trailers: request.takes_trailers(),
        is_open_ended: is_grpc
            || request.framing == http1::Framing::Chunked
                && thread.config.upstream == UpstreamProtocol::Http2,
        is_grpc,
        until: timeout.map(|time| thread.clock.now().saturating_add(time)),
        returning: thread
            .config
            .sticky
            .map(|sticky| Returning::of(sticky, &request, source))
            .unwrap_or_default(),
        started: Instant::now(),
    };
    (client.accepted, client.record) = noted(thread, &client.transport, source, &request);
    let location = client
        .redirects
        .and_then(|port| redirect::location(&request, &ours, port));
    if let Some(location) = &location {
        http1::write_redirect(&mut head, location, !meta.goes_on_unread());
    } else {
        thread.callers.with_token(|token| {
            let origin = Origin {
                peer: client.peer,
                source,
                scheme: if client.transport.is_secured() {
                    "https"
                } else {
                    "http"
                },
                trust,
                request_id: std::str::from_utf8(&id).unwrap_or_default(),
                token,
                client_certificate: client.transport.client_certificate(),
                drops_cookie: own_cookie(thread),
            };
            http1::write_request(&mut head, &request, &origin, &ours);
            note_id(&mut client.record, request.request_id(&origin));
        });
    }
    let length = request.head_len;
    client.trust = trust;
    client.source = source;
    client.input.consume(length);
    Ok(Some(if location.is_some() {
        Next::Redirected(meta, head)
    } else {
        Next::Request(meta, head)
    }))
}

/// The cookie that the workers do not get. A balancer cannot know yet whether a dispatcher, which
/// needs the cookie, is next.
fn own_cookie(thread: &Thread) -> Option<&'static str> {
    let is_last = thread.config.role == Role::Dispatcher;
    thread.config.sticky?.cookie().filter(|_| is_last)
}

/// What only the user's pages and the access log need of a request.
fn noted(
    thread: &Thread,
    transport: &Transport,
    source: IpAddr,
    request: &http1::Request<'_>,
) -> (Accepted, Option<Box<Record>>) {
    let pages = thread.pages.as_ref();
    let accepted = pages.map(|_| accepted(request)).unwrap_or_default();
    let record = thread.access.as_ref().map(|access| {
        let tls = transport.tls_version();
        access.begin(source, tls, transport.is_stream(), request)
    });
    (accepted, record)
}

/// The id that a request has upstream, for the access log.
fn note_id(record: &mut Option<Box<Record>>, id: &[u8]) {
    if let Some(record) = record {
        record.has_id(id);
    }
}

/// The forms of pages that the sender of a request accepts.
fn accepted(request: &http1::Request<'_>) -> Accepted {
    let fields = request.fields();
    let fields = fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"accept"));
    Accepted::of(fields.map(|(_, value)| value))
}

fn is_websocket(request: &http1::Request<'_>) -> bool {
    let protocol = request.field("upgrade");
    protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Closes the proxy's side and reads, for a while, what the client still sends.
async fn linger(thread: &Thread, client: &mut Client) {
    if client.finished || client.transport.shutdown().await.is_err() {
        return;
    }
    let mut linger = Linger::new(thread.clock.now());
    loop {
        let timeout = linger.timeout(thread.clock.now(), thread.activity.is_leaving());
        client.owes(thread, timeout);
        client.input.consume(usize::MAX);
        if thread.memory.may_widen() {
            client.input.widen(&thread.buffers);
        }
        match poll_fn(|context| client.poll_fill(thread, context)).await {
            Ok(read) if read > 0 && !timeout.is_zero() => linger.took(read),
            _ => return,
        }
    }
}

/// A new request id: 32 random hexadecimal digits.
fn request_id(random: &mut fastrand::Rng) -> [u8; 32] {
    let bits = random.u128(..);
    std::array::from_fn(|at| b"0123456789abcdef"[(bits >> (4 * at)) as usize & 15])
}
