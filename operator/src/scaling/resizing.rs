//! Asks the API server to resize pods in place, and remembers what it refuses.
//!
//! [`super::resize`] says which pods get which CPU. A pod is asked for once per value: what becomes
//! of it is read from the pod. A cluster without the `resize` subresource, or without the right to
//! patch it, refuses every time; then more pods are started instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::time::Instant;

use super::demand::AppName;
use super::resize::{self, Cpu};
use crate::api::FIELD_MANAGER;
use crate::call::{Call, CallError};
use crate::context::Context;

/// How long after a call the same is asked of a pod again, if the pod still does not ask for it.
const AGAIN_INTERVAL: Duration = Duration::from_secs(30);

/// What was asked of the pods of one app.
#[derive(Debug, Default)]
pub(super) struct Asked {
    by_pod: HashMap<String, (Instant, Cpu)>,
    refused: Arc<Mutex<Option<Instant>>>,
}

impl Asked {
    /// Whether the API server has refused a resize within the last `within`.
    pub(super) fn is_refused(&self, within: Duration) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|at| at.elapsed() < within)
    }

    /// Whether this is asked for the first time, or for the first time in a while. Records it.
    fn is_due(&mut self, uid: &str, cpu: Cpu, now: Instant) -> bool {
        let last = self.by_pod.get(uid);
        if last.is_some_and(|(at, asked)| *asked == cpu && now - *at < AGAIN_INTERVAL) {
            return false;
        }
        self.by_pod.insert(uid.to_owned(), (now, cpu));
        true
    }
}

/// Resizes the pods of an app that do not ask for `cores` yet; `None`: pods are not resized.
pub(super) fn start(
    context: &Arc<Context>,
    name: &AppName,
    asked: &mut Asked,
    cores: Option<f64>,
    pods: &[Arc<Pod>],
) {
    let Some(cores) = cores else { return };
    let now = Instant::now();
    asked.by_pod.retain(|_, (at, _)| now - *at < AGAIN_INTERVAL);
    for (pod, cpu) in resize::due(cores, pods.iter().map(AsRef::as_ref)) {
        let meta = &pod.metadata;
        let (Some(uid), Some(pod)) = (meta.uid.as_deref(), meta.name.clone()) else {
            continue;
        };
        if asked.is_due(uid, cpu, now) {
            let patch = cpu.patch(uid);
            let (context, name) = (Arc::clone(context), name.clone());
            let refused = Arc::clone(&asked.refused);
            tokio::spawn(async move {
                if let Err(error) = ask(&context, &name.namespace, &pod, &patch).await {
                    refuse(&name, &pod, &error, &refused);
                }
            });
        }
    }
}

/// Asks the API server to resize a pod, with a patch of the `resize` subresource.
///
/// # Errors
/// The API server refuses, or is out of reach.
pub async fn ask(
    context: &Context,
    namespace: &str,
    pod: &str,
    patch: &serde_json::Value,
) -> Result<(), CallError> {
    let api: Api<Pod> = Api::namespaced(context.caller.client.clone(), namespace);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Strategic(patch);
    let request = api.patch_resize(pod, &params, &patch);
    let call = Call::new("patch", "Pod resize");
    context.caller.write(call, request).await.map(drop)
}

/// Remembers a refusal, unless it says that the pod is gone or is being changed.
fn refuse(name: &AppName, pod: &str, error: &CallError, refused: &Mutex<Option<Instant>>) {
    if !is_refusal(error, pod) {
        tracing::debug!(namespace = name.namespace, pod, %error, "a pod was not resized");
        return;
    }
    let now = Instant::now();
    let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
    if refused.is_none() {
        tracing::warn!(
            namespace = name.namespace,
            name = name.name,
            pod,
            %error,
            "the API server refuses to resize a pod in place, so more pods are started instead; if the cluster is older than Kubernetes 1.33, leave autoscaling.cpu out, and otherwise give the operator the right to patch pods/resize"
        );
    }
    *refused = Some(now);
}

/// Whether every other pod of the app would be refused as well.
fn is_refusal(error: &CallError, pod: &str) -> bool {
    match error {
        // The message about an absent pod names it; the one about an absent subresource does not.
        CallError::Refused {
            code: 404, message, ..
        } => !message.contains(pod),
        CallError::Refused { code, .. } => matches!(code, 400 | 403 | 405 | 422),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_asked_for_once_in_a_while() {
        let mut asked = Asked::default();
        let begun = Instant::now();
        let cpu = |limit| Cpu {
            limit: Some(limit),
            request: None,
        };
        assert!(asked.is_due("u", cpu(1000), begun));
        assert!(!asked.is_due("u", cpu(1000), begun + Duration::from_secs(29)));
        assert!(asked.is_due("u", cpu(2000), begun + Duration::from_secs(29)));
        assert!(asked.is_due("u", cpu(2000), begun + Duration::from_secs(59)));
        assert!(asked.is_due("v", cpu(2000), begun));
    }

    #[test]
    fn a_pod_that_is_gone_is_no_refusal() {
        let call = Call::new("patch", "Pod resize");
        let refused = |code, message: &str| CallError::Refused {
            call,
            code,
            message: message.to_owned(),
            causes: Vec::new(),
        };
        let absent = refused(404, "pods \"hello-x\" not found");
        let old = refused(404, "the server could not find the requested resource");
        assert!(!is_refusal(&absent, "hello-x"));
        assert!(is_refusal(&old, "hello-x"));
        assert!(is_refusal(&refused(403, "forbidden"), "hello-x"));
        assert!(!is_refusal(&refused(409, "conflict"), "hello-x"));
        assert!(!is_refusal(&CallError::Timeout { call }, "hello-x"));
    }
}
