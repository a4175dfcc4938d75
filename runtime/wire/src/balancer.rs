//! `/status` of a balancer.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The state of an endpoint, as far as the balancer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// The endpoint takes requests.
    Serving,
    /// The endpoint has sent no recent report, although it should.
    Suspect,
    /// The endpoint is about to end.
    Draining,
    /// The endpoint reports that none of its workers is ready.
    Unready,
    /// The endpoint was found by its labels, and no supervisor has ever answered at its admin
    /// port.
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
    /// Whether the balancer is about to end.
    #[serde(default)]
    pub draining: bool,
    /// The endpoints to which the balancer can send requests. This is the one field without which
    /// the JSON is not the status of a balancer.
    pub endpoints: Vec<EndpointStatus>,
    /// Requests in flight.
    #[serde(default)]
    pub in_flight: u32,
    /// The address at which the balancer serves.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Why some of the balancer's sources of endpoints cannot be read.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Requests that wait for an endpoint.
    #[serde(default)]
    pub queued: u32,
    /// Whether the balancer has a list of endpoints and is not about to end.
    #[serde(default)]
    pub ready: bool,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointStatus {
    /// The address at which the endpoint serves.
    pub address: Option<SocketAddr>,
    /// Whether the endpoint has failed several times in a row and is ejected for a while.
    pub ejected: bool,
    /// Requests of this balancer that are in flight at the endpoint.
    pub in_flight: u32,
    /// The endpoint's name in the source that lists it.
    pub name: String,
    /// The endpoint's state, as far as the balancer knows.
    pub standing: Standing,
}
