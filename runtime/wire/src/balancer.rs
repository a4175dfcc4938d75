//! `/status` of a balancer.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The state of an endpoint, as far as the balancer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It takes requests.
    Serving,
    /// It has sent no recent report, although it should.
    Suspect,
    /// It is about to end.
    Draining,
    /// It reports that none of its workers is ready.
    Unready,
    /// It was found by its labels, and no supervisor has ever answered there.
    Unknown,
    /// A value that only a newer balancer knows, or none.
    #[default]
    #[serde(other)]
    Other,
}

impl Standing {
    /// The name of the value in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Unready => "unready",
            Self::Unknown => "unknown",
            Self::Other => "-",
        }
    }
}

/// The state of a balancer and its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalancerStatus {
    /// Connections of clients.
    #[serde(default)]
    pub connections: u32,
    /// Whether it is about to end.
    #[serde(default)]
    pub draining: bool,
    /// The endpoints to which it can send requests. This is the one field without which the
    /// JSON is not the status of a balancer.
    pub endpoints: Vec<EndpointStatus>,
    /// Requests in flight.
    #[serde(default)]
    pub in_flight: u32,
    /// The address at which it serves.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Why some of its sources of endpoints cannot be read.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Requests that wait for an endpoint.
    #[serde(default)]
    pub queued: u32,
    /// Whether it has a list of endpoints and is not about to end.
    #[serde(default)]
    pub ready: bool,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointStatus {
    /// The address at which it serves.
    pub address: Option<SocketAddr>,
    /// Whether it has failed several times in a row and is ejected for a while.
    pub ejected: bool,
    /// Requests of this balancer in flight there.
    pub in_flight: u32,
    /// Its name in its source.
    pub name: String,
    /// Its state, as far as the balancer knows.
    pub standing: Standing,
}
