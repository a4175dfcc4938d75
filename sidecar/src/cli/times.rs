//! The flags of `run` that limit how long the dispatcher waits and how many connections it
//! has. `settings` checks them; `scaledapp_proxy::Limits` describes their effect.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use scaledapp_units::duration;

/// Flags of `run`: how long a request, its answer and its client may take, and how many
/// clients there may be.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Timeouts and limits of requests (request dispatch)")]
pub struct TimeArgs {
    /// Time for the head of an answer once its request is sent; after that 504 [default: 1h]
    #[arg(long, env = "SCALEDAPP_ANSWER_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub answer_timeout: Option<Duration>,
    /// Time between two bytes of a body, in either direction [default: 5m]
    #[arg(long, env = "SCALEDAPP_STALL_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub stall_timeout: Option<Duration>,
    /// The same as --stall-timeout, for answers that are streams, such as text/event-stream [default: 1h]
    #[arg(long, env = "SCALEDAPP_STREAM_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub stream_timeout: Option<Duration>,
    /// How long both sides of an upgraded connection (a WebSocket) may be silent [default: 1h]
    #[arg(long, env = "SCALEDAPP_UPGRADE_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub upgrade_timeout: Option<Duration>,
    /// Total time spent waiting for the bytes of a request's body; after that 408 [default: 6h]
    #[arg(long, env = "SCALEDAPP_BODY_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub body_timeout: Option<Duration>,
    /// Fewest bytes per second that a client must send or read of a body; 0: no minimum [default: 500]
    #[arg(long, env = "SCALEDAPP_BODY_RATE", value_name = "BYTES")]
    pub body_rate: Option<u32>,
    /// How long a client that has closed its sending side may wait for its answer; 0s: not at all [default: 500ms]
    #[arg(long, env = "SCALEDAPP_HALF_CLOSE_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub half_close_timeout: Option<Duration>,
    /// Most bytes of a head, of requests (431 beyond) and answers (502 beyond); a request's target may take half of them [default: 65536 of a request, 262144 of an answer]
    #[arg(long, env = "SCALEDAPP_HEAD_BYTES", value_name = "BYTES")]
    pub head_bytes: Option<u32>,
    /// Most header fields of a request or an answer [default: 1000]
    #[arg(long, env = "SCALEDAPP_HEAD_FIELDS", value_name = "N")]
    pub head_fields: Option<u32>,
    /// Most client connections at once; beyond that, a new one replaces an idle one, or else one whose client has sent or read nothing for two seconds [default: 16384; fewer where memory or open files are too few]
    #[arg(long, env = "SCALEDAPP_CONNECTIONS", value_name = "N")]
    pub connections: Option<NonZeroU32>,
    /// Most client connections of one address at once, without a balancer in front; more get 503 [default: no limit]
    #[arg(long, env = "SCALEDAPP_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    pub connections_per_address: Option<NonZeroU32>,
}
