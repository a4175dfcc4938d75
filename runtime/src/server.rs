//! The admin port: `/livez /readyz /metrics /metrics/app /status /watch /load`, read only.
//!
//! This file decides routing, limits and the interval of heartbeats. The content of every answer
//! comes from [`Routes`], and `places` decides which connection is closed to make room for another.
//! A connection serves one request: kubelets and scrapers send requests rarely, and idle
//! connections would keep others out. HTTP semantics follow RFC 9110 (405 names the methods in
//! `Allow`; HEAD is GET without its content).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::feed::{Ended, Feed, STALL_TIMEOUT};
use crate::pieces::Pieces;
use crate::places::{Bounds, Id, Places, TooMany};
use crate::routes::{Page, Probe, Routes};

/// The limits of an admin port. It serves a kubelet, a scraper, and one subscriber for each
/// balancer and operator. A slow or hostile client uses up only the connections of its own
/// address.
const LIMITS: Bounds = Bounds {
    all: 256,
    source: 128,
    answers: 32,
    watches: 64,
    // Several balancers and the operator may share the address of one node.
    source_watches: 24,
};
/// The complete head of a request must arrive within this time, counted from the moment the
/// connection was accepted.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer, except that of `/watch`, must be read within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A client that has received its answer must close the connection within this time.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes that a client may still send after its answer. Unread bytes would turn the close
/// into a reset (RFC 9112, 9.6).
const LINGER_BYTES: usize = 64 << 10;
/// Pause after `accept` failed because file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// The shortest time between two log lines about a failed `accept`.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
/// The number of connections that may wait to be accepted. The kernel lowers it to
/// `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// After this many accepted connections, the runtime serves the connections whose requests have
/// arrived. The number is smaller than the limit of one source, so a connection whose request
/// arrived before the accept is answered before it could be closed.
const BATCH: usize = 32;
/// The size of hyper's buffers for one connection; the smallest that it allows.
const BUFFER_BYTES: usize = 8 << 10;
/// The size of the kernel's buffers, which count as the container's memory. Larger answers
/// are sent at the reader's pace.
const SEND_BYTES: u32 = 64 << 10;
const RECEIVE_BYTES: u32 = 16 << 10;

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const ROUTES: &str = "/livez /readyz /metrics /metrics/app /status /watch /load\n";

/// The admin port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the admin address {address}: {source}; {}", cure(.source))]
pub struct BindError {
    /// The requested address.
    pub address: SocketAddr,
    /// The reason (bind(2), listen(2)).
    pub source: io::Error,
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there: stop it or choose another address with --admin"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: give one that it has, or 127.0.0.1, with --admin"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one with --admin"
        }
        _ => "choose another address with --admin (0.0.0.0 if IPv6 is off)",
    }
}

/// A bound admin port that does not serve yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds and listens; port 0 means any free port.
    ///
    /// # Errors
    /// [`BindError`] names the address and the cure.
    #[expect(
        clippy::unused_async,
        reason = "listeners need a runtime, which an async function has"
    )]
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let error = |source| BindError { address, source };
        let listener = listen(address).map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address })
    }

    /// The address at which the admin port listens, with the actual port number.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped, which also ends every connection.
    pub async fn serve(self, routes: Arc<dyn Routes>) {
        let port = Arc::new(Port {
            routes,
            places: Mutex::new(Places::new(LIMITS)),
        });
        let mut tasks = JoinSet::new();
        let mut complained = None::<Instant>;
        loop {
            for _ in 0..BATCH {
                while tasks.try_join_next().is_some() {}
                match self.listener.accept().await {
                    Ok((stream, peer)) => port.begin(stream, peer.ip().to_canonical(), &mut tasks),
                    // The client closed the connection before it was accepted.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        let room = port.places().make_room();
                        if let Some(room) = room {
                            room.abort();
                        }
                        if complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
                            complained = Some(Instant::now());
                            tracing::warn!(
                                %error,
                                "the admin port cannot accept a connection and closes an old one: \
                                 raise the limit of open files (`ulimit -Hn`, LimitNOFILE=)"
                            );
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
            // The loop continues after the runtime has polled the sockets, so that requests that
            // have arrived are read first.
            tokio::task::yield_now().await;
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit all of these.
    socket.set_send_buffer_size(SEND_BYTES)?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_user_timeout(Some(STALL_TIMEOUT))?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The state that all connections share.
struct Port {
    routes: Arc<dyn Routes>,
    places: Mutex<Places<AbortHandle>>,
}

impl Port {
    fn places(&self) -> MutexGuard<'_, Places<AbortHandle>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, stream: TcpStream, source: IpAddr, tasks: &mut JoinSet<()>) {
        let mut places = self.places();
        let id = places.name();
        let seat = Seat {
            port: Arc::clone(self),
            id,
        };
        let handle = tasks.spawn(connection(stream, seat));
        if let Some(ended) = places.take(id, source, handle) {
            ended.abort();
        }
    }
}

/// The entry of a connection in [`Places`], which is removed when this value is dropped.
struct Seat {
    port: Arc<Port>,
    id: Id,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.port.places().leave(self.id);
    }
}

async fn connection(stream: TcpStream, seat: Seat) {
    let seat = Arc::new(seat);
    let accepted = Instant::now();
    // No buffers are allocated for a connection that sends nothing.
    if !matches!(
        tokio::time::timeout(HEAD_TIMEOUT, stream.readable()).await,
        Ok(Ok(()))
    ) {
        return;
    }
    let watches = Arc::new(AtomicBool::new(false));
    let service = {
        let (seat, watches) = (Arc::clone(&seat), Arc::clone(&watches));
        service_fn(move |request: Request<Incoming>| {
            let answer = respond(&request, &seat, &watches);
            Box::pin(async move {
                Ok::<_, Infallible>(match answer {
                    Answer::Now(response) => response,
                    Answer::Later(page) => paged(page.await),
                })
            })
        })
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT.saturating_sub(accepted.elapsed()))
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .without_shutdown();
    tokio::pin!(served);
    let served = match tokio::time::timeout(HEAD_TIMEOUT + ANSWER_TIMEOUT, &mut served).await {
        Ok(served) => served,
        Err(_late) if watches.load(Ordering::Relaxed) => served.await,
        Err(_late) => return,
    };
    match served {
        Ok(parts) => {
            seat.port.places().is_through(seat.id);
            // It does not matter what else the client sends, nor how it closes the connection.
            drop(tokio::time::timeout(LINGER_TIMEOUT, linger(parts.io.into_inner())).await);
        }
        Err(error) => tracing::debug!(%error, "admin connection ended early"),
    }
}

/// Closes the sending side of the connection and waits for the client to close the other side.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut left = LINGER_BYTES;
    let mut rest = [0; 1024];
    while left > 0 {
        match stream.read(&mut rest).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

type Content = Either<Full<Bytes>, Pieces>;

/// The answer to a request: most are ready immediately, some take a while.
enum Answer {
    Now(Response<Content>),
    Later(Page),
}

fn respond(request: &Request<Incoming>, seat: &Arc<Seat>, watches: &AtomicBool) -> Answer {
    let routes = &*seat.port.routes;
    let slow = seat.port.places().answer(seat.id);
    if let Some(slow) = slow {
        slow.abort();
    }
    let slow = request.uri().path() == "/metrics/app";
    if slow && matches!(*request.method(), Method::GET | Method::HEAD) {
        return match routes.app_metrics() {
            Some(page) => Answer::Later(page),
            None => Answer::Now(text(
                StatusCode::NOT_FOUND,
                "the app's metrics are not collected here: see --metrics-from\n".to_owned(),
            )),
        };
    }
    Answer::Now(respond_now(request, seat, watches))
}

fn paged(page: Result<Bytes, String>) -> Response<Content> {
    match page {
        Ok(page) => content(StatusCode::OK, PROMETHEUS, page),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn respond_now(
    request: &Request<Incoming>,
    seat: &Arc<Seat>,
    watches: &AtomicBool,
) -> Response<Content> {
    let routes = &*seat.port.routes;
    let path = request.uri().path();
    if !matches!(
        path,
        "/livez" | "/readyz" | "/metrics" | "/metrics/app" | "/status" | "/watch" | "/load"
    ) {
        return text(
            StatusCode::NOT_FOUND,
            format!("no such path; there are {ROUTES}"),
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "this port is read only\n".to_owned(),
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => probe(routes.live()),
        "/readyz" => probe(routes.ready()),
        "/metrics" => content(StatusCode::OK, OPEN_METRICS, routes.metrics()),
        "/status" => {
            let mut json = routes.status().to_string().into_bytes();
            json.push(b'\n');
            content(StatusCode::OK, "application/json", json)
        }
        path => {
            let stream = if path == "/load" {
                routes.load().map(Feed::Load)
            } else {
                routes.watch().map(Feed::Watch)
            };
            match stream {
                None => text(
                    StatusCode::NOT_FOUND,
                    "there is nothing to watch here\n".to_owned(),
                ),
                Some(feed) => stream_response(request.method(), feed, seat, watches),
            }
        }
    }
}

fn probe(probe: Probe) -> Response<Content> {
    match probe {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn text(status: StatusCode, text: String) -> Response<Content> {
    content(status, TEXT, text)
}

fn content(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Content> {
    response(status, kind, Either::Left(Full::new(body.into())))
}

fn response(status: StatusCode, kind: &'static str, body: Content) -> Response<Content> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn stream_response(
    method: &Method,
    feed: Feed,
    seat: &Arc<Seat>,
    watches: &AtomicBool,
) -> Response<Content> {
    // Only one line is buffered: a slow reader gets the newest state next, not a backlog.
    let (sender, lines) = mpsc::channel(1);
    if *method == Method::GET {
        let place = seat.port.places().watch(seat.id);
        if let Err(too_many) = place {
            let reason = match too_many {
                TooMany::InAll => {
                    format!(
                        "there are already {} streams of /watch and /load",
                        LIMITS.watches
                    )
                }
                TooMany::OfSource => {
                    format!(
                        "your address already has {} streams of /watch and /load",
                        LIMITS.source_watches
                    )
                }
            };
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{reason}: close one, or request /status\n"),
            );
        }
        watches.store(true, Ordering::Relaxed);
        let (port, id) = (Arc::clone(&seat.port), seat.id);
        tokio::spawn(async move {
            let ended = feed.send(sender).await;
            // Without this, hyper would wait until the stalled reader accepts the end of the
            // stream.
            if ended == Ended::Stalled
                && let Some(connection) = port.places().leave(id)
            {
                connection.abort();
            }
        });
    }
    response(
        StatusCode::OK,
        "application/x-ndjson",
        Either::Right(Pieces(lines)),
    )
}
