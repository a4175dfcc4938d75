//! How many pods `perNode` means in this cluster.
//!
//! A node counts if the pod could be placed there: the node's labels match the pod's selectors, the
//! pod tolerates the node's taints, and the node is not cordoned. A node that is unwell
//! (`NotReady`, under pressure) counts with the pods that it has; otherwise a short outage would
//! delete pods elsewhere.
//!
//! A pending pod makes a cluster autoscaler add a node. The new node would then count for another
//! pod, and so on without end. So the operator asks for no pod that only a new node could take.
//! The only exception is the first pod, which lets a cluster without nodes add a node. A node
//! counts for no more pods than fit on it. If the scheduler refuses a pod although it should fit,
//! the operator remembers the nodes that lack a pod, together with their properties. It counts a
//! node again when the node's properties change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use scaledapp_crds::words::{Reason, annotation};

use super::frame::SYSTEM;
use super::meta::{annotation as annotated, hash};
use super::selection::app_pods;
use super::{Node, Observed, Pod, Resources};

/// How long pods stay on nodes that no longer count. A cordon is often the beginning of a
/// drain, and an eviction respects disruption budgets, which a deletion does not.
pub(super) const LEAVING_TIMEOUT: Duration = Duration::from_mins(1);
/// A refusal counts once the refused pod is this old: a scheduler may see a new node a moment
/// later than the operator does.
const REFUSED_AFTER: Duration = Duration::from_secs(1);
/// A refusal counts as lasting once the refused pod is this old. The scheduler retries a refused
/// pod with growing pauses, even if a node gets room in the meantime; this time is longer than
/// the longest pause.
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the operator checks whether a full node has room again.
const ROOM_INTERVAL: Duration = Duration::from_secs(15);
/// How many nodes are remembered at most: the annotations of an object may have 256 KiB together.
const MAX_REMEMBERED: usize = 8192;

/// How many pods there should be, and what the operator has to remember for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Count {
    /// Pods to ask for; at least 1, even in a drained cluster.
    pub(super) pods: u32,
    /// Nodes that have a pod or get one; at least 1.
    pub(super) nodes: u32,
    /// Nodes that lack a pod and cannot take one, as [`annotation::FULL_NODES`] stores them.
    pub(super) full: Option<String>,
    /// The time since which there are pods on nodes that no longer count.
    pub(super) fewer_since: Option<Timestamp>,
    /// When to count again.
    pub(super) wake: Option<Duration>,
    /// No node takes the pod, whether it has room or not.
    pub(super) none: bool,
}

/// Why a node that lacks a pod does not count for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    /// The node has no room. It counts again once it has room.
    NoRoom,
    /// The scheduler refused the pod, and the operator does not know the node's free resources.
    Refused,
    /// The scheduler refused the pod although there is room. The node counts again once it changes.
    Other,
}

/// The number of pods for `per_node` pods on each node.
pub(super) fn count(
    observed: &Observed,
    per_node: u32,
    pod: &PodSpec,
    live: Option<&Deployment>,
) -> Count {
    let now = observed.now;
    let mut pods_on: BTreeMap<&str, u32> = BTreeMap::new();
    for node in app_pods(observed).filter_map(|pod| pod.node.as_deref()) {
        *pods_on.entry(node).or_default() += 1;
    }
    let holds = |name: &str| pods_on.get(name).copied().unwrap_or_default().min(per_node);
    let refused = Refused::of(observed);
    let before = live
        .and_then(|live| annotated(&live.metadata, annotation::FULL_NODES))
        .map(remembered)
        .unwrap_or_default();
    let mut full = BTreeSet::new();
    let (mut pods, mut missing, mut nodes, mut all) = (0_u32, 0_u32, 0_u32, 0_u32);
    for node in observed.nodes.iter().filter(|node| takes(node, pod)) {
        all += 1;
        let holds = holds(&node.name);
        let mut more = 0;
        if is_well(node, pod) && holds < per_node {
            let print = fingerprint(node);
            let room = free_for(node, observed, pod);
            let known = before.get(&*print).copied();
            if let Some(why) = why_full(known, room, &refused) {
                full.insert(format!("{print}{}", why.letter()));
            } else {
                more = room.unwrap_or(u32::MAX).min(per_node - holds);
            }
        }
        missing = missing.saturating_add(more);
        pods = pods.saturating_add(holds + more);
        nodes += u32::from(holds + more > 0);
    }
    let leaving: u32 = pods_on
        .keys()
        .filter(|name| {
            let node = observed.nodes.iter().find(|node| node.name == **name);
            node.is_none_or(|node| !takes(node, pod))
        })
        .map(|name| holds(name))
        .sum();
    let since = live
        .and_then(|live| {
            annotated(&live.metadata, annotation::FEWER_SINCE)?
                .parse()
                .ok()
        })
        .unwrap_or(now);
    let timeout = SignedDuration::try_from(LEAVING_TIMEOUT).unwrap_or_default();
    let left = Duration::try_from(timeout - now.duration_since(since)).unwrap_or_default();
    let waits = leaving > 0 && !left.is_zero();
    // After the timeout, pods on nodes that no longer count are kept only until their successors
    // run elsewhere.
    pods = pods.saturating_add(if waits { leaving } else { leaving.min(missing) });
    let wakes = [
        waits.then_some(left),
        refused.wake,
        (!full.is_empty()).then_some(ROOM_INTERVAL),
    ];
    let full: Vec<String> = full.into_iter().take(MAX_REMEMBERED).collect();
    Count {
        pods: pods.max(1),
        nodes: nodes.max(1),
        full: (!full.is_empty()).then(|| full.join(" ")),
        fewer_since: (leaving > 0).then_some(since),
        wake: wakes.into_iter().flatten().min(),
        none: all == 0,
    }
}

/// Why a node that lacks a pod does not count for one, from what was remembered, how many pods fit,
/// and what the scheduler reports.
fn why_full(known: Option<Full>, room: Option<u32>, refused: &Refused) -> Option<Full> {
    match (known, room) {
        (Some(Full::Other), _) => Some(Full::Other),
        (_, Some(0)) => Some(Full::NoRoom),
        (_, Some(_)) => refused.for_long.then_some(Full::Other),
        (_, None) if refused.now => Some(Full::Refused),
        (known, None) => known,
    }
}

/// What the scheduler reports about pending pods.
struct Refused {
    /// The scheduler refuses a pod, and a late watch no longer explains the refusal.
    now: bool,
    /// The scheduler has refused a pod for so long that neither a late watch nor a retry pause
    /// explains it.
    for_long: bool,
    wake: Option<Duration>,
}

impl Refused {
    fn of(observed: &Observed) -> Self {
        let age = oldest_refused(observed);
        let over = |limit: Duration| age.is_some_and(|age| age >= limit);
        let left = |limit: Duration| Some(limit.saturating_sub(age?)).filter(|it| !it.is_zero());
        Self {
            now: over(REFUSED_AFTER),
            for_long: over(RETRY_TIMEOUT),
            wake: left(REFUSED_AFTER).or(left(RETRY_TIMEOUT)),
        }
    }
}

/// The age of the oldest pod that the scheduler refuses; `None` if it refuses none.
pub(super) fn oldest_refused(observed: &Observed) -> Option<Duration> {
    let is_refused = |pod: &&Pod| {
        let failure = pod.failure.as_ref();
        failure.is_some_and(|failure| failure.reason == Reason::Unschedulable)
    };
    let age = |pod: &Pod| {
        let created = pod.created.unwrap_or(observed.now);
        Duration::try_from(observed.now.duration_since(created)).unwrap_or_default()
    };
    app_pods(observed).filter(is_refused).map(age).max()
}

/// Whether some node that takes the pod has no room for one more. In a rollout, a pod's successor
/// needs that room beside it.
pub(super) fn is_one_full(observed: &Observed, pod: &PodSpec) -> bool {
    let mut nodes = observed.nodes.iter().filter(|node| takes(node, pod));
    nodes.any(|node| free_for(node, observed, pod) == Some(0))
}

/// How many more pods fit onto a node; `None` if unknown.
fn free_for(node: &Node, observed: &Observed, pod: &PodSpec) -> Option<u32> {
    let used = observed.used.get(&node.name).copied();
    if node.offers == Resources::default() {
        return None;
    }
    let fits = node.offers.fits(used.unwrap_or_default(), pod);
    // If `fits` is 0 although `used` is unknown, the pod would not even fit onto the empty node.
    (used.is_some() || fits == 0).then_some(fits)
}

/// Nodes that lack a pod and could take it if they have room, with the number of the app's pods on
/// each. The operator looks up their free resources before it asks for a pod.
pub(super) fn lacking<'a>(
    observed: &'a Observed,
    wanted: u32,
    pod: &PodSpec,
) -> Vec<(&'a str, u32)> {
    let held = |node: &Node| {
        let mut pods = app_pods(observed).filter(|pod| pod.node.as_ref() == Some(&node.name));
        pods.by_ref().count() as u32
    };
    let mut lacking = Vec::new();
    for node in &observed.nodes {
        let tells = node.offers != Resources::default();
        if tells && takes(node, pod) && is_well(node, pod) {
            let held = held(node);
            if held < wanted {
                lacking.push((node.name.as_str(), held));
            }
        }
    }
    lacking
}

impl Full {
    fn letter(self) -> char {
        match self {
            Self::NoRoom => 'f',
            Self::Refused => 'r',
            Self::Other => 'o',
        }
    }
}

fn remembered<'a>(text: &'a str) -> BTreeMap<&'a str, Full> {
    let read = |entry: &'a str| {
        [Full::NoRoom, Full::Refused, Full::Other]
            .into_iter()
            .find_map(|full| Some((entry.strip_suffix(full.letter())?, full)))
    };
    text.split(' ').filter_map(read).collect()
}

/// A hash of the lasting properties that decide whether a node takes a pod: name, labels, taints
/// and resources. The hash does not cover what runs on the node, nor whether the node is ready or
/// cordoned.
fn fingerprint(node: &Node) -> String {
    let Node {
        name,
        schedulable: _,
        ready: _,
        labels,
        taints,
        offers,
    } = node;
    let text = format!("{name} {labels:?} {taints:?} {offers:?}");
    hash(text.as_bytes())[..8].to_owned()
}

/// Whether the pod may be placed on the node when the node is well.
pub(super) fn takes(node: &Node, pod: &PodSpec) -> bool {
    let selected = pod
        .node_selector
        .iter()
        .flatten()
        // Templates of older operators have no such selector.
        .filter(|(key, _)| *key != SYSTEM)
        .all(|(key, value)| node.labels.get(key) == Some(value));
    let affinity = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let system = node.labels.get(SYSTEM);
    let mut lasting = node.taints.iter().filter(|taint| !is_passing(taint));
    node.schedulable
        && system.is_none_or(|system| system == "linux")
        && selected
        && required.is_none_or(|required| selects(required, node))
        && lasting.all(|taint| is_tolerated(taint, pod))
}

fn is_well(node: &Node, pod: &PodSpec) -> bool {
    let mut passing = node.taints.iter().filter(|taint| is_passing(taint));
    node.ready && passing.all(|taint| is_tolerated(taint, pod))
}

/// Whether Kubernetes itself sets the taint while a node is unwell or starts.
fn is_passing(taint: &Taint) -> bool {
    const LASTING: [&str; 2] = [
        "node.kubernetes.io/unschedulable",
        "node.kubernetes.io/out-of-service",
    ];
    let key = taint.key.as_str();
    key.starts_with("node.kubernetes.io/") && !LASTING.contains(&key)
        || key.starts_with("node.cloudprovider.kubernetes.io/")
}

fn is_tolerated(taint: &Taint, pod: &PodSpec) -> bool {
    taint.effect == "PreferNoSchedule"
        || pod
            .tolerations
            .iter()
            .flatten()
            .any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || key.is_empty() && exists)
        && (exists || value == taint.value.as_deref().unwrap_or_default())
}

/// Terms are alternatives; all expressions of a term must hold.
fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| {
        let NodeSelectorTerm {
            match_expressions,
            match_fields,
        } = term;
        let labels = match_expressions.iter().flatten();
        let fields = match_fields.iter().flatten();
        (match_expressions.is_some() || match_fields.is_some())
            && labels
                .clone()
                .all(|rule| holds(rule, node.labels.get(&rule.key)))
            && fields
                .clone()
                .all(|rule| rule.key == "metadata.name" && holds(rule, Some(&node.name)))
    })
}

fn holds(rule: &NodeSelectorRequirement, found: Option<&String>) -> bool {
    let values = rule.values.as_deref().unwrap_or_default();
    let listed = found.is_some_and(|found| values.contains(found));
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    let compared = number(found).zip(number(values.first()));
    match rule.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared.is_some_and(|(found, limit)| found > limit),
        "Lt" => compared.is_some_and(|(found, limit)| found < limit),
        _ => false,
    }
}
