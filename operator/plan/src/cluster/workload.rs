//! The app's own Deployment, what its running pods are told, and the headless
//! Service that lists them.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::words::{annotation, component, port, reason};
use serde_json::json;

use super::meta::{annotate, annotation as annotated, map, selects};
use super::nodes::{self, Count};
use super::pod_template::{DESIRED_FILE, Pinned};
use super::{App, Heard, Observed, Pod, PodAnnotations};
use crate::local::ADMIN_PORT;
use crate::{Pods, WorkerCount};

/// A pod that is told to reload and does not say how it went is given this long.
const RELOAD_PATIENCE: Duration = Duration::from_secs(15);
/// Of a pod on a node that no longer counts: deleted before the others.
const CHEAP: &str = "-100";

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

/// The workers of a pod in the supervisor's words.
pub(super) fn workers(app: &App) -> String {
    match app.app.workers.count {
        WorkerCount::PerCore(each) => format!("{each}x"),
        WorkerCount::Count(count) => count.to_string(),
    }
}

pub(super) fn live_desired<'a>(app: &App, observed: &'a Observed) -> Option<&'a ConfigMap> {
    let name = app.owner().desired();
    let mut maps = observed.live.config_maps.iter();
    maps.find(|map| map.metadata.name.as_deref() == Some(&name))
}

/// What a `ConfigMap` of ours says, as text.
fn said(map: &ConfigMap) -> Option<&str> {
    map.data.as_ref()?.get(DESIRED_FILE).map(String::as_str)
}

/// One entry of what a `ConfigMap` of ours says.
fn entry(map: &ConfigMap, name: &str) -> Option<String> {
    let said: serde_json::Value = serde_json::from_str(said(map)?).ok()?;
    said[name].as_str().map(ToOwned::to_owned)
}

/// Whether the reload was not asked for before.
pub(super) fn is_new_reload(app: &App, observed: &Observed) -> bool {
    live_desired(app, observed).is_some_and(|live| entry(live, "reload") != app.reload)
}

/// The truth about workers and reload: new pods read it while the operator is
/// away, running ones when the kubelet brings it.
pub(super) fn desired(app: &App, observed: &Observed) -> ConfigMap {
    let owner = app.owner();
    let live = live_desired(app, observed);
    let mut metadata = owner.meta(owner.desired(), component::APP);
    if app.reload.is_some() {
        let since = live
            .filter(|live| entry(live, "reload") == app.reload)
            .and_then(|live| {
                annotated(&live.metadata, annotation::RELOAD_SINCE).map(ToOwned::to_owned)
            });
        let since = since.unwrap_or_else(|| observed.now.to_string());
        annotate(&mut metadata, annotation::RELOAD_SINCE, since);
    }
    let mut file = json!({"workers": workers(app)});
    if let Some(token) = &app.reload {
        file["reload"] = json!(token);
    }
    ConfigMap {
        metadata,
        data: Some(map([(DESIRED_FILE, &file.to_string())])),
        ..ConfigMap::default()
    }
}

/// What running pods are told by way of annotations, which make the kubelet
/// bring them the `ConfigMap` at once; and how a reload goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Told {
    pub(super) touch: Vec<PodAnnotations>,
    pub(super) wake: Option<Duration>,
    pub(super) reload_failed: bool,
}

pub(super) fn tell(
    app: &App,
    observed: &Observed,
    desired: &ConfigMap,
    scale: &Scale,
    pinned: &Pinned,
) -> Told {
    let mut told = Told::default();
    let changed = live_desired(app, observed)
        .is_some_and(|live| entry(live, "workers") != entry(desired, "workers"));
    let workers = workers(app);
    let mut wanted: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let want = |pod: &'_ Pod, name: &str, value: &str| {
        if pod.annotations.get(name).map(String::as_str) == Some(value) {
            return None;
        }
        Some((name.to_owned(), value.to_owned()))
    };
    let mut pods: Vec<&Pod> = app_pods(observed).collect();
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    for pod in &pods {
        // One that was never told anything has read the file when it started.
        let known = pod.annotations.contains_key(annotation::WORKERS);
        if known || changed {
            wanted
                .entry(&pod.name)
                .or_default()
                .extend(want(pod, annotation::WORKERS, &workers));
        }
        if scale
            .count
            .as_ref()
            .is_some_and(|count| count.fewer_since.is_some())
            && on_leaving_node(pod, observed, pinned)
        {
            wanted.entry(&pod.name).or_default().extend(want(
                pod,
                annotation::DELETION_COST,
                CHEAP,
            ));
        }
    }
    if let Some(token) = &app.reload {
        let since = annotated(&desired.metadata, annotation::RELOAD_SINCE)
            .and_then(|since| since.parse().ok());
        let next = next_to_reload(&pods, token, since, observed.now, &mut told);
        if let Some(pod) = next {
            let telling = wanted.entry(&pod.name).or_default();
            telling.extend(want(pod, annotation::RELOAD, token));
            telling.extend(want(
                pod,
                annotation::RELOAD_SINCE,
                &observed.now.to_string(),
            ));
            told.wake = Some(RELOAD_PATIENCE);
        }
    }
    told.touch = pods
        .iter()
        .filter_map(|pod| {
            let annotations = wanted
                .remove(pod.name.as_str())
                .filter(|map| !map.is_empty())?;
            Some(PodAnnotations {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                annotations,
            })
        })
        .collect();
    told
}

fn on_leaving_node(pod: &Pod, observed: &Observed, pinned: &Pinned) -> bool {
    let spec = pinned.template.spec.clone().unwrap_or_default();
    let node = pod
        .node
        .as_ref()
        .and_then(|name| observed.nodes.iter().find(|node| node.name == *name));
    pod.node.is_some() && node.is_none_or(|node| !nodes::takes(node, &spec))
}

/// One after the other, and none after one that failed. Pods younger than the
/// wish were born with it.
fn next_to_reload<'a>(
    pods: &[&'a Pod],
    token: &str,
    since: Option<Timestamp>,
    now: Timestamp,
    told: &mut Told,
) -> Option<&'a Pod> {
    for pod in pods {
        if pod
            .created
            .zip(since)
            .is_some_and(|(created, since)| created >= since)
        {
            continue;
        }
        if pod.annotations.get(annotation::RELOAD).map(String::as_str) != Some(token) {
            return Some(pod);
        }
        let told_at = pod
            .annotations
            .get(annotation::RELOAD_SINCE)
            .and_then(|at| at.parse::<Timestamp>().ok());
        let waited = told_at.and_then(|at| Duration::try_from(now.duration_since(at)).ok());
        let supervisor = match &pod.heard {
            Heard::Supervisor(supervisor) => Some(supervisor),
            _ => None,
        };
        if supervisor.is_some_and(|said| said.reload_failed.is_some()) {
            told.reload_failed = true;
            return None;
        }
        let done = supervisor.is_some_and(|said| said.reloaded.as_deref() == Some(token))
            || pod.ready && waited.is_none_or(|waited| waited >= RELOAD_PATIENCE);
        if !done {
            let left = RELOAD_PATIENCE.saturating_sub(waited.unwrap_or_default());
            told.wake = Some(left.max(Duration::from_secs(1)));
            return None;
        }
    }
    None
}
