//! What running pods are told without a restart: how many workers, to reload, and
//! what balancers of the app show them.
//!
//! The `ConfigMap` is the truth: a container reads its number of workers there
//! when it starts, even while the operator is away. A running pod reads one of
//! its own annotations, which the downward API keeps in a file: so each pod is
//! told at once, and a reload can go pod by pod. A mounted `ConfigMap` could do
//! neither: the kubelet brings it to all pods when it likes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use scaledapp_crds::words::{annotation, component};
use scaledapp_http1::Tokens;
use scaledapp_wire::Desired;

use super::meta::{annotate, annotation as annotated, json, map};
use super::nodes;
use super::pod_template::{Pinned, RELOAD_KEY, TOKEN_KEY, WORKERS_KEY};
use super::selection::app_pods;
use super::workload::Scale;
use super::{App, Heard, Objects, Observed, Pod, PodAnnotations};
use crate::WorkerCount;

/// A pod that is told to reload and does not say how it went is given this long.
const RELOAD_PATIENCE: Duration = Duration::from_secs(15);
/// A container that starts so soon after a change may have read the number
/// before it: kubelets learn of a `ConfigMap` a little later.
const LATE: SignedDuration = SignedDuration::from_secs(30);
/// Cost of a pod on a node that no longer counts: deleted before the others.
const CHEAP: &str = "-100";
const USUAL: &str = "0";

/// The workers of a pod in the supervisor's words.
pub(super) fn workers(app: &App) -> String {
    match app.app.workers.count {
        WorkerCount::PerCore(each) => format!("{each}x"),
        WorkerCount::Count(count) => count.to_string(),
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

/// The tokens that are stored, one a line, if balancers and pods can use them.
pub fn stored_tokens(live: &Objects) -> Option<&str> {
    live.config_maps.iter().find_map(stored)
}

fn stored(map: &ConfigMap) -> Option<&str> {
    let text = entry(map, TOKEN_KEY)?;
    Tokens::parse(text.as_bytes()).is_ok().then_some(text)
}

/// Whether `after` may take the place of `before`: they have a token in common, so that
/// pods and balancers understand each other while the files reach them. A person who
/// replaces the token writes the old one and the new one for a while.
pub fn is_rotation(before: &str, after: &str) -> bool {
    Tokens::overlap(before, after)
}

/// Whether the number of workers is another one than before.
pub(super) fn is_other_number(app: &App, observed: &Observed) -> bool {
    live(app, observed).is_some_and(|live| entry(live, WORKERS_KEY) != Some(&*workers(app)))
}

/// Whether a reload is asked for that was not asked for before.
pub(super) fn is_new_reload(app: &App, observed: &Observed) -> bool {
    app.reload.is_some()
        && live(app, observed).is_some_and(|live| entry(live, RELOAD_KEY) != app.reload.as_deref())
}

/// The truth about workers and reload, and since when it is so; and the token.
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

/// Annotations for running pods, and when to look again.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Told {
    pub(super) touch: Vec<PodAnnotations>,
    pub(super) wake: Option<Duration>,
}

pub(super) fn tell(
    app: &App,
    observed: &Observed,
    desired: &ConfigMap,
    scale: &Scale,
    pinned: &Pinned,
) -> Told {
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
        Next::Pod(_) => Some(RELOAD_PATIENCE),
        Next::Wait(left) => Some(left),
    };
    let changed = since(annotation::WORKERS_SINCE);
    let touch = |pod: &&Pod| {
        let token = reload.filter(|_| matches!(next, Next::Pod(name) if name == pod.name));
        let mut annotations = wishes(app, pod, changed, token, observed.now);
        annotations.extend(cost(pod, observed, scale, pinned));
        annotations.retain(|name, value| pod.annotations.get(name) != Some(value));
        (!annotations.is_empty()).then(|| PodAnnotations {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            annotations,
        })
    };
    Told {
        touch: pods.iter().filter_map(touch).collect(),
        wake,
    }
}

/// What the pod's supervisor is to know; nothing where it knows, or started
/// with it.
fn wishes(
    app: &App,
    pod: &Pod,
    changed: Option<Timestamp>,
    reload: Option<&str>,
    now: Timestamp,
) -> BTreeMap<String, String> {
    let workers = workers(app);
    let told = |name: &str| pod.annotations.get(name).map(String::as_str);
    let is_older = || {
        changed
            .zip(pod.created)
            .is_some_and(|(changed, created)| created < changed + LATE)
    };
    let is_due = match told(annotation::WORKERS) {
        Some(told) => told != workers,
        None => is_older(),
    };
    if !is_due && reload.is_none() {
        return BTreeMap::new();
    }
    let file = Desired {
        reload: reload.or(told(annotation::RELOAD)).map(ToOwned::to_owned),
        workers: Some(&workers),
    };
    let mut wishes = map([
        (annotation::WORKERS, &*workers),
        (annotation::DESIRED, &json(&file)),
    ]);
    if let Some(token) = reload {
        wishes.insert(annotation::RELOAD.to_owned(), token.to_owned());
        wishes.insert(annotation::RELOAD_SINCE.to_owned(), now.to_string());
    }
    wishes
}

/// Pods on nodes that are about to stop counting go first.
fn cost(
    pod: &Pod,
    observed: &Observed,
    scale: &Scale,
    pinned: &Pinned,
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
        .is_some_and(|cost| cost == CHEAP);
    let cost = match (leaving, marked) {
        (true, _) => CHEAP,
        (false, true) => USUAL,
        (false, false) => return None,
    };
    Some((annotation::DELETION_COST.to_owned(), cost.to_owned()))
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next<'a> {
    Nobody,
    Pod(&'a str),
    Wait(Duration),
}

/// One after the other, and none after one that failed. Pods younger than the
/// wish were born with it.
fn next_to_reload<'a>(
    pods: &[&'a Pod],
    token: &str,
    since: Option<Timestamp>,
    now: Timestamp,
) -> Next<'a> {
    for pod in pods {
        let told = |name: &str| pod.annotations.get(name).map(String::as_str);
        if pod
            .created
            .zip(since)
            .is_some_and(|(created, since)| created >= since)
        {
            continue;
        }
        if told(annotation::RELOAD) != Some(token) {
            return Next::Pod(&pod.name);
        }
        let at = told(annotation::RELOAD_SINCE).and_then(|at| at.parse::<Timestamp>().ok());
        let waited = at.and_then(|at| Duration::try_from(now.duration_since(at)).ok());
        let said = match &pod.heard {
            Heard::Supervisor(said) => Some(said),
            _ => None,
        };
        if said.is_some_and(|said| said.reload_failed.is_some()) {
            return Next::Nobody;
        }
        let done = said.is_some_and(|said| said.reloaded.as_deref() == Some(token))
            || pod.ready && waited.is_none_or(|waited| waited >= RELOAD_PATIENCE);
        if !done {
            let left = RELOAD_PATIENCE.saturating_sub(waited.unwrap_or_default());
            return Next::Wait(left.max(Duration::from_secs(1)));
        }
    }
    Next::Nobody
}
