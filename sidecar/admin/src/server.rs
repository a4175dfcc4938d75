//! The admin port: `/livez /readyz /metrics /metrics/app /status /watch`, read only.
//!
//! Decides routing, limits and the pace of heartbeats; every answer's content
//! comes from [`Routes`]. HTTP semantics follow RFC 9110 (405 names the
//! methods in `Allow`, HEAD is GET without its content).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::routes::{Page, Probe, Routes};

/// Connections at once; more wait in the listen queue. An admin port serves a
/// kubelet, a scraper and one subscriber per balancer and operator.
const CONNECTIONS: usize = 64;
/// Of these, so many may be `/watch` streams: probes must always get in.
const WATCHES: usize = 48;
/// Within this a request's head must be there; idle connections end by it too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that takes no bytes for so long is gone (`TCP_USER_TIMEOUT`, tcp(7)).
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Heartbeat of `/watch`; subscribers call a producer dead after a few.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Pause after `accept` failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const ROUTES: &str = "/livez /readyz /metrics /metrics/app /status /watch\n";

/// The admin port could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the admin address {address}: {source}; {}", cure(.source))]
pub struct BindError {
    /// What was asked for.
    pub address: SocketAddr,
    /// Why not (bind(2), listen(2)).
    pub source: io::Error,
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there: stop it or choose another address with --admin"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: give one of its own, or 127.0.0.1, with --admin"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one with --admin"
        }
        _ => "choose another address with --admin (0.0.0.0 where IPv6 is off)",
    }
}

/// A bound admin port that does not serve yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds and listens; port 0 takes a free one.
    ///
    /// # Errors
    /// [`BindError`] names the address and the cure.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let error = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address })
    }

    /// Where it listens, the port filled in.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped, which also ends every connection.
    pub async fn serve(self, routes: Arc<dyn Routes>) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let watches = Arc::new(Semaphore::new(WATCHES));
        let mut tasks = JoinSet::new();
        loop {
            let permit = Arc::clone(&connections)
                .acquire_owned()
                .await
                .expect("invariant: the semaphore is never closed");
            while tasks.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _peer)) => {
                    let routes = Arc::clone(&routes);
                    let watches = Arc::clone(&watches);
                    tasks.spawn(async move {
                        connection(stream, routes, watches).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, routes: Arc<dyn Routes>, watches: Arc<Semaphore>) {
    let socket = socket2::SockRef::from(&stream);
    if socket.set_tcp_user_timeout(Some(STALL_TIMEOUT)).is_err()
        || stream.set_nodelay(true).is_err()
    {
        // Only a connection that is over already refuses its options.
        return;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = respond(&request, &*routes, &watches);
        async move {
            Ok::<_, Infallible>(match answer {
                Answer::Now(response) => response,
                Answer::Later(page) => paged(page.await),
            })
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended early");
    }
}

type Content = Either<Full<Bytes>, Lines>;

/// What a request gets: most things at once, some after a while.
enum Answer {
    Now(Response<Content>),
    Later(Page),
}

fn respond(request: &Request<Incoming>, routes: &dyn Routes, watches: &Arc<Semaphore>) -> Answer {
    let slow = request.uri().path() == "/metrics/app";
    if slow && matches!(*request.method(), Method::GET | Method::HEAD) {
        return match routes.app_metrics() {
            Some(page) => Answer::Later(page),
            None => Answer::Now(text(
                StatusCode::NOT_FOUND,
                "the app's metrics are not gathered here: see --metrics-from\n".to_owned(),
            )),
        };
    }
    Answer::Now(respond_now(request, routes, watches))
}

fn paged(page: Result<String, String>) -> Response<Content> {
    match page {
        Ok(page) => content(StatusCode::OK, PROMETHEUS, page.into_bytes()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn respond_now(
    request: &Request<Incoming>,
    routes: &dyn Routes,
    watches: &Arc<Semaphore>,
) -> Response<Content> {
    let path = request.uri().path();
    if !matches!(
        path,
        "/livez" | "/readyz" | "/metrics" | "/metrics/app" | "/status" | "/watch"
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
        "/metrics" => content(StatusCode::OK, OPEN_METRICS, routes.metrics().into_bytes()),
        "/status" => {
            let mut json = routes.status().to_string().into_bytes();
            json.push(b'\n');
            content(StatusCode::OK, "application/json", json)
        }
        _ => match (routes.watch(), Arc::clone(watches).try_acquire_owned()) {
            (None, _) => text(
                StatusCode::NOT_FOUND,
                "there is nothing to watch here\n".to_owned(),
            ),
            (Some(_), Err(_)) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{WATCHES} watch already; no more are taken\n"),
            ),
            (Some(values), Ok(permit)) => watch_response(request.method(), values, permit),
        },
    }
}

fn probe(probe: Probe) -> Response<Content> {
    match probe {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn text(status: StatusCode, text: String) -> Response<Content> {
    content(status, TEXT, text.into_bytes())
}

fn content(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Content> {
    response(status, kind, Either::Left(Full::new(Bytes::from(body))))
}

fn response(status: StatusCode, kind: &'static str, body: Content) -> Response<Content> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn watch_response(
    method: &Method,
    values: watch::Receiver<Bytes>,
    permit: OwnedSemaphorePermit,
) -> Response<Content> {
    // One line of slack: a slow reader gets the newest state next, not a backlog.
    let (sender, lines) = mpsc::channel(1);
    if *method == Method::GET {
        tokio::spawn(feed(values, sender, permit));
    }
    response(
        StatusCode::OK,
        "application/x-ndjson",
        Either::Right(Lines(lines)),
    )
}

/// Sends the current value, each change and the heartbeats, until the reader
/// or the producer is gone.
async fn feed(
    mut values: watch::Receiver<Bytes>,
    lines: mpsc::Sender<Bytes>,
    permit: OwnedSemaphorePermit,
) {
    loop {
        let line = {
            let value = values.borrow_and_update();
            let mut line = Vec::with_capacity(value.len() + 1);
            line.extend_from_slice(&value);
            line.push(b'\n');
            Bytes::from(line)
        };
        if lines.send(line).await.is_err() {
            break;
        }
        if let Ok(Err(_producer_gone)) = tokio::time::timeout(HEARTBEAT, values.changed()).await {
            break;
        }
    }
    drop(permit);
}

/// The content of `/watch`: what comes through the channel, chunked by hyper.
#[derive(Debug)]
struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
