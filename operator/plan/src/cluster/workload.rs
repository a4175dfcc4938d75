//! The app's own Deployment, and the headless Service that lists its pods.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use scaledapp_crds::words::{annotation, component, port, reason};

use super::meta::{annotate, selects};
use super::nodes::{self, Count};
use super::pod_template::Pinned;
use super::{App, Observed, Pod};
use crate::Pods;
use crate::local::ADMIN_PORT;

/// How many pods, and what has to be remembered for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scale {
    pub(super) replicas: i32,
    pub(super) count: Option<Count>,
}

pub(super) fn live<'a>(app: &App, observed: &'a Observed) -> Option<&'a Deployment> {
    let mut deployments = observed.live.deployments.iter();
    deployments.find(|live| live.metadata.name.as_deref() == Some(&app.app.name))
}

pub(super) fn scale(app: &App, observed: &Observed, pinned: &Pinned) -> Scale {
    let per_node = match app.app.pods {
        Pods::Total(total) => {
            return Scale {
                replicas: total.get() as i32,
                count: None,
            };
        }
        Pods::PerNode(per_node) => per_node.get(),
    };
    let live = live(app, observed);
    let pod = pinned.template.spec.clone().unwrap_or_default();
    let count = nodes::count(&observed.nodes, &pod, live, observed.now);
    let wanted = per_node.saturating_mul(count.nodes) as i32;
    let now = live.and_then(|live| live.spec.replicas);
    // More of what finds no place finds no place either.
    let stuck = app_pods(observed).any(|pod| {
        pod.failure
            .as_ref()
            .is_some_and(|failure| failure.reason == reason::UNSCHEDULABLE)
    });
    let replicas = match now {
        Some(now) if stuck && now > 0 => wanted.min(now),
        _ => wanted,
    };
    Scale {
        replicas,
        count: Some(count),
    }
}

pub(super) fn app_pods(observed: &Observed) -> impl Iterator<Item = &Pod> {
    let pods = observed.pods.iter();
    pods.filter(|pod| pod.component == component::APP && !pod.deleting)
}

pub(super) fn deployment(app: &App, pinned: Pinned, scale: &Scale) -> Deployment {
    let owner = app.owner();
    let mut metadata = owner.meta(app.app.name.clone(), component::APP);
    annotate(&mut metadata, annotation::INPUTS, pinned.inputs);
    if let Some(kept) = pinned.kept {
        annotate(&mut metadata, annotation::TEMPLATE, kept);
    }
    if let Some(count) = &scale.count {
        annotate(&mut metadata, annotation::NODES, count.nodes.to_string());
        if let Some(since) = count.fewer_since {
            annotate(&mut metadata, annotation::FEWER_SINCE, since.to_string());
        }
    }
    // A pod as large as its node finds no room beside its predecessor, so one
    // may go first; of a single pod none may.
    let unavailable = i32::from(scale.replicas > 1);
    let boot = app.app.workers.readiness.timeout.as_secs() as i32;
    Deployment {
        metadata,
        spec: DeploymentSpec {
            replicas: Some(scale.replicas),
            selector: selects(owner.selector(component::APP)),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(unavailable)),
                }),
            }),
            progress_deadline_seconds: Some(600.max(boot.saturating_mul(2))),
            template: pinned.template,
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

/// Lists the app's pods for the balancers, with their admin ports.
pub(super) fn pods_service(app: &App) -> Service {
    let owner = app.owner();
    let named = |name: &str, number: u16| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    };
    Service {
        metadata: owner.meta(owner.pods(), component::APP),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            ports: Some(vec![
                named(port::HTTP, app.app.port.get()),
                named(port::ADMIN, ADMIN_PORT),
            ]),
            selector: Some(owner.selector(component::APP)),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
