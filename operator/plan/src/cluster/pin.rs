//! Which of two specs of an app need other pods: the hash of everything that the user
//! gave for the pods. It stands in the annotation `scaledapp.io/inputs` of each running
//! Deployment, so its bytes may never change: with other bytes an upgrade of the operator
//! would replace every pod of every app.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, ResourceRequirements};
use scaledapp_crds::v1alpha1::{Delivery, Dispatch};
use serde::Serialize;
use serde_json::Value;

use super::App;
use super::meta::{hash, json, time};

/// Version 1 of what is hashed, and the only one so far: its keys and the form of its
/// values are those that the operator of commit 9ff87d4 wrote. `tests/cluster/older.rs`
/// holds what that operator stored.
///
/// Not in it: how many pods and workers, balancers, DNS, and everything that comes from
/// the operator. A field that is added later must be absent where the user says nothing
/// about it.
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
    /// Flags of the supervisor that are given only where the user asks for something,
    /// with their values; `true` for those without one.
    #[serde(flatten)]
    flags: BTreeMap<&'static str, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<&'static str>,
}

/// The hash of what the user gave for the pods, if the app has pods per node or a total.
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
