//! Serves the page and its figures on loopback.
//!
//! `guard` decides which requests are answered and `model` what is shown; this file connects both with a
//! source, a clock and a port. A page gets a frame each second, and one more at once when a state has
//! changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Request, Response, StatusCode};
use scaledapp_runtime::{Answers, HttpContent, StreamPlace, Streams, secret, serve_http};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::guard::{Guard, Refused, Route};
use crate::holder::holder;
use crate::model::Model;
use crate::observation::{Observation, Source};
use crate::page::PAGE;

/// The most connections. A browser opens a few, and each of its tabs keeps one for its stream.
const MAX_CONNECTIONS: usize = 64;
/// The most pages that are served at the same time.
const MAX_STREAMS: usize = 16;
/// How often each page gets a frame.
const FRAME_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two frames, however much happens.
const NEWS_PAUSE: Duration = Duration::from_millis(300);
/// A page that reads nothing for this long counts as closed.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How many observations may wait to be added.
const QUEUE: usize = 1_024;
/// The length of the token in hexadecimal digits: 128 bits.
const TOKEN_DIGITS: usize = 32;

/// The dashboard cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken.
    #[error(
        "port {port} of 127.0.0.1 is taken{}: give another one with --port, or leave --port out for a free one",
        .holder.as_ref().map(|it| format!(" by {it}")).unwrap_or_default()
    )]
    Taken {
        /// The port.
        port: u16,
        /// The process that listens there, if it is known.
        holder: Option<String>,
    },
    /// The port cannot be opened for another reason.
    #[error(
        "cannot listen on port {port} of 127.0.0.1: ports below 1024 need a right that this user may lack"
    )]
    Bind {
        /// The port.
        port: u16,
        /// The reason (bind(2)).
        #[source]
        source: io::Error,
    },
    /// There is no random text for the token.
    #[error("the kernel gives no random bytes for the token")]
    Token(#[source] io::Error),
}

/// A dashboard that listens, and does not serve yet.
#[derive(Debug)]
pub struct Dashboard {
    listener: TcpListener,
    address: SocketAddr,
    token: String,
}

impl Dashboard {
    /// Listens on a port of 127.0.0.1; 0 means any free one. Other addresses are not possible,
    /// because the page is not encrypted.
    ///
    /// # Errors
    /// The port is taken or not allowed, or there is no randomness for the token.
    pub async fn bind(port: u16) -> Result<Self, StartError> {
        let token = secret().map_err(StartError::Token)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let address = |listener: TcpListener| Ok((listener.local_addr()?, listener));
        let (address, listener) = listener.and_then(address).map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                let holder = holder(port);
                StartError::Taken { port, holder }
            } else {
                StartError::Bind { port, source }
            }
        })?;
        Ok(Self {
            listener,
            address,
            token: token[..TOKEN_DIGITS].to_owned(),
        })
    }

    /// The address of the page. The token is in the fragment, which browsers send to nobody.
    pub fn url(&self) -> String {
        format!("http://{}/#t={}", self.address, self.token)
    }

    /// Serves what the source finds, until the future is dropped.
    pub async fn serve(self, source: impl Source) {
        let shared = Arc::new(Shared {
            model: Mutex::new(Model::new(source.title())),
            clock: Clock::start(),
            changed: watch::Sender::new(0),
            open: watch::Sender::new(BTreeSet::new()),
            readers: Mutex::default(),
        });
        let (sender, found) = mpsc::channel(QUEUE);
        let site = Site {
            guard: Guard::new(self.address.port(), self.token),
            shared: Arc::clone(&shared),
            streams: Streams::new(MAX_STREAMS),
        };
        tokio::select! {
            () = Box::new(source).run(sender, shared.open.subscribe()) => {}
            () = collect(&shared, found) => {}
            () = serve_http(self.listener, MAX_CONNECTIONS, Arc::new(site)) => {}
        }
    }
}

/// Milliseconds since 1970 that never go back.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Instant,
    began: u64,
}

impl Clock {
    fn start() -> Self {
        let began = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start: Instant::now(),
            began: began.map_or(0, |began| began.as_millis() as u64),
        }
    }

    fn now(self) -> u64 {
        self.began + self.start.elapsed().as_millis() as u64
    }
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    model: Mutex<Model>,
    clock: Clock,
    /// Changes when pages should get a frame.
    changed: watch::Sender<u64>,
    /// The apps that somebody looks at.
    open: watch::Sender<BTreeSet<String>>,
    /// The app of each stream.
    readers: Mutex<BTreeMap<u64, String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds observations and points to the model.
async fn collect(shared: &Shared, mut found: mpsc::Receiver<Observation>) {
    let mut tick = interval(FRAME_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let is_news = tokio::select! {
            observation = found.recv() => match observation {
                Some(observation) => lock(&shared.model).observe(shared.clock.now(), observation),
                None => return std::future::pending().await,
            },
            _ = tick.tick() => {
                lock(&shared.model).tick(shared.clock.now());
                true
            }
        };
        if is_news {
            shared.changed.send_modify(|number| *number += 1);
        }
    }
}

struct Site {
    guard: Guard,
    shared: Arc<Shared>,
    streams: Streams,
}

impl Answers for Site {
    fn answer(&self, head: &Request<()>) -> Response<HttpContent> {
        let mut response = match self.guard.route(head) {
            Ok(Route::Page) => {
                let page = Bytes::from_static(PAGE.html.as_bytes());
                answer(StatusCode::OK, "text/html; charset=utf-8", page)
            }
            Ok(Route::Snapshot(app)) => {
                let now = self.shared.clock.now();
                let view = lock(&self.shared.model).view(now, &app);
                answer(StatusCode::OK, "application/json", line(&view))
            }
            Ok(Route::Stream(app)) => self.stream(head, app),
            Err(Refused { status, text }) => answer(status, TEXT, text),
        };
        protect(response.headers_mut());
        let (name, value) = match response.status() {
            StatusCode::METHOD_NOT_ALLOWED => (ALLOW, "GET, HEAD"),
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, "Bearer"),
            _ => return response,
        };
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        response
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<HttpContent> {
    respond(status, kind, HttpContent::Whole(body.into()))
}

fn respond(status: StatusCode, kind: &'static str, content: HttpContent) -> Response<HttpContent> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Sets the headers that every answer has. No other site may read, embed or keep anything.
fn protect(headers: &mut HeaderMap) {
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (CONTENT_SECURITY_POLICY, PAGE.policy.as_str()),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

fn line(value: &Value) -> Bytes {
    let mut text = value.to_string();
    text.push('\n');
    text.into()
}

impl Site {
    fn stream(&self, head: &Request<()>, app: String) -> Response<HttpContent> {
        let Some(place) = self.streams.take() else {
            let text = format!("there are already {MAX_STREAMS} open pages: close one\n");
            return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
        };
        let (sender, pieces) = mpsc::channel(1);
        if head.method() == http::Method::GET {
            let reader = Reader::new(&self.shared, app, place);
            tokio::spawn(reader.feed(sender));
        }
        let content = HttpContent::Stream(pieces);
        respond(StatusCode::OK, "application/x-ndjson", content)
    }
}

/// The stream of one page.
struct Reader {
    shared: Arc<Shared>,
    id: u64,
    app: String,
    _place: StreamPlace,
}

impl Reader {
    fn new(shared: &Arc<Shared>, app: String, place: StreamPlace) -> Self {
        let shown = lock(&shared.model).shown(&app).map(str::to_owned);
        let shown = shown.unwrap_or_else(|| app.clone());
        let id = {
            let mut readers = lock(&shared.readers);
            let id = readers.last_key_value().map_or(0, |(last, _)| last + 1);
            readers.insert(id, shown);
            id
        };
        let reader = Self {
            shared: Arc::clone(shared),
            id,
            app,
            _place: place,
        };
        reader.tell();
        reader
    }

    /// Tells the source which apps somebody looks at.
    fn tell(&self) {
        let apps = lock(&self.shared.readers).values().cloned().collect();
        self.shared.open.send_replace(apps);
    }

    /// Sends frames until the page is closed. A frame is made when it can be sent, so a slow page
    /// gets fewer frames and never old ones.
    async fn feed(self, frames: mpsc::Sender<Bytes>) {
        let mut changed = self.shared.changed.subscribe();
        let (first, mut sent) = {
            let now = self.shared.clock.now();
            lock(&self.shared.model).first(now, &self.app)
        };
        let mut frame = line(&first);
        loop {
            match timeout(STALL_TIMEOUT, frames.send(frame)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
            sleep(NEWS_PAUSE).await;
            tokio::select! {
                () = frames.closed() => return,
                told = changed.changed() => if told.is_err() {
                    return;
                },
            }
            let now = self.shared.clock.now();
            frame = line(&lock(&self.shared.model).next(now, &mut sent));
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        lock(&self.shared.readers).remove(&self.id);
        self.tell();
    }
}
