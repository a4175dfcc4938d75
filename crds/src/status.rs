//! The status of an app, which the operator writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What the operator has observed and done.
///
/// Unknown fields are accepted, so that an older operator can read a newer one's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScaledAppStatus {
    /// The generation of the object that this status describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that exist.
    pub replicas: i32,
    /// Pods that serve.
    pub ready_replicas: i32,
    /// `READY/WANTED`, for people.
    pub pods: String,
    /// The processes in the pods.
    pub workers: WorkersStatus,
    /// What the autoscaler has decided; absent without `spec.autoscaling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingStatus>,
    /// The label selector of the app's pods, as text; for the scale subresource.
    pub selector: String,
    /// The addresses, and whether each of them serves.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["slot"]))]
    pub balancers: Vec<SlotStatus>,
    /// `SERVING/WANTED` balancers, for people.
    pub serving: String,
    /// The app's name in DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The supervisor's image in the app's pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar_version: Option<String>,
    /// The conditions of the app.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// The processes in the pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkersStatus {
    /// Workers that the pods should have, as far as they have reported.
    pub desired: i32,
    /// Workers that are ready.
    pub ready: i32,
    /// `READY/WANTED`, for people.
    pub summary: String,
}

/// What the autoscaler has decided.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoscalingStatus {
    /// Pods that there should be.
    pub pods: i32,
    /// Workers that each pod should need; its supervisor decides by its own load.
    pub workers: i32,
    /// CPU that each pod should have, in cores; absent without `autoscaling.cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Why, in one sentence.
    pub reason: String,
    /// Since when the numbers are these, as a time of RFC 3339.
    pub since: String,
    /// How many requests one worker serves well at the same time, as given or as learnt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<f64>,
}

/// One slot: an address that outlives balancers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlotStatus {
    /// Its number, from 0.
    pub slot: i32,
    /// Its address; empty until it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Whether a balancer answers there, its own or another one.
    #[serde(default)]
    pub serving: bool,
}

/// A list with one condition of each type.
fn conditions(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": generator.subschema_for::<Condition>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
