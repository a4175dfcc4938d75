//! The settings of the forwarding path, with reasons for the defaults.
//!
//! The binaries decide which flags set them.

use std::num::NonZeroU32;
use std::time::Duration;

use scaledapp_http1::{self as http1, Trust};
use scaledapp_select::Algorithm;

use crate::access::AccessLog;
use crate::rate::RequestRate;
use crate::sticky_kind::Sticky;

/// Which hop this proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It stands in front of the pods of an app, whose dispatchers are ScaledApp proxies.
    Balancer,
    /// It stands in front of the workers of an app.
    Dispatcher,
}

/// What the endpoints speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 section 3.3), as gRPC needs it.
    Http2,
    /// Any protocol over TCP: each connection of a client is relayed to one endpoint.
    Tcp,
}

/// How many things may exist at the same time, and how long each may take. Counters in
/// [`crate::Metrics`] show when limits are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client connections of all threads together. At the limit, a new connection replaces
    /// the one that has waited longest for a request, or else the one whose client has not
    /// sent or read for longest. While servers work on the requests of all connections, new
    /// connections wait in the listen queue.
    pub connections: u32,
    /// Client connections of one address; further ones get 503 and are closed. The limit
    /// does not apply behind a ScaledApp balancer ([`Trust::Behind`]), because all
    /// connections come from that balancer.
    pub connections_per_address: Option<NonZeroU32>,
    /// Requests of one address, or of one IPv6 network of 64 bits; further ones get 429. Proxies of
    /// [`crate::Callers::forwarded_from`] are not limited themselves, but their clients are.
    pub request_rate: Option<RequestRate>,
    /// Bytes of a request's body; a larger one gets 413. Upgraded connections are not limited.
    pub body_bytes: Option<u64>,
    /// Requests in flight at one endpoint, of all threads together; `None`: no limit. The
    /// limit is never exceeded. An upgraded connection (a WebSocket) counts as one request
    /// while it lasts. If all endpoints that may be chosen are full, requests wait in a
    /// queue, first come, first served.
    pub in_flight: Option<NonZeroU32>,
    /// Requests that wait for an endpoint, of all threads together; further ones get 503
    /// immediately. A request that has lost its endpoint and waits for another one is not
    /// refused.
    pub waiting: u32,
    /// How long a request waits for an endpoint before it gets 503: the sum of all its
    /// waits. This 503 and the one of [`Self::waiting`] carry `Retry-After: 1` (seconds).
    pub waiting_time: Duration,
    /// In place of the two limits above, while there is no endpoint at all; `None`: they hold then
    /// as well. The owner says when that is, with [`crate::Proxy::set_supply`].
    pub hold: Option<Hold>,
    /// The time for a request's head, from its first byte to its last, and for the first
    /// byte of a new connection.
    pub head_time: Duration,
    /// The time between two requests of a client's connection.
    pub idle_time: Duration,
    /// How long connecting to an endpoint may take.
    pub connect_time: Duration,
    /// The time from the end of a request, or from the last interim response, to the end of
    /// the answer's head; after that the client gets 504.
    pub answer_time: Duration,
    /// The time between two bytes of a body, from or to the client or the endpoint. It also
    /// bounds how long the proxy waits for a client that reads slowly, see [`Self::body_rate`].
    pub stall_time: Duration,
    /// As [`Self::stall_time`], for an answer that is marked as a stream, such as
    /// `text/event-stream`.
    pub stream_time: Duration,
    /// How long an upgraded or relayed connection may last without a byte from the client or the
    /// endpoint; after the end of one side, at most [`Self::stall_time`].
    pub upgrade_time: Duration,
    /// How long the proxy may wait in total for the bytes of one request body; after that
    /// the client gets 408.
    pub body_time: Duration,
    /// How many bytes of a body per second a client must send or read while the proxy waits
    /// for it; 0: no minimum. The proxy waits for a request body for [`Self::body_grace`];
    /// every `body_rate` bytes add a second, up to three times the grace. The proxy waits
    /// for the reader of an answer for `stall_time`; every `body_rate` bytes add a second
    /// again, up to that time.
    pub body_rate: u32,
    /// See [`Self::body_rate`].
    pub body_grace: Duration,
    /// How long a client that has closed its sending side may still wait for its answer.
    /// Between ScaledApp proxies ([`Trust::Behind`]) it is zero: there a closed side means
    /// that the peer no longer waits.
    pub half_close_time: Duration,
    /// Limits of request heads; beyond them the answer is 431, or 414 for the target. Memory
    /// beyond the first 16 KiB is taken only for a head that needs it.
    pub request_head: http1::Limits,
    /// Limits of answer heads; beyond them the answer is 502.
    pub answer_head: http1::Limits,
    /// The most times that a request is sent.
    pub attempts: u32,
    /// The most repetitions, as a percentage of all requests (a few are always allowed).
    pub retry_percent: u32,
    /// How many bytes of a request are kept so that it can be sent again.
    pub replay_bytes: usize,
    /// An upstream connection that has been idle for this long is not used again.
    pub upstream_idle_time: Duration,
    /// Idle upstream connections to one endpoint that each thread keeps.
    pub upstream_idle: usize,
}

/// The limits of held requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// How long a request is held before it gets 503, from its first wait on.
    pub time: Duration,
    /// Requests that are held, of all threads together; further ones get 503 immediately.
    pub requests: u32,
    /// Bytes of their heads and bodies that are kept, of all threads together. A request that
    /// needs more than is left gets 503.
    pub bytes: u64,
}

/// All settings of the forwarding path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The number of forwarding threads; each works on its own.
    pub threads: usize,
    /// Which endpoint gets a request.
    pub algorithm: Algorithm,
    /// For how long a new endpoint gets less than its share of requests; 0: it gets all of it at
    /// once.
    pub slow_start: Duration,
    /// Which hop this is.
    pub role: Role,
    /// How callers are treated. [`Trust::Edge`]: as unknown clients. [`Trust::Behind`]: as
    /// ScaledApp proxies, if they send what [`crate::Callers::tokens`] requires. This is
    /// decided for each request.
    pub trust: Trust,
    /// Another process keeps the listening socket open and passes it on: connections that
    /// are still in its queue when this process ends are served by its successor.
    pub listener_is_held: bool,
    /// Memory for connections, in bytes; `None`: [`Self::memory_percent`] of the memory
    /// that the container (or the machine) may use.
    pub memory: Option<u64>,
    /// See [`Self::memory`].
    pub memory_percent: u32,
    /// The container belongs to the proxy alone, so memory of its sockets counts as well.
    pub owns_container: bool,
    /// Whether [`Limits::connections`] is lowered if there is too little memory, or if there
    /// are too few descriptors, for that many connections.
    pub fits_connections: bool,
    /// Whether an endpoint that answers only with 5xx is ejected for a while.
    pub ejects_errors: bool,
    /// Whether HTTP/2 is served to clients that ask for it, by ALPN or by its preface.
    pub http2: bool,
    /// What the endpoints speak.
    pub upstream: UpstreamProtocol,
    /// Whether each connection to an endpoint begins with a header of the PROXY protocol. Only for
    /// [`UpstreamProtocol::Tcp`].
    pub sends_proxy_header: bool,
    /// How a client comes back to the same server; `None`: it does not.
    pub sticky: Option<Sticky>,
    /// The time in `Strict-Transport-Security` (RFC 6797), in whole seconds. The field is
    /// added to answers over TLS if the server has not sent it itself.
    pub hsts: Option<Duration>,
    /// Which requests are logged, and how; `None`: no request is logged.
    pub access_log: Option<AccessLog>,
    /// The limits of numbers and times.
    pub limits: Limits,
}

/// A limit of heads that would refuse ordinary requests, or that would limit nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadLimitError {
    /// Fewer bytes than browsers send with a few cookies, or so many that a few heads fill
    /// the memory.
    #[error("--head-bytes {0} is out of range: give 4096 to 16777216 bytes")]
    Bytes(u32),
    /// Fewer fields than ordinary requests have behind a proxy or two.
    #[error("--head-fields {0} is fewer than ordinary heads have: give at least 64")]
    Fields(u32),
}

impl Limits {
    /// The limits with the heads that `--head-bytes` and `--head-fields` allow. A number that is
    /// given applies to requests and answers; without it, requests and answers keep their
    /// different defaults.
    ///
    /// # Errors
    /// A number is out of range.
    pub fn with_heads(
        self,
        bytes: Option<u32>,
        fields: Option<u32>,
    ) -> Result<Self, HeadLimitError> {
        match (bytes, fields) {
            (Some(bytes), _) if !(4 << 10..=16 << 20).contains(&bytes) => {
                return Err(HeadLimitError::Bytes(bytes));
            }
            (_, Some(fields @ ..64)) => return Err(HeadLimitError::Fields(fields)),
            _ => {}
        }
        let of = |head: http1::Limits| {
            http1::Limits::of(
                bytes.map_or(head.head_bytes, |bytes| bytes as usize),
                fields.map_or(head.fields, |fields| fields as usize),
            )
        };
        Ok(Self {
            request_head: of(self.request_head),
            answer_head: of(self.answer_head),
            ..self
        })
    }
}

/// The most bytes that a ScaledApp proxy may add to a head: several fields that describe
/// the client, and a token. The client's host and address appear at most twice in them.
const ADDED_BYTES: usize = 4 << 10;
/// The most fields that a ScaledApp proxy may add to a head.
const ADDED_FIELDS: usize = 16;

/// Limits for a head that another hop has checked already and has added to.
pub(crate) fn grown(limits: http1::Limits) -> http1::Limits {
    http1::Limits {
        head_bytes: limits.head_bytes + ADDED_BYTES,
        fields: limits.fields + ADDED_FIELDS,
        ..limits
    }
}

impl Config {
    /// The same settings with more room in heads: balancers add fields to the requests that
    /// they let pass, so a dispatcher behind them needs more room.
    #[must_use]
    pub(crate) fn with_room_for_added(mut self) -> Self {
        if self.role == Role::Dispatcher && self.trust == Trust::Behind {
            self.limits.request_head = grown(self.limits.request_head);
        }
        self
    }

    /// The settings of a dispatcher, in front of a pod's workers.
    pub fn dispatcher() -> Self {
        Self {
            threads: 1,
            algorithm: Algorithm::LeastOfAll,
            // The counts of a dispatcher are exact, so a worker that is still slow gets no second
            // request while others are idle.
            slow_start: Duration::ZERO,
            role: Role::Dispatcher,
            // The balancer in front has already described the client.
            trust: Trust::Behind,
            listener_is_held: false,
            memory: None,
            // The container's memory is meant for the app.
            memory_percent: 25,
            owns_container: false,
            fits_connections: true,
            // A worker that answers is alive; its errors are those of the app.
            ejects_errors: false,
            http2: false,
            upstream: UpstreamProtocol::Http1,
            sends_proxy_header: false,
            sticky: None,
            hsts: None,
            access_log: None,
            limits: Limits {
                // A worker may take long to start, and the balancer in front waits for less
                // time.
                waiting_time: Duration::from_secs(30),
                // The app decides how long an answer takes. The balancer, which faces
                // clients, waits less, and a request that it gives up ends here
                // immediately.
                answer_time: Duration::from_hours(1),
                ..Limits::default()
            },
        }
    }

    /// The settings of a balancer, in front of pods.
    pub fn balancer() -> Self {
        Self {
            threads: 1,
            algorithm: Algorithm::LeastOfTwo,
            // Runtimes that compile while they run have compiled the busiest paths by then.
            slow_start: Duration::from_secs(10),
            role: Role::Balancer,
            trust: Trust::Edge,
            listener_is_held: false,
            memory: None,
            memory_percent: 75,
            owns_container: true,
            fits_connections: true,
            ejects_errors: true,
            http2: true,
            upstream: UpstreamProtocol::Http1,
            sends_proxy_header: false,
            sticky: None,
            hsts: None,
            access_log: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 << 10,
            // Many clients may share one address (NAT, a proxy).
            connections_per_address: None,
            request_rate: None,
            // Apps limit what they take, and a common limit would refuse somebody's uploads.
            body_bytes: None,
            // An app that has its own queue works best if it gets all requests immediately.
            in_flight: None,
            waiting: 1024,
            // Replacing a pod may take this long, and clients wait longer.
            waiting_time: Duration::from_secs(10),
            hold: None,
            head_time: Duration::from_secs(10),
            // nginx's default.
            idle_time: Duration::from_secs(75),
            // A lost SYN is sent again after one second.
            connect_time: Duration::from_secs(3),
            // Reports, and uploads to slow services, take minutes. nginx and HAProxy give
            // up after one minute, and this is the first setting that their users raise.
            answer_time: Duration::from_mins(5),
            // Envoy's limit for a stream on which no byte moves.
            stall_time: Duration::from_mins(5),
            // Event sources should send a comment about every 15 s; many do not.
            stream_time: Duration::from_hours(1),
            // HAProxy's manual suggests this for tunnels.
            upgrade_time: Duration::from_hours(1),
            // 5 GB, the largest single upload of object stores, at 2 Mbit/s.
            body_time: Duration::from_hours(6),
            // The defaults of Apache's mod_reqtimeout.
            body_rate: 500,
            body_grace: Duration::from_secs(20),
            // `printf … | nc` gets its answer, and the connection of a closed browser tab
            // ends within a second.
            half_close_time: Duration::from_millis(500),
            request_head: http1::Limits::default(),
            answer_head: http1::Limits::answers(),
            attempts: 4,
            retry_percent: 20,
            replay_bytes: 64 << 10,
            // Node closes idle connections after 5 s, earlier than most common servers.
            upstream_idle_time: Duration::from_secs(4),
            upstream_idle: 256,
        }
    }
}
