//! Settings of the forwarding path, each with the reason for its default.
//!
//! Which flag sets them is decided by the binaries.

use std::num::NonZeroU32;
use std::time::Duration;

use scaledapp_http1::{self as http1, Trust};
use scaledapp_select::Algorithm;

/// Which hop this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// In front of pods, whose dispatchers are ours.
    Balancer,
    /// In front of the workers of an app.
    Dispatcher,
}

/// How many things may exist at once, and for how long. A counter in [`crate::Metrics`]
/// shows when a bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client connections, of all threads together. When there are so many, the one that
    /// has waited for a request for longest ends for a new one, or else the one whose
    /// client has kept us waiting for longest. While servers work on all of them, new
    /// ones wait in the listen queue.
    pub connections: u32,
    /// Client connections of one address; further ones get 503 and are closed. It does
    /// not count behind a balancer of ours ([`Trust::Behind`]), since all connections
    /// come from that.
    pub connections_per_address: Option<NonZeroU32>,
    /// Requests in flight at one endpoint, of all threads together and never
    /// more; `None`: as many as come. An upgraded connection (a WebSocket)
    /// counts as one for as long as it lasts. When all endpoints that may be
    /// chosen are full, requests wait in a queue, first come, first served.
    pub in_flight: Option<NonZeroU32>,
    /// Requests that wait for an endpoint, of all threads together; further ones get 503
    /// at once. A request that has lost its endpoint and waits for another one is not
    /// refused.
    pub waiting: u32,
    /// How long a request waits for an endpoint, all its waits together, before
    /// it gets 503. Both kinds of 503 say `Retry-After: 1` (seconds).
    pub waiting_time: Duration,
    /// From the first byte of a request's head to its last; also for the first byte
    /// of a new connection.
    pub head_time: Duration,
    /// Between two requests of a client's connection.
    pub idle_time: Duration,
    /// How long connecting to an endpoint may take.
    pub connect_time: Duration,
    /// From the end of a request, or from its last interim response, to the end of
    /// the answer's head; 504 then.
    pub answer_time: Duration,
    /// Between two bytes of a body that is under way, to or from either side. Also
    /// what a client that reads slowly may cost in waiting, see [`Self::body_rate`].
    pub stall_time: Duration,
    /// The same for an answer that announces itself as a stream, such as
    /// `text/event-stream`.
    pub stream_time: Duration,
    /// Silence of an upgraded connection in both directions.
    pub upgrade_time: Duration,
    /// Waiting for the bytes of one request body, all together; 408 then.
    pub body_time: Duration,
    /// What a client must send or take of a body, bytes per second, while we wait
    /// for it; 0: any. A request body may be waited for [`Self::body_grace`], each
    /// second's worth of bytes adds a second, up to three times as long. An answer
    /// may wait for its reader as long as `stall_time` in the same way.
    pub body_rate: u32,
    /// See [`Self::body_rate`].
    pub body_grace: Duration,
    /// How long a client that has ended its side of the connection may still wait
    /// for its answer. Between proxies of ours ([`Trust::Behind`]) it is zero: there
    /// the end of a side means that no one waits any more.
    pub half_close_time: Duration,
    /// Of the heads of requests; 431 beyond it. Memory for more than the first
    /// 16 KiB is taken only by a head that needs it.
    pub request_head: http1::Limits,
    /// Of the heads of answers; 502 beyond it.
    pub answer_head: http1::Limits,
    /// How often a request is sent at most.
    pub attempts: u32,
    /// Repetitions in percent of requests (a handful is always allowed).
    pub retry_percent: u32,
    /// What is kept of a request so that it can be sent again.
    pub replay_bytes: usize,
    /// Idle time after which an upstream connection is not used again.
    pub upstream_idle_time: Duration,
    /// Idle upstream connections to one endpoint, of one thread.
    pub upstream_idle: usize,
}

/// All settings of the forwarding path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Threads, each on its own.
    pub threads: usize,
    /// Which endpoint gets a request.
    pub algorithm: Algorithm,
    /// Which hop this is.
    pub role: Role,
    /// What callers are: [`Trust::Edge`], anybody; [`Trust::Behind`], proxies of ours,
    /// if they show what [`crate::Callers::tokens`] asks for. This is decided for each
    /// request.
    pub trust: Trust,
    /// Another process holds the listening socket and hands it on: what waits
    /// in its queue at the end is served by the next one.
    pub listener_is_held: bool,
    /// Memory for connections, in bytes; `None`: [`Self::memory_percent`] of what the
    /// container may use, or the machine.
    pub memory: Option<u64>,
    /// See [`Self::memory`].
    pub memory_percent: u32,
    /// The container is the proxy's alone: what its sockets hold counts too.
    pub owns_container: bool,
    /// Fewer connections than [`Limits::connections`] where memory or descriptors are
    /// not enough for them.
    pub fits_connections: bool,
    /// An endpoint that answers only with 5xx is ejected for a while.
    pub ejects_errors: bool,
    /// What may exist at once, and for how long.
    pub limits: Limits,
}

/// A limit of heads that would refuse ordinary requests, or would limit nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadLimitError {
    /// Fewer bytes than browsers send with a few cookies, or so many that a few heads fill
    /// the memory.
    #[error("--head-bytes {0} cannot be meant: give 4096 to 16777216 bytes")]
    Bytes(u32),
    /// Fewer fields than ordinary requests have behind a proxy or two.
    #[error("--head-fields {0} is less than ordinary heads have: give at least 64")]
    Fields(u32),
}

impl Limits {
    /// The limits of heads that `--head-bytes` and `--head-fields` mean: one number
    /// for requests and answers, or the default of each.
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

/// What a hop of ours may add to a head: several fields that say who its client is, and a
/// token. The client's host and address are repeated twice at most.
const ADDED_BYTES: usize = 4 << 10;
/// The same in fields.
const ADDED_FIELDS: usize = 16;

/// Limits for a head that another hop has counted already, and has added to.
pub(crate) fn grown(limits: http1::Limits) -> http1::Limits {
    http1::Limits {
        head_bytes: limits.head_bytes + ADDED_BYTES,
        fields: limits.fields + ADDED_FIELDS,
        ..limits
    }
}

impl Config {
    /// The same. A dispatcher behind balancers gets room for what they add to the requests
    /// that they let pass.
    #[must_use]
    pub(crate) fn with_room_for_added(mut self) -> Self {
        if self.role == Role::Dispatcher && self.trust == Trust::Behind {
            self.limits.request_head = grown(self.limits.request_head);
        }
        self
    }

    /// In front of a pod's workers.
    pub fn dispatcher() -> Self {
        Self {
            threads: 1,
            algorithm: Algorithm::LeastOfAll,
            role: Role::Dispatcher,
            // A balancer stands in front and has said already who the client is.
            trust: Trust::Behind,
            listener_is_held: false,
            memory: None,
            // The container is sized for the app.
            memory_percent: 25,
            owns_container: false,
            fits_connections: true,
            // A worker that answers is alive; its errors are the app's.
            ejects_errors: false,
            limits: Limits {
                // A worker may take long to start, and the balancer in front waits less.
                waiting_time: Duration::from_secs(30),
                // The app decides how long an answer takes. The balancer, which faces
                // clients, waits less, and a request that it gives up ends here at once.
                answer_time: Duration::from_hours(1),
                ..Limits::default()
            },
        }
    }

    /// In front of pods.
    pub fn balancer() -> Self {
        Self {
            threads: 1,
            algorithm: Algorithm::LeastOfTwo,
            role: Role::Balancer,
            trust: Trust::Edge,
            listener_is_held: false,
            memory: None,
            memory_percent: 75,
            owns_container: true,
            fits_connections: true,
            ejects_errors: true,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 << 10,
            // Many clients may stand behind one address (NAT, a proxy).
            connections_per_address: None,
            // An app that queues for itself is served best by all at once.
            in_flight: None,
            waiting: 1024,
            // A rolling pod needs so long, and clients wait for longer.
            waiting_time: Duration::from_secs(10),
            head_time: Duration::from_secs(10),
            // The default of nginx.
            idle_time: Duration::from_secs(75),
            // A SYN that was lost is sent again after one second.
            connect_time: Duration::from_secs(3),
            // Reports and uploads to slow services take minutes; nginx and HAProxy
            // give up after one, and that is what their users raise first.
            answer_time: Duration::from_mins(5),
            // Envoy's limit for a stream on which nothing moves.
            stall_time: Duration::from_mins(5),
            // Event sources should send a comment every 15 s or so; many do not.
            stream_time: Duration::from_hours(1),
            // HAProxy's manual suggests as much for tunnels.
            upgrade_time: Duration::from_hours(1),
            // 5 GB, the largest single upload of object stores, at 2 Mbit/s.
            body_time: Duration::from_hours(6),
            // The defaults of Apache's mod_reqtimeout.
            body_rate: 500,
            body_grace: Duration::from_secs(20),
            // `printf … | nc` gets its answer; a browser tab that was closed frees its
            // place within a second.
            half_close_time: Duration::from_millis(500),
            request_head: http1::Limits::default(),
            answer_head: http1::Limits::answers(),
            attempts: 4,
            retry_percent: 20,
            replay_bytes: 64 << 10,
            // Node closes after 5 s, the shortest of the common servers.
            upstream_idle_time: Duration::from_secs(4),
            upstream_idle: 256,
        }
    }
}
