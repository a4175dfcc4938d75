//! Whether a `HorizontalPodAutoscaler` can scale the app that it names, and what to change if it
//! cannot. This module scales nothing, and the operator never writes an autoscaler. An app with
//! `spec.autoscaling` keeps its own one, whatever others name it.

use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::{API_VERSION, KIND};

use super::facts::owner;
use super::{Autoscaler, Observed, Target};

/// Why one of the app's autoscalers does not work, and the cure.
pub(super) fn trouble(object: &ScaledApp, observed: &Observed) -> Option<String> {
    let mut all = observed.autoscalers.iter();
    all.find_map(|autoscaler| why_not(object, autoscaler))
}

fn why_not(object: &ScaledApp, autoscaler: &Autoscaler) -> Option<String> {
    let app = owner(object);
    let (name, scaler) = (app.name, &autoscaler.name);
    let replicas = object.spec.replicas.as_ref();
    let has_total = replicas.is_some_and(|replicas| replicas.total.is_some());
    let has_per_node = replicas.is_some_and(|replicas| replicas.per_node.is_some());
    if object.spec.autoscaling.is_some() {
        return Some(of_scaled(name, autoscaler));
    }
    Some(match &autoscaler.target {
        Target::App(_) if has_total => return None,
        Target::App(_) if has_per_node => format!(
            "HorizontalPodAutoscaler {scaler} cannot scale this app, because it reads and writes spec.replicas.total, and the app has perNode: replace it with `replicas: {{total: N}}`, or delete the autoscaler"
        ),
        Target::App(_) => format!(
            "HorizontalPodAutoscaler {scaler} cannot scale this app, because it reads and writes spec.replicas.total, which is not there: set `replicas: {{total: N}}` (kubectl -n {} scale scaledapp/{name} --replicas=N)",
            app.namespace
        ),
        Target::Deployment(target) if target == name => format!(
            "HorizontalPodAutoscaler {scaler} names the Deployment {target}, whose number of pods the operator sets back: name the app in its spec.scaleTargetRef ({{apiVersion: {API_VERSION}, kind: {KIND}, name: {name}}})"
        ),
        Target::Deployment(target) => of_balancer(scaler, target),
    })
}

/// Why an autoscaler cannot scale an app that has one of its own.
fn of_scaled(name: &str, autoscaler: &Autoscaler) -> String {
    let scaler = &autoscaler.name;
    let cure = "delete the HorizontalPodAutoscaler, or replace spec.autoscaling with `replicas: {total: N}` and let it name the ScaledApp";
    match &autoscaler.target {
        Target::App(_) => format!(
            "HorizontalPodAutoscaler {scaler} cannot scale this app, whose number of pods spec.autoscaling decides: {cure}"
        ),
        Target::Deployment(target) if target == name => format!(
            "HorizontalPodAutoscaler {scaler} names the Deployment {target}, whose number of pods spec.autoscaling decides: {cure}"
        ),
        Target::Deployment(target) => of_balancer(scaler, target),
    }
}

fn of_balancer(scaler: &str, target: &str) -> String {
    format!(
        "HorizontalPodAutoscaler {scaler} names the Deployment {target} of a balancer, which has one pod: delete the autoscaler, and set spec.balancers.replicas"
    )
}
