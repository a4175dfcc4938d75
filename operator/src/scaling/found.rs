//! What a new leader finds: the Deployment, the status and the pods that its predecessor left.
//!
//! It goes on from there, so a change of leaders changes nothing.

use k8s_openapi::api::apps::v1::Deployment;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_scale::{Found, Settings};

/// What is found of an app. `cpu` is the CPU that its pods have, in cores.
///
/// An app without a Deployment is new, and begins with the number that its first plan has.
pub(crate) fn found(
    object: &ScaledApp,
    deployment: Option<&Deployment>,
    settings: &Settings,
    cpu: Option<f64>,
) -> Found {
    let replicas = deployment.map(|deployment| deployment.spec.replicas.unwrap_or(1));
    let pods = replicas.and_then(|replicas| u32::try_from(replicas).ok());
    let status = object.status.as_ref();
    let status = status.and_then(|status| status.autoscaling.as_ref());
    Found {
        pods: pods.unwrap_or_else(|| settings.pods.min().max(1)),
        workers: status
            .and_then(|status| u32::try_from(status.workers).ok())
            .unwrap_or_else(|| settings.workers.min()),
        cpu,
        concurrency: status.and_then(|status| status.concurrency),
        since: status.and_then(|status| status.since.parse().ok()),
    }
}
