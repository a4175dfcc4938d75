//! `/status` of a balancer.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a balancer knows of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It takes requests.
    Serving,
    /// It should have been heard of lately and was not.
    Suspect,
    /// It is about to end.
    Draining,
    /// It says that none of its workers is ready.
    Unready,
    /// Its labels fit, and no supervisor has ever answered there.
    Unknown,
    /// A newer balancer's word, or none.
    #[default]
    #[serde(other)]
    Other,
}

impl Standing {
    /// The word for it in logs and metrics.
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

/// How a balancer and its endpoints are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalancerStatus {
    /// Connections of clients.
    #[serde(default)]
    pub connections: u32,
    /// It is about to end.
    #[serde(default)]
    pub draining: bool,
    /// Where it can send requests. The one field without which this is no balancer's
    /// status.
    pub endpoints: Vec<EndpointStatus>,
    /// Requests under way.
    #[serde(default)]
    pub in_flight: u32,
    /// Where it serves.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Why some of its sources of endpoints have no news.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Requests that wait for an endpoint.
    #[serde(default)]
    pub queued: u32,
    /// It has a list of endpoints and is not about to end.
    #[serde(default)]
    pub ready: bool,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointStatus {
    /// Where it serves.
    pub address: Option<SocketAddr>,
    /// It failed several times in a row and is left alone for a while.
    pub ejected: bool,
    /// Requests of this balancer under way there.
    pub in_flight: u32,
    /// What its source calls it.
    pub name: String,
    /// What the balancer knows of it.
    pub standing: Standing,
}
