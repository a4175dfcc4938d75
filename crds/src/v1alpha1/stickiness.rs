//! How a client comes back to the same worker.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a client comes back to the same pod and the same worker. Exactly one member is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "(has(self.cookie) ? 1 : 0) + (has(self.header) ? 1 : 0) + (has(self.clientAddress) ? 1 : 0) == 1", "message": "needs exactly one of cookie, header and clientAddress, such as {cookie: SCALEDAPP}"}, {"rule": "!has(self.clientAddress) || self.clientAddress", "message": "is false: leave stickiness out", "fieldPath": ".clientAddress"}]))]
pub struct Stickiness {
    /// The name of a cookie that the balancers set. Sessions of socket.io come back even if
    /// the client returns no cookies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-validations" = [{"rule": "self.matches('^[A-Za-z0-9_-]+$')", "message": "cannot be the name of a cookie: use letters, digits, - and _, such as SCALEDAPP"}]))]
    pub cookie: Option<String>,
    /// Requests with the same value of this header go to the same worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-validations" = [{"rule": "self.matches('^[A-Za-z0-9_-]+$')", "message": "cannot be the name of a header: use letters, digits, - and _, such as X-User"}]))]
    pub header: Option<String>,
    /// Requests from the same address go to the same worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<bool>,
}
