//! How many pods "so many on each node" are.
//!
//! A node counts if the pod could be placed there: its labels match the pod's
//! selectors, the pod tolerates its taints, and nobody has cordoned it. A node
//! that is only unwell (`NotReady`, under pressure) counts with the pods that it
//! has, or a short outage would delete pods elsewhere.
//!
//! A pod that waits for a node makes a cluster autoscaler add one, and the new
//! node would ask for a pod of its own: for ever. So no pod is asked for that
//! only a new node takes. A node counts for no more pods than it has room for;
//! where a pod is refused all the same, the nodes that lack one are remembered
//! with what is known of them, and count again when that changes. One pod is
//! asked for in any case, so that a cluster without a node can grow one.

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
use super::{Node, Observed, Pod, Room};

/// How long pods stay on nodes that no longer count: a cordon is often the
/// beginning of a drain, which evicts more gently.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
/// A scheduler may see a new node a moment later than we do.
const REFUSED: Duration = Duration::from_secs(1);
/// A pod that was refused is tried again ever later, and at most so much later,
/// though a node has room by now.
const REFUSED_ALL_THE_SAME: Duration = Duration::from_secs(15);
/// Between looks whether a full node has room again.
const ROOM_AGAIN: Duration = Duration::from_secs(15);
/// Nodes that are remembered: an annotation holds 256 KiB.
const MOST_REMEMBERED: usize = 8192;

/// How many pods there shall be, and what has to be remembered for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Count {
    /// Pods; at least 1, so that a drained cluster still asks for one.
    pub(super) pods: u32,
    /// Nodes that count in full.
    pub(super) nodes: u32,
    /// Nodes that lack a pod and take none, in the words of [`annotation::FULL_NODES`].
    pub(super) full: Option<String>,
    /// Since when pods are on nodes that no longer count.
    pub(super) fewer_since: Option<Timestamp>,
    /// When to look again.
    pub(super) wake: Option<Duration>,
    /// No node takes the pod at all.
    pub(super) none: bool,
}

/// Why a node that lacks a pod is not asked to take one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    /// It has no room. Counts again once it has.
    NoRoom,
    /// The scheduler refused, and nobody knows how much room there is.
    Refused,
    /// The scheduler refused although there is room. Counts again once the node changes.
    Other,
}

/// The pods to ask for, so many on each node.
pub(super) fn count(
    observed: &Observed,
    per_node: u32,
    pod: &PodSpec,
    live: Option<&Deployment>,
) -> Count {
    let now = observed.now;
    let mut held: BTreeMap<&str, u32> = BTreeMap::new();
    for node in app_pods(observed).filter_map(|pod| pod.node.as_deref()) {
        *held.entry(node).or_default() += 1;
    }
    let holds = |name: &str| held.get(name).copied().unwrap_or_default().min(per_node);
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
            let room = room(node, observed, pod);
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
    let leaving: u32 = held
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
    let patience = SignedDuration::try_from(PATIENCE).unwrap_or_default();
    let left = Duration::try_from(patience - now.duration_since(since)).unwrap_or_default();
    let waits = leaving > 0 && !left.is_zero();
    // After that they stay until their successors are placed elsewhere.
    pods = pods.saturating_add(if waits { leaving } else { leaving.min(missing) });
    let wakes = [
        waits.then_some(left),
        refused.wake,
        (!full.is_empty()).then_some(ROOM_AGAIN),
    ];
    let full: Vec<String> = full.into_iter().take(MOST_REMEMBERED).collect();
    Count {
        pods: pods.max(1),
        nodes: nodes.max(1),
        full: (!full.is_empty()).then(|| full.join(" ")),
        fewer_since: (leaving > 0).then_some(since),
        wake: wakes.into_iter().flatten().min(),
        none: all == 0,
    }
}

/// Why a node that lacks a pod is not asked for one, given what was known of it, how
/// many fit, and what the scheduler says.
fn why_full(known: Option<Full>, room: Option<u32>, refused: &Refused) -> Option<Full> {
    match (known, room) {
        (Some(Full::Other), _) => Some(Full::Other),
        (_, Some(0)) => Some(Full::NoRoom),
        (_, Some(_)) => refused.for_long.then_some(Full::Other),
        (_, None) if refused.now => Some(Full::Refused),
        (known, None) => known,
    }
}

/// What a scheduler says of the pods that wait.
struct Refused {
    /// One is refused; all nodes have been looked at.
    now: bool,
    /// So long that no haste or backoff of the scheduler explains it.
    for_long: bool,
    wake: Option<Duration>,
}

impl Refused {
    fn of(observed: &Observed) -> Self {
        let age = oldest_refused(observed);
        let over = |limit: Duration| age.is_some_and(|age| age >= limit);
        let left = |limit: Duration| Some(limit.saturating_sub(age?)).filter(|it| !it.is_zero());
        Self {
            now: over(REFUSED),
            for_long: over(REFUSED_ALL_THE_SAME),
            wake: left(REFUSED).or(left(REFUSED_ALL_THE_SAME)),
        }
    }
}

/// For how long the scheduler has refused one of the pods.
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

/// Whether a node that has a pod has no room for its successor beside it.
pub(super) fn is_one_full(observed: &Observed, pod: &PodSpec) -> bool {
    let mut nodes = observed.nodes.iter().filter(|node| takes(node, pod));
    nodes.any(|node| room(node, observed, pod) == Some(0))
}

/// How many more pods fit onto a node, as far as that is known.
fn room(node: &Node, observed: &Observed, pod: &PodSpec) -> Option<u32> {
    let used = observed.used.get(&node.name).copied();
    if node.offers == Room::default() {
        return None;
    }
    let fits = node.offers.fits(used.unwrap_or_default(), pod);
    // Even an empty one would be too small.
    (used.is_some() || fits == 0).then_some(fits)
}

/// Nodes that could take a pod more, if they have room, and how many they hold: it
/// has to be looked at before a pod is asked for.
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
        let tells = node.offers != Room::default();
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

/// Of all that decides whether a node takes a pod, but for what runs there.
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

/// Whether the pod belongs on the node, if the node is well.
pub(super) fn takes(node: &Node, pod: &PodSpec) -> bool {
    let selected = pod
        .node_selector
        .iter()
        .flatten()
        // Templates of older operators do not ask for it: see below.
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

/// Set by Kubernetes itself while a node is unwell, or starts.
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
