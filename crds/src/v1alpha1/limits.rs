//! How much one client, and all clients together, may cost.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a balancer allows. The dispatcher in each pod has the same `bodyRate`, `headBytes`
/// and `headFields`, so a change of these replaces the pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(self.requestBurstPerAddress) || has(self.requestsPerSecondPerAddress)", "message": "needs requestsPerSecondPerAddress: give it, or leave requestBurstPerAddress out", "fieldPath": ".requestBurstPerAddress"}]))]
pub struct BalancerLimits {
    /// Most client connections of one balancer; 16384 by default, fewer if memory or file
    /// descriptors are short.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 1000000", "message": "0 connections serve no client: give 1 to 1000000, or leave it out"}]))]
    pub connections: Option<i32>,
    /// Most client connections from one address; no limit by default.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 1000000", "message": "0 connections serve no client: give 1 to 1000000, or leave it out"}]))]
    pub connections_per_address: Option<i32>,
    /// Most requests per second from one address, or from one IPv6 network of 64 bits; more get
    /// 429. No limit by default. Each balancer counts for itself.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 1000000", "message": "0 requests serve no client: give 1 to 1000000, or leave it out"}]))]
    pub requests_per_second_per_address: Option<i32>,
    /// How many requests an address may send at once after a pause; by default twice
    /// `requestsPerSecondPerAddress`.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 1000000", "message": "0 requests serve no client: give 1 to 1000000, or leave it out"}]))]
    pub request_burst_per_address: Option<i32>,
    /// Largest body of a request, such as 10Mi; a larger one gets 413. No limit by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = [{"rule": "self.matches('^[1-9][0-9]{0,11}(Ki|Mi|Gi|k|M|G)?$')", "message": "is no size of a body: give an amount such as 10Mi or '1048576', or leave it out"}]))]
    pub body_size: Option<String>,
    /// Slowest rate at which a client may send or read a body, in bytes per second; 500 by
    /// default, 0: any rate.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 0, max = 1_000_000_000), extend("x-kubernetes-validations" = [{"rule": "self >= 0 && self <= 1000000000", "message": "is not a rate: give bytes per second, 0 for any rate"}]))]
    pub body_rate: Option<i32>,
    /// Largest head in bytes: a request with more gets 431, an answer with more becomes
    /// 502; by default 65536 for a request and 262144 for an answer.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 4096, max = 16_777_216), extend("x-kubernetes-validations" = [{"rule": "self >= 4096 && self <= 16777216", "message": "is out of range: give 4096 to 16777216, or leave it out"}]))]
    pub head_bytes: Option<i32>,
    /// Most fields in the head of a request or an answer; 1000 by default.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 64, max = 100_000), extend("x-kubernetes-validations" = [{"rule": "self >= 64 && self <= 100000", "message": "is out of range: give 64 to 100000, or leave it out"}]))]
    pub head_fields: Option<i32>,
}
