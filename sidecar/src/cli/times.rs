//! The flags of `run` that limit how long the dispatcher waits and how many connections it
//! has. `settings` decides what they mean; `scaledapp_proxy::Limits` describes their
//! effect.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use scaledapp_units::duration;

/// Of `run`: how long a request, its answer and its client may take, and how many
/// clients there may be.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Time-outs and limits of requests (request dispatch)")]
pub struct TimeArgs {
    /// For the head of an answer, once its request is sent; 504 then [default: 1h]
    #[arg(long, env = "SCALEDAPP_ANSWER_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub answer_timeout: Option<Duration>,
    /// Between two bytes of a body, in either direction [default: 5m]
    #[arg(long, env = "SCALEDAPP_STALL_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub stall_timeout: Option<Duration>,
    /// The same for answers that are streams, such as text/event-stream [default: 1h]
    #[arg(long, env = "SCALEDAPP_STREAM_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub stream_timeout: Option<Duration>,
    /// For an upgraded connection (a WebSocket) on which neither side sends anything [default: 1h]
    #[arg(long, env = "SCALEDAPP_UPGRADE_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub upgrade_timeout: Option<Duration>,
    /// For the body of a request, all waiting for its bytes together; 408 then [default: 6h]
    #[arg(long, env = "SCALEDAPP_BODY_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub body_timeout: Option<Duration>,
    /// Bytes per second that a client must send of a body, or take of one; 0: any [default: 500]
    #[arg(long, env = "SCALEDAPP_BODY_RATE", value_name = "BYTES")]
    pub body_rate: Option<u32>,
    /// How long a client that has ended its side may wait for its answer; 0s: not at all [default: 500ms]
    #[arg(long, env = "SCALEDAPP_HALF_CLOSE_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub half_close_timeout: Option<Duration>,
    /// Bytes of a head, of requests (431 beyond) and answers (502); a request's target may take half [default: 65536 of a request, 262144 of an answer]
    #[arg(long, env = "SCALEDAPP_HEAD_BYTES", value_name = "BYTES")]
    pub head_bytes: Option<u32>,
    /// Fields of a head, of requests and answers [default: 1000]
    #[arg(long, env = "SCALEDAPP_HEAD_FIELDS", value_name = "N")]
    pub head_fields: Option<u32>,
    /// Client connections at once; then one that is idle ends for a new one, or else one whose client has sent or read nothing for two seconds [default: 16384; fewer where memory or open files are too few]
    #[arg(long, env = "SCALEDAPP_CONNECTIONS", value_name = "N")]
    pub connections: Option<NonZeroU32>,
    /// Client connections of one address at once, without a balancer in front; more get 503 [default: any number]
    #[arg(long, env = "SCALEDAPP_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    pub connections_per_address: Option<NonZeroU32>,
}
