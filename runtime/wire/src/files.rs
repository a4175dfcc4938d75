//! The files through which one process of `ScaledApp` sets what another one does. People also write
//! them by hand, so an unknown field is refused as a typing error.
//!
//! The reader decides what a value means and which values are refused.

use std::net::{IpAddr, SocketAddr};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// The longest token of a reload, in bytes. `/status` shows the token as long as the process runs.
pub const TOKEN_BYTES: usize = 128;

/// The default time to live of a record, in seconds. With a shorter time, caches would save few
/// queries.
pub const DEFAULT_TTL: u32 = 30;

/// The desired-state file of a supervisor. `W` is the type of the number of workers: the
/// text as written (`"2x"`) or its parsed form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Desired<W> {
    /// Any text; when it changes, the supervisor reloads once.
    #[serde(
        default,
        deserialize_with = "token",
        skip_serializing_if = "Option::is_none"
    )]
    pub reload: Option<String>,
    /// The number of workers.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub workers: Option<W>,
}

fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let token = Option::<String>::deserialize(deserializer)?;
    match token {
        Some(token) if token.len() > TOKEN_BYTES => Err(D::Error::custom(format!(
            "the reload token has {} bytes, but at most {TOKEN_BYTES} are allowed: use a time or a hash",
            token.len()
        ))),
        token => Ok(token),
    }
}

/// One entry of a balancer's endpoints file, which is a list of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The address at which the backend serves.
    pub address: SocketAddr,
    /// The address of the backend's admin port, if it has one.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// The backend's name.
    pub name: String,
    /// The zone in which the backend runs, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// One value of a DNS server's records file, which is an object with names as keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The addresses of the name.
    pub addresses: Vec<IpAddr>,
    /// `tcp:PORT`, at which an address must accept connections to be published. Without it,
    /// all addresses are published.
    #[serde(default)]
    pub probe: Option<String>,
    /// The time to live in seconds.
    #[serde(default = "default_ttl")]
    pub ttl: u32,
}

fn default_ttl() -> u32 {
    DEFAULT_TTL
}
