//! The app's own Deployment, and the headless Service that lists its pods.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use scaledapp_crds::words::{annotation, component, port};

use super::meta::{annotate, annotation as annotated, selects};
use super::nodes::{self, Count};
use super::pod_template::Pinned;
use super::scaling::{self, News};
use super::{App, Observed};
use crate::Pods;

/// How long a pending pod may wait before an old pod has to make room for it. In a cluster with an
/// autoscaler, the pending pod gets a node within this time.
const PENDING_TIMEOUT: Duration = Duration::from_mins(1);

/// How many pods there should be, how they are replaced, and what the operator has to remember to
/// count them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scale {
    pub(super) replicas: i32,
    /// New pods start before old ones stop; otherwise one old pod stops first.
    pub(super) surge: bool,
    pub(super) count: Option<Count>,
    /// What an event says about the change, for an app with an autoscaler.
    pub(super) news: Option<News>,
}

pub(super) fn live<'a>(app: &App, observed: &'a Observed) -> Option<&'a Deployment> {
    let mut deployments = observed.live.deployments.iter();
    deployments.find(|live| live.metadata.name.as_deref() == Some(&app.app.name))
}

pub(super) fn scale(app: &App, observed: &Observed, pinned: &Pinned) -> Scale {
    let live = live(app, observed);
    // A release that never becomes ready must not cost old pods. But a pod as large as its
    // node finds no room beside its predecessor.
    let status = live
        .and_then(|live| live.status.clone())
        .unwrap_or_default();
    let is_rolling =
        status.updated_replicas.unwrap_or_default() < status.replicas.unwrap_or_default();
    let went_first = live.is_some_and(goes_first);
    let waits = |least| nodes::oldest_refused(observed).is_some_and(|age| age >= least);
    let of_total = |replicas: u32| Scale {
        replicas: i32::try_from(replicas).unwrap_or(i32::MAX),
        surge: replicas <= 1 || !(is_rolling && (went_first || waits(PENDING_TIMEOUT))),
        count: None,
        news: None,
    };
    let per_node = match app.app.pods {
        Pods::Total(total) => return of_total(total.get()),
        Pods::Auto(range) => {
            let scale = of_total(scaling::pods(range, live, observed));
            let news = Some(News::of(live, scale.replicas, observed.now));
            return Scale { news, ..scale };
        }
        Pods::PerNode(per_node) => per_node.get(),
    };
    let pod = pinned.template.spec.clone().unwrap_or_default();
    let count = nodes::count(observed, per_node, &pod, live);
    let replicas = i32::try_from(count.pods).unwrap_or(i32::MAX);
    let is_new = live.is_some() && begins(live, pinned);
    let one_goes_first = if is_new {
        nodes::is_one_full(observed, &pod)
    } else {
        went_first || is_rolling && waits(Duration::ZERO)
    };
    Scale {
        replicas,
        surge: replicas == 1 || !one_goes_first,
        count: Some(count),
        news: None,
    }
}

/// Whether this pass starts a rollout.
pub(super) fn begins(live: Option<&Deployment>, pinned: &Pinned) -> bool {
    live.and_then(|live| annotated(&live.metadata, annotation::INPUTS)) != Some(&*pinned.inputs)
}

/// Whether the last plan stops an old pod before its successor starts.
fn goes_first(live: &Deployment) -> bool {
    let strategy = live.spec.strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    rolling.is_some_and(|rolling| rolling.max_surge == Some(IntOrString::Int(0)))
}

pub(super) fn deployment(app: &App, pinned: Pinned, scale: &Scale) -> Deployment {
    let owner = app.owner();
    let mut metadata = owner.meta(app.app.name.clone(), component::APP);
    annotate(&mut metadata, annotation::INPUTS, pinned.inputs);
    if let Some(kept) = pinned.kept {
        annotate(&mut metadata, annotation::TEMPLATE, kept);
    }
    if let Some(total) = pinned.kept_total {
        annotate(&mut metadata, annotation::KEPT_TOTAL, total.to_string());
    }
    if let Some(news) = &scale.news {
        annotate(&mut metadata, annotation::SCALED, news.told.to_string());
    }
    if let Some(count) = &scale.count {
        annotate(&mut metadata, annotation::NODES, count.nodes.to_string());
        if let Some(full) = &count.full {
            annotate(&mut metadata, annotation::FULL_NODES, full.clone());
        }
        if let Some(since) = count.fewer_since {
            annotate(&mut metadata, annotation::FEWER_SINCE, since.to_string());
        }
    }
    let surge = i32::from(scale.surge);
    let boot = app.app.workers.readiness.timeout.as_secs() as i32;
    Deployment {
        metadata,
        spec: DeploymentSpec {
            replicas: Some(scale.replicas),
            selector: selects(owner.selector(component::APP)),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(surge)),
                    max_unavailable: Some(IntOrString::Int(1 - surge)),
                }),
            }),
            progress_deadline_seconds: Some(600.max(boot.saturating_mul(2))),
            template: pinned.template,
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

/// The headless Service that lists the app's pods for the balancers, with their admin ports.
pub(super) fn pods_service(app: &App, pods: &BTreeMap<String, String>) -> Service {
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
                named(app.port_name(), app.app.port.get()),
                named(port::ADMIN, app.app.admin_port.get()),
            ]),
            selector: Some(pods.clone()),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
