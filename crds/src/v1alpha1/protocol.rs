//! What an app speaks, and the PROXY protocol between balancers, the load balancers in front of
//! them, and pods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an app speaks on its port; `http` by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    /// HTTP/1.
    Http,
    /// HTTP/2 without TLS (prior knowledge), as servers of gRPC speak it.
    H2c,
    /// Any protocol over TCP; implies [`super::Dispatch::Connection`].
    Tcp,
}

/// The PROXY protocol, in which a proxy says who its client is before the client's first byte.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "(has(self.from) && size(self.from) > 0) || (has(self.toPods) && self.toPods)", "message": "is empty: give from or toPods, or leave it out"}]))]
pub struct ProxyProtocol {
    /// Networks of load balancers in front, whose connections must begin with a header of the
    /// PROXY protocol (version 1 or 2); none by default.
    #[serde(
        default,
        deserialize_with = "crate::values::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 64), inner(length(min = 1, max = 49)), extend("x-kubernetes-list-type" = "set", "x-kubernetes-validations" = [{"rule": "self.all(network, network.matches('^(((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])[.]){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(/(3[0-2]|[12]?[0-9]))?|[0-9a-fA-F]*:[0-9a-fA-F:.]*(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)$'))", "message": "contains something that is neither a network nor an address: give entries such as 10.0.0.0/8, fd00::/8 or 192.0.2.7; names are not looked up"}]))]
    pub from: Vec<String>,
    /// Whether each connection to a pod begins with a header of version 2, which the app must
    /// expect; only with appProtocol tcp; false by default.
    #[serde(
        default,
        deserialize_with = "crate::values::truth",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub to_pods: bool,
}
