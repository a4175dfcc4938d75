//! Environment variables of an app: values, and other sources.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.name.startsWith('SCALEDAPP_') && self.name != 'WEB_CONCURRENCY'", "message": "is set by the supervisor: leave it out", "fieldPath": ".name"}, {"rule": "!has(self.value) || !has(self.valueFrom)", "message": "value and valueFrom exclude each other: leave one out"}]))]
pub struct EnvVar {
    /// Its name.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [{"rule": "!self.contains('=')", "message": "is not a variable's name: it must not contain ="}]))]
    pub name: String,
    /// Its value, empty if absent. `$(NAME)` stands for a variable before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub value: Option<String>,
    /// Where its value comes from instead. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueFrom>,
}

/// Where a variable's value comes from. Exactly one member is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)].exists_one(given, given)", "message": "give exactly one of secretKeyRef, configMapKeyRef and fieldRef"}]))]
pub struct ValueFrom {
    /// An entry of a `Secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// An entry of a `ConfigMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
    /// A field of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<FieldRef>,
}

/// An entry of a `Secret` or `ConfigMap` in the app's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRef {
    /// Its object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its key.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Whether it may be absent.
    #[serde(
        default,
        deserialize_with = "crate::values::truth_or_not",
        skip_serializing_if = "Option::is_none"
    )]
    pub optional: Option<bool>,
}

/// A field of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FieldRef {
    /// Such as `metadata.name` or `status.podIP`.
    #[schemars(length(min = 1, max = 1024))]
    pub field_path: String,
}

/// A whole `ConfigMap` or `Secret` as variables. Exactly one reference is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.configMapRef) != has(self.secretRef)", "message": "give exactly one of configMapRef and secretRef"}]))]
pub struct EnvFrom {
    /// A prefix of each name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub prefix: Option<String>,
    /// The `ConfigMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ObjectRef>,
    /// The `Secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectRef>,
}

/// A `ConfigMap` or `Secret` in the app's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Whether it may be absent.
    #[serde(
        default,
        deserialize_with = "crate::values::truth_or_not",
        skip_serializing_if = "Option::is_none"
    )]
    pub optional: Option<bool>,
}
