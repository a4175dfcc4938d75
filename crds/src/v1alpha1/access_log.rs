//! Which requests the balancers log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One line on the balancers' stdout for each finished request. A reader that is too slow loses
/// lines; it delays no request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLog {
    /// How a line looks; `JSON` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<AccessLogFormat>,
    /// How many percent of the requests are logged; 100 by default. Requests that fail (5xx) are
    /// always logged.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 100), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 100", "message": "is no percentage: give 1 to 100, or leave accessLog out to log nothing"}]))]
    pub sample: Option<i32>,
    /// Whether query strings are logged, which may hold secrets; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<bool>,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AccessLogFormat {
    /// One JSON object.
    #[default]
    JSON,
    /// The combined format of nginx.
    Combined,
}
