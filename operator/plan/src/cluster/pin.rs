//! Decides whether a change of an app needs new pods, by a hash of the user's input for the pods.
//! The hash is stored in the annotation `scaledapp.io/inputs` of each running Deployment. So the
//! hashed bytes for the same input must never change: otherwise an upgrade of the operator would
//! replace every pod of every app.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, ResourceRequirements};
use scaledapp_crds::v1alpha1::{Delivery, Dispatch};
use serde::Serialize;
use serde_json::Value;

use super::App;
use super::meta::{hash, json, time};

/// Version 1 of the hashed input, the only version so far. The keys and the format of the values
/// are those of the operator at commit 9ff87d4; `tests/cluster/older.rs` contains what that
/// operator stored.
///
/// The input contains neither the numbers of pods and workers, nor balancers or DNS, nor anything
/// that comes from the operator. A field that is added later must be absent if the user does not
/// set it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InputsV1<'a> {
    image: &'a str,
    command: &'a [String],
    env: &'a [EnvVar],
    env_from: &'a [EnvFromSource],
    working_dir: Option<&'a str>,
    port: u16,
    per_node: bool,
    dispatch: &'static str,
    /// The path, and the timeout as text.
    readiness: [Option<String>; 2],
    drain_timeout: String,
    stop_signal: &'a str,
    instance_env: &'a str,
    resources: &'a ResourceRequirements,
    pod_template: Option<&'a Value>,
    upgrade: Option<&'a str>,
    /// The supervisor's flags that the object sets, with their values. A flag that takes no value
    /// has `true`.
    #[serde(flatten)]
    flags: BTreeMap<&'static str, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<&'static str>,
}

/// The hash of the user's input for the pods. `is_per_node` says whether the app counts as one with
/// pods per node or with a total; it may differ from what the object says.
pub(super) fn inputs(app: &App, is_per_node: bool) -> String {
    let workers = &app.app.workers;
    let flags = app.app.supervisor_flags().into_iter();
    let switches = workers.switches().into_iter();
    let inputs = InputsV1 {
        image: &app.app.image,
        command: &app.command,
        env: &app.env,
        env_from: &app.env_from,
        working_dir: app.app.working_dir.as_deref(),
        port: app.app.port.get(),
        per_node: is_per_node,
        dispatch: match workers.dispatch {
            Dispatch::Request => "Request",
            Dispatch::Connection => "Connection",
        },
        readiness: [
            workers.readiness.path.clone(),
            Some(time(workers.readiness.timeout)),
        ],
        drain_timeout: time(workers.drain_timeout),
        stop_signal: &workers.stop_signal,
        instance_env: &workers.instance_env,
        resources: &app.resources,
        pod_template: app.pod_template.as_ref(),
        upgrade: app.upgrade.as_deref(),
        flags: flags
            .map(|(flag, value)| (flag, value.into()))
            .chain(switches.map(|flag| (flag, true.into())))
            .collect(),
        delivery: match app.delivery {
            Delivery::InitContainer => None,
            Delivery::ImageVolume => Some("image"),
        },
    };
    // A `Value` puts the keys in order.
    let inputs = serde_json::to_value(&inputs).unwrap_or_default();
    hash(json(&inputs).as_bytes())
}
