//! A port for a person's browser: answers one HTTP/1 request per connection, with bounded
//! connections and times.
//!
//! This file decides limits only. Whether a request is answered, and with what, is decided by
//! the [`Answers`] of the caller. The admin port (`server`) has routes of its own; the two share
//! the decision which connection is closed to make room for another (`places`).

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::pieces::Pieces;
use crate::places::{Bounds, Id, Places};

/// The complete head of a request must arrive within this time, counted from the moment the
/// connection was accepted.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer, except a stream, must be read within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that accepts no bytes for this long counts as disconnected (`TCP_USER_TIMEOUT`, tcp(7)).
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after `accept` failed because file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// The size of hyper's buffers for one connection; the smallest that it allows.
const BUFFER_BYTES: usize = 8 << 10;

/// The content of an answer.
#[derive(Debug)]
pub enum HttpContent {
    /// All of it.
    Whole(Bytes),
    /// Pieces, as they come, until the sender is dropped. When the client has gone, the sender
    /// finds the channel closed.
    Stream(mpsc::Receiver<Bytes>),
}

/// What a port answers. The method is called on the port's task and must not block.
pub trait Answers: Send + Sync + 'static {
    /// The answer to a request. Its body, if it has one, is never read.
    fn answer(&self, head: &Request<()>) -> Response<HttpContent>;
}

/// Counts streams.
#[derive(Debug, Clone)]
pub struct Streams {
    open: Arc<Mutex<usize>>,
    most: usize,
}

/// The place of one stream, which is free again when this value is dropped.
#[derive(Debug)]
pub struct StreamPlace(Arc<Mutex<usize>>);

impl Streams {
    /// Places for this many streams.
    pub fn new(most: usize) -> Self {
        Self {
            open: Arc::default(),
            most,
        }
    }

    /// A place, or `None` if all are taken.
    pub fn take(&self) -> Option<StreamPlace> {
        let mut open = lock(&self.open);
        if *open >= self.most {
            return None;
        }
        *open += 1;
        Some(StreamPlace(Arc::clone(&self.open)))
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        *lock(&self.0) -= 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Port {
    answers: Arc<dyn Answers>,
    places: Mutex<Places<AbortHandle>>,
}

/// Serves until the future is dropped, which also ends every connection.
pub async fn serve_http(listener: TcpListener, connections: usize, answers: Arc<dyn Answers>) {
    // All clients come from one machine, so there is no source to be fair to.
    let bounds = Bounds {
        all: connections,
        source: connections,
        answers: connections,
        watches: connections,
        source_watches: connections,
    };
    let port = Arc::new(Port {
        answers,
        places: Mutex::new(Places::new(bounds)),
    });
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let mut places = lock(&port.places);
                let seat = Seat {
                    port: Arc::clone(&port),
                    id: places.name(),
                };
                let id = seat.id;
                let handle = tasks.spawn(connection(stream, seat));
                if let Some(ended) = places.take(id, peer.ip().to_canonical(), handle) {
                    ended.abort();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
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
        lock(&self.port.places).leave(self.id);
    }
}

async fn connection(stream: TcpStream, seat: Seat) {
    let accepted = Instant::now();
    // No buffers are allocated for a connection that sends nothing.
    let readable = tokio::time::timeout(HEAD_TIMEOUT, stream.readable()).await;
    if !matches!(readable, Ok(Ok(()))) {
        return;
    }
    // An answer is small or a stream of small pieces, and each piece is due at once.
    drop(stream.set_nodelay(true));
    drop(SockRef::from(&stream).set_tcp_user_timeout(Some(STALL_TIMEOUT)));
    let streams = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        let (head, _body) = request.into_parts();
        let response = seat.port.answers.answer(&Request::from_parts(head, ()));
        let response = response.map(|content| match content {
            HttpContent::Whole(bytes) => Either::Left(Full::new(bytes)),
            HttpContent::Stream(pieces) => {
                streams.store(true, Ordering::Relaxed);
                // Bounded by `Streams`, so this never fails.
                let _bounded = lock(&seat.port.places).watch(seat.id);
                Either::Right(Pieces(pieces))
            }
        });
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT.saturating_sub(accepted.elapsed()))
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let whole = tokio::time::timeout(HEAD_TIMEOUT + ANSWER_TIMEOUT, &mut served).await;
    let ended = match whole {
        Ok(ended) => ended,
        Err(_late) if streams.load(Ordering::Relaxed) => served.await,
        Err(_late) => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
