//! `/status` of a DNS server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The result of the probes of an address so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeState {
    /// The address accepts connections.
    Healthy,
    /// The address has failed several probes in a row.
    Unhealthy,
    /// The address has not been probed yet.
    Unknown,
    /// The address has no probe and counts as healthy.
    Unprobed,
    /// A value that only a newer server knows, or none.
    #[default]
    #[serde(other)]
    Other,
}

impl ProbeState {
    /// The name of the value in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
            Self::Unprobed => "unprobed",
            Self::Other => "-",
        }
    }
}

/// The state of a DNS server, its zone and the zone's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsStatus {
    /// Whether the server is about to end.
    #[serde(default)]
    pub draining: bool,
    /// The address at which the server answers.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// The zone's servers: each name, with a trailing dot, and its addresses.
    #[serde(default)]
    pub name_servers: BTreeMap<String, Vec<IpAddr>>,
    /// The names of the apps, with a trailing dot. This is the one field without which the JSON
    /// is not the status of a DNS server.
    pub names: BTreeMap<String, NameStatus>,
    /// Why some or all records, or the servers' addresses, are not up to date.
    #[serde(default)]
    pub problem: Option<String>,
    /// Whether the server has records and has probed their addresses, and is not about to end.
    #[serde(default)]
    pub ready: bool,
    /// Seconds since the records in use were last known to match their source.
    #[serde(default)]
    pub records_age_seconds: u64,
    /// The zone for which the server answers.
    #[serde(default)]
    pub zone: String,
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NameStatus {
    /// All addresses of the name, published or not.
    pub addresses: Vec<AddressStatus>,
    /// Whether no probe reaches the name's addresses, which are published because the operator
    /// reports that they serve.
    #[serde(skip_serializing_if = "is_false")]
    pub out_of_reach: bool,
    /// The addresses in answers.
    pub published: Vec<IpAddr>,
    /// Whether unhealthy addresses are published because no address of their family is healthy.
    pub stale: bool,
    /// The time to live of the name's addresses while they are healthy, in seconds.
    pub ttl: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference to the field"
)]
fn is_false(value: &bool) -> bool {
    !value
}

/// One address of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AddressStatus {
    /// The address; `None` if the field is missing.
    pub address: Option<IpAddr>,
    /// The result of its probes.
    pub state: ProbeState,
}
