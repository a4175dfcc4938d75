//! The forwarding path: HTTP requests from listeners to the endpoints of a table. The
//! balancer in front of pods and the dispatcher in front of a pod's workers are both this
//! code, with different settings ([`Config`]).
//!
//! `scaledapp-http1` decides which messages are well-formed. `scaledapp-select` decides
//! which endpoint gets a request, which requests wait and what may be repeated. The owner
//! of the [`Table`] decides which endpoints exist and what they report. This crate owns the
//! sockets and threads, and moves the bytes.
//!
//! On the request path, threads share little: the endpoints' counters, the queue of waiting
//! requests, and what is known of suspect requests and of sessions. Each thread has its own
//! runtime, upstream connections, buffers and clock.

mod accept;
mod access;
mod activity;
mod announced;
mod buffer;
mod callers;
mod clock;
mod complaints;
mod config;
mod connect;
mod connection_limit;
mod connections;
mod counters;
mod drain;
mod endpoint;
mod held;
mod housekeeping;
mod http;
mod http2;
mod keepalive;
mod listen;
mod load;
mod memory;
mod metrics;
mod occupancy;
mod order;
mod pages;
mod pipes;
mod pool;
mod proxy;
mod rate;
mod security;
mod site;
mod sticky;
mod sticky_kind;
mod suspects;
mod tcp;
mod thread;
mod transport;
mod turns;
mod unread;
mod upstreams;

pub use access::{AccessFormat, AccessLog, AccessSink};
pub use callers::Callers;
pub use config::{Config, HeadLimitError, Hold, Limits, Role, UpstreamProtocol};
pub use counters::{Counters, NamedCounters};
pub use endpoint::{Endpoint, Process, Table};
pub use listen::{Listener, Scheme, listen};
pub use load::Load;
pub use metrics::Metrics;
pub use pages::{PageError, Pages};
pub use proxy::Proxy;
pub use rate::RequestRate;
pub use scaledapp_http1::{Limits as HeadLimits, Network, NetworkError, Tokens, Trust};
pub use scaledapp_select::{Algorithm, EndedBy, Report, Standing, Supply};
pub use security::{Handshake, Security, Session, SessionError, Settled};
pub use site::Site;
pub use sticky_kind::{Sticky, StickyError};
