//! The files by which one of our processes tells another what it should do. People
//! write them by hand, too, so an unknown field is refused as a typing error.
//!
//! What a value means and which values are refused is decided by the reader.

use std::net::{IpAddr, SocketAddr};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// The longest token of a reload, in bytes. It stands in `/status` for as long as the
/// process lives.
pub const TOKEN_BYTES: usize = 128;

/// A record's time to live in seconds, where it names none: below 30 s caches on the
/// way gain nothing.
pub const DEFAULT_TTL: u32 = 30;

/// The desired-state file of a supervisor. `W` is how the number of workers is
/// written (`"2x"`) or what is read from that.
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
    /// How many workers.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub workers: Option<W>,
}

fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let token = Option::<String>::deserialize(deserializer)?;
    match token {
        Some(token) if token.len() > TOKEN_BYTES => Err(D::Error::custom(format!(
            "the reload token has {} bytes, and {TOKEN_BYTES} is the most: take a time or a hash",
            token.len()
        ))),
        token => Ok(token),
    }
}

/// One entry of a balancer's endpoints file, which is a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Where it serves.
    pub address: SocketAddr,
    /// Its admin port, if it has one.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// What it is called.
    pub name: String,
}

/// One value of a DNS server's records file, which is an object of them by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What the name stands for.
    pub addresses: Vec<IpAddr>,
    /// `tcp:PORT`, at which an address must accept connections to be published; none:
    /// all of them are.
    #[serde(default)]
    pub probe: Option<String>,
    /// In seconds.
    #[serde(default = "default_ttl")]
    pub ttl: u32,
}

fn default_ttl() -> u32 {
    DEFAULT_TTL
}
