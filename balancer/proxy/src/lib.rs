//! The forwarding path: HTTP/1 requests from a listener to the endpoints of a
//! table. The balancer in front of pods and the dispatcher in front of a pod's
//! workers are both this, with different settings ([`Config`]).
//!
//! What is a well-formed message is decided in `scaledapp-http1`; which
//! endpoints exist and what they report, by the owner of the [`Table`]. Here:
//! which of them gets a request (`select`), what may be repeated (`retry`), who
//! is left alone for a while (`outlier`), and how bytes flow (`exchange`).
//!
//! Threads share nothing on the request path but the endpoints' counters and the
//! line of those that wait (`line`): each has its own runtime, upstream
//! connections, buffers and clock.

mod allowance;
mod attempt;
mod body;
mod buffer;
mod callers;
mod clock;
mod config;
mod connect;
mod connection;
mod drain;
mod endpoint;
mod exchange;
mod gone;
mod keepalive;
mod line;
mod linger;
mod listen;
mod memory;
mod metrics;
mod order;
mod outlier;
mod pool;
mod proxy;
mod retry;
mod room;
mod seat;
mod select;
mod suspects;
mod tally;
mod thread;
mod tunnel;
mod unread;

pub use callers::{Callers, Tokens, TokensError};
pub use config::{Algorithm, Config, HeadLimitError, Limits, Role};
pub use endpoint::{EndedBy, Endpoint, Process, Report, Standing, Table};
pub use listen::listen;
pub use metrics::Metrics;
pub use proxy::Proxy;
pub use scaledapp_http1::{Limits as HeadLimits, Network, NetworkError, Trust};
pub use tally::{Tallies, Tally};
