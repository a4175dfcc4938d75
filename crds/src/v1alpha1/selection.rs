//! How balancers choose a pod.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which pod gets a request: the less busy of two random ones (`LeastRequest`, the
/// default), each in turn (`RoundRobin`), a random one (`Random`), or always the same one
/// for a client address (`Hash`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Algorithm {
    /// The less busy of two random ones.
    LeastRequest,
    /// Each in turn.
    RoundRobin,
    /// A random one.
    Random,
    /// The same one for the same client address.
    Hash,
}

/// Which pods balancers prefer; the name and the value are those of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TrafficDistribution {
    /// Those in the balancer's own zone.
    PreferSameZone,
}
