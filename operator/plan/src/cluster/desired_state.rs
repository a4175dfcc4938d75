//! The desired state of running pods, which changes without a restart: the number of
//! workers, the reload token, and the forwarding tokens.
//!
//! The `ConfigMap` holds the desired state: a container reads its number of workers there when it
//! starts, even if the operator does not run. A running pod reads one of its own annotations, which
//! the downward API keeps in a file. So a change reaches a pod within moments, and pods can reload
//! one after the other. A mounted `ConfigMap` would allow neither, because each kubelet updates its
//! pods' files after a delay of its own, in no order.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use scaledapp_crds::words::{annotation, component};
use scaledapp_http1::Tokens;
use scaledapp_wire::Desired;

use super::meta::{annotate, annotation as annotated, json, map};
use super::pod_template::{Pinned, RELOAD_KEY, TOKEN_KEY, WORKERS_KEY};
use super::selection::app_pods;
use super::workload::Scale;
use super::{Answer, App, Objects, Observed, Pod, PodAnnotations};
use super::{nodes, scaling};
use crate::WorkerCount;

/// How long a pod may take to report the outcome of its reload before the next pod's turn.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A container that starts this soon after a change may still have read the old number:
/// kubelets learn of a changed `ConfigMap` with a delay.
const CONFIG_MAP_DELAY: SignedDuration = SignedDuration::from_secs(30);
/// Deletion cost of a pod on a node that no longer counts: it is deleted before the others.
const DELETED_FIRST: &str = "-100";
const DEFAULT_COST: &str = "0";

/// The number of workers of a pod, in the format of the supervisor's flag.
pub(super) fn workers(app: &App) -> String {
    match app.app.workers.count {
        WorkerCount::PerCore(each) => format!("{each}x"),
        WorkerCount::Count(count) => count.to_string(),
        WorkerCount::Range(min, max) if min == max => max.to_string(),
        WorkerCount::Range(min, max) => format!("{min}..{max}"),
    }
}

fn live<'a>(app: &App, observed: &'a Observed) -> Option<&'a ConfigMap> {
    let name = app.owner().desired();
    let mut maps = observed.live.config_maps.iter();
    maps.find(|map| map.metadata.name.as_deref() == Some(&name))
}

fn entry<'a>(map: &'a ConfigMap, key: &str) -> Option<&'a str> {
    map.data.as_ref()?.get(key).map(String::as_str)
}

/// The stored forwarding tokens, one per line; `None` if there are none or if they are invalid.
pub fn stored_tokens(live: &Objects) -> Option<&str> {
    live.config_maps.iter().find_map(stored)
}

fn stored(map: &ConfigMap) -> Option<&str> {
    let text = entry(map, TOKEN_KEY)?;
    Tokens::parse(text.as_bytes()).is_ok().then_some(text)
}

/// Whether `after` may replace `before`: they must have a token in common, so that pods and
/// balancers accept each other while the files are updated. A person who replaces the token
/// keeps the old one beside the new one for a while.
pub fn is_rotation(before: &str, after: &str) -> bool {
    Tokens::overlap(before, after)
}

/// Whether the number of workers differs from the stored one.
pub(super) fn is_other_number(app: &App, observed: &Observed) -> bool {
    live(app, observed).is_some_and(|live| entry(live, WORKERS_KEY) != Some(&*workers(app)))
}

/// Whether the object has a new reload token.
pub(super) fn is_new_reload(app: &App, observed: &Observed) -> bool {
    app.reload.is_some()
        && live(app, observed).is_some_and(|live| entry(live, RELOAD_KEY) != app.reload.as_deref())
}

/// The `ConfigMap` with the number of workers and the reload token, the times of their last
/// changes, and the forwarding tokens.
pub(super) fn desired(app: &App, observed: &Observed) -> ConfigMap {
    let owner = app.owner();
    let live = live(app, observed);
    let mut metadata = owner.meta(owner.desired(), component::APP);
    let mut since = |name: &str, is_new: bool| {
        let before = live.and_then(|live| annotated(&live.metadata, name));
        let since = if is_new {
            Some(observed.now.to_string())
        } else {
            before.map(ToOwned::to_owned)
        };
        if let Some(since) = since {
            annotate(&mut metadata, name, since);
        }
    };
    since(annotation::WORKERS_SINCE, is_other_number(app, observed));
    if app.reload.is_some() {
        since(
            annotation::RELOAD_SINCE,
            live.is_none() || is_new_reload(app, observed),
        );
    }
    let mut data = map([(WORKERS_KEY, &workers(app))]);
    if let Some(token) = &app.reload {
        data.insert(RELOAD_KEY.to_owned(), token.clone());
    }
    if let Some(token) = observed.token.as_deref().or(live.and_then(stored)) {
        data.insert(TOKEN_KEY.to_owned(), token.to_owned());
    }
    ConfigMap {
        metadata,
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// Annotations for running pods, and when the next pass is due.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PodUpdates {
    pub(super) touch: Vec<PodAnnotations>,
    pub(super) wake: Option<Duration>,
}

pub(super) fn pod_updates(
    app: &App,
    observed: &Observed,
    desired: &ConfigMap,
    scale: &Scale,
    pinned: &Pinned,
) -> PodUpdates {
    let mut pods: Vec<&Pod> = app_pods(observed).collect();
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    let since = |name: &str| {
        annotated(&desired.metadata, name).and_then(|since| since.parse::<Timestamp>().ok())
    };
    let reload = app.reload.as_deref();
    let next = match reload {
        Some(token) => next_to_reload(&pods, token, since(annotation::RELOAD_SINCE), observed.now),
        None => Next::Nobody,
    };
    let wake = match next {
        Next::Nobody => None,
        Next::Pod(_) => Some(RELOAD_TIMEOUT),
        Next::Wait(left) => Some(left),
    };
    let changed = since(annotation::WORKERS_SINCE);
    let costs = scaling::costs(observed);
    let touch = |pod: &&Pod| {
        let token = reload.filter(|_| matches!(next, Next::Pod(name) if name == pod.name));
        let mut annotations = desired_annotations(app, pod, changed, token, observed.now);
        let idle = costs.get(pod.uid.as_str());
        annotations.extend(cost(pod, observed, scale, pinned, idle));
        annotations.retain(|name, value| pod.annotations.get(name) != Some(value));
        (!annotations.is_empty()).then(|| PodAnnotations {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            annotations,
        })
    };
    PodUpdates {
        touch: pods.iter().filter_map(touch).collect(),
        wake,
    }
}

/// The desired-state annotations to set on a pod; none if the pod has them already or started with
/// that state.
fn desired_annotations(
    app: &App,
    pod: &Pod,
    changed: Option<Timestamp>,
    reload: Option<&str>,
    now: Timestamp,
) -> BTreeMap<String, String> {
    let workers = workers(app);
    let stored = |name: &str| pod.annotations.get(name).map(String::as_str);
    let is_older = || {
        changed
            .zip(pod.created)
            .is_some_and(|(changed, created)| created < changed + CONFIG_MAP_DELAY)
    };
    let is_due = match stored(annotation::WORKERS) {
        Some(workers_stored) => workers_stored != workers,
        None => is_older(),
    };
    if !is_due && reload.is_none() {
        return BTreeMap::new();
    }
    let file = Desired {
        reload: reload.or(stored(annotation::RELOAD)).map(ToOwned::to_owned),
        workers: Some(&workers),
    };
    let mut annotations = map([
        (annotation::WORKERS, &*workers),
        (annotation::DESIRED, &json(&file)),
    ]);
    if let Some(token) = reload {
        annotations.insert(annotation::RELOAD.to_owned(), token.to_owned());
        annotations.insert(annotation::RELOAD_SINCE.to_owned(), now.to_string());
    }
    annotations
}

/// The deletion cost of a pod: pods on nodes that no longer count are deleted first, and of those
/// that an autoscaler removes the `idle` ones.
fn cost(
    pod: &Pod,
    observed: &Observed,
    scale: &Scale,
    pinned: &Pinned,
    idle: Option<&String>,
) -> Option<(String, String)> {
    let waiting = scale
        .count
        .as_ref()
        .is_some_and(|count| count.fewer_since.is_some());
    let spec = pinned.template.spec.as_ref()?;
    let node = pod
        .node
        .as_ref()
        .and_then(|name| observed.nodes.iter().find(|node| node.name == *name));
    let leaving =
        waiting && pod.node.is_some() && node.is_none_or(|node| !nodes::takes(node, spec));
    let marked = pod
        .annotations
        .get(annotation::DELETION_COST)
        .is_some_and(|cost| cost == DELETED_FIRST || scaling::is_idlest(cost));
    let cost = match (leaving, idle, marked) {
        (true, _, _) => DELETED_FIRST,
        (false, Some(cost), _) => cost,
        (false, None, true) => DEFAULT_COST,
        (false, None, false) => return None,
    };
    Some((annotation::DELETION_COST.to_owned(), cost.to_owned()))
}

/// The pod whose turn it is to reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next<'a> {
    Nobody,
    Pod(&'a str),
    Wait(Duration),
}

/// Pods reload one after the other; after a failure, no further pod reloads. Pods that are
/// younger than the token started with the new state.
fn next_to_reload<'a>(
    pods: &[&'a Pod],
    token: &str,
    since: Option<Timestamp>,
    now: Timestamp,
) -> Next<'a> {
    for pod in pods {
        let stored = |name: &str| pod.annotations.get(name).map(String::as_str);
        if pod
            .created
            .zip(since)
            .is_some_and(|(created, since)| created >= since)
        {
            continue;
        }
        if stored(annotation::RELOAD) != Some(token) {
            return Next::Pod(&pod.name);
        }
        let at = stored(annotation::RELOAD_SINCE).and_then(|at| at.parse::<Timestamp>().ok());
        let waited = at.and_then(|at| Duration::try_from(now.duration_since(at)).ok());
        let answer = match &pod.answer {
            Answer::Supervisor(answer) => Some(answer),
            _ => None,
        };
        if answer.is_some_and(|answer| answer.reload_failed.is_some()) {
            return Next::Nobody;
        }
        let done = answer.is_some_and(|answer| answer.reloaded.as_deref() == Some(token))
            || pod.ready && waited.is_none_or(|waited| waited >= RELOAD_TIMEOUT);
        if !done {
            let left = RELOAD_TIMEOUT.saturating_sub(waited.unwrap_or_default());
            return Next::Wait(left.max(Duration::from_secs(1)));
        }
    }
    Next::Nobody
}
