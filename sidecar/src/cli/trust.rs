//! The flags of `run` that decide which statements about a client are trusted. `settings`
//! decides what they mean, `scaledapp_proxy::Trust` describes their effect on a request.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use scaledapp_proxy::Network;
use serde::Deserialize;

/// What callers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustArg {
    /// Anybody: what they say about themselves is replaced
    Edge,
    /// Balancers of ours: what they say about clients is kept
    Behind,
}

/// Of `run`: whose word about a client counts.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Who is believed (request dispatch)")]
pub struct TrustArgs {
    /// Whose X-Forwarded-*, Forwarded, X-Real-IP and X-Request-Id count [default: edge]
    #[arg(long, env = "SCALEDAPP_TRUST")]
    pub trust: Option<TrustArg>,
    /// With --trust behind: only callers that show a token of this file count as balancers of ours, others are anybody
    #[arg(long, env = "SCALEDAPP_TRUST_TOKEN_FILE", value_name = "FILE")]
    pub trust_token_file: Option<PathBuf>,
    /// Proxies in front, such as a TLS terminator, whose X-Forwarded-*, Forwarded and X-Request-Id count [default: nobody's]
    #[arg(
        long,
        env = "SCALEDAPP_FORWARDED_FROM",
        value_name = "CIDR,…",
        value_delimiter = ','
    )]
    pub forwarded_from: Option<Vec<Network>>,
}
