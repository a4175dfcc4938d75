//! The flags of `run` that decide which statements about a client are believed. `settings`
//! checks them; `scaledapp_proxy::Trust` describes their effect on a request.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use scaledapp_proxy::Network;
use serde::Deserialize;

/// Who sends the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustArg {
    /// Unknown clients: what they say about themselves is replaced
    Edge,
    /// Our balancers: what they say about clients is kept
    Behind,
}

/// Flags of `run`: which callers are believed about clients.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Who is believed (request dispatch)")]
pub struct TrustArgs {
    /// Who sends the requests, and so whether their X-Forwarded-*, Forwarded, X-Real-IP and X-Request-Id are believed [default: edge]
    #[arg(long, env = "SCALEDAPP_TRUST")]
    pub trust: Option<TrustArg>,
    /// With --trust behind: only callers that show a token of this file are treated as our balancers, all others as unknown clients
    #[arg(long, env = "SCALEDAPP_TRUST_TOKEN_FILE", value_name = "FILE")]
    pub trust_token_file: Option<PathBuf>,
    /// Proxies in front, such as a TLS terminator, whose X-Forwarded-*, Forwarded and X-Request-Id are believed [default: none]
    #[arg(
        long,
        env = "SCALEDAPP_FORWARDED_FROM",
        value_name = "CIDR,…",
        value_delimiter = ','
    )]
    pub forwarded_from: Option<Vec<Network>>,
}
