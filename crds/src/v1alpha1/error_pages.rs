//! The user's pages for the balancers' own answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Pages that clients get if a balancer itself answers with an error, in place of one word. The
/// balancers use a change within about a minute, when the kubelet has updated their files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorPages {
    /// A `ConfigMap` in the app's namespace. Each key is a page of at most 64 KiB, named after a
    /// status or a class of them: `503.html`, `5xx.json`, `429.txt`. While it does not exist,
    /// there are no pages.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [{"rule": "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')", "message": "cannot be the name of a ConfigMap: use a-z, 0-9, - and ., such as hello-pages"}]))]
    pub config_map_name: String,
}
