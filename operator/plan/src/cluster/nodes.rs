//! How many pods "so many on each node" are.
//!
//! A node counts if the pod could be placed there: its labels match the pod's
//! selectors, the pod tolerates its taints, and nobody has cordoned it. A node
//! that is only unwell (`NotReady`, under pressure) keeps counting, or a short
//! outage would delete pods elsewhere; it does not start to count either.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use scaledapp_crds::words::annotation;

use super::Node;
use super::meta::annotation as annotated;

/// How long fewer nodes are waited out before pods are taken away: a cordon is
/// often the beginning of a drain, which evicts more gently.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// How many nodes are counted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Count {
    /// Counted on now; at least 1, so that a drained cluster still asks for a pod.
    pub(super) nodes: u32,
    /// Since when there are fewer, as long as that is waited out.
    pub(super) fewer_since: Option<Timestamp>,
    /// When to look again.
    pub(super) wake: Option<Duration>,
    /// No node takes the pod at all.
    pub(super) none: bool,
}

/// Nodes to count on, given how many were before.
pub(super) fn count(
    nodes: &[Node],
    pod: &PodSpec,
    live: Option<&Deployment>,
    now: Timestamp,
) -> Count {
    let mut matching = nodes.iter().filter(|node| takes(node, pod));
    let all = matching.clone().count() as u32;
    let ready = matching.by_ref().filter(|node| is_well(node, pod)).count() as u32;
    let meta = live.map(|live| &live.metadata);
    let before: Option<u32> =
        meta.and_then(|meta| annotated(meta, annotation::NODES)?.parse().ok());
    let since: Option<Timestamp> =
        meta.and_then(|meta| annotated(meta, annotation::FEWER_SINCE)?.parse().ok());
    let settled = |nodes: u32| Count {
        nodes: nodes.max(1),
        fewer_since: None,
        wake: None,
        none: all == 0,
    };
    match before {
        None => settled(ready),
        Some(before) if before <= ready => settled(ready),
        // Some of those counted on are unwell.
        Some(before) if before <= all.max(1) => settled(before),
        Some(before) => {
            let since = since.unwrap_or(now);
            let patience = SignedDuration::try_from(PATIENCE).unwrap_or_default();
            let left = patience - now.duration_since(since);
            if left <= SignedDuration::ZERO {
                return settled(all);
            }
            Count {
                nodes: before,
                fewer_since: Some(since),
                wake: Duration::try_from(left).ok(),
                none: all == 0,
            }
        }
    }
}

/// Whether the pod belongs on the node, if the node is well.
pub(super) fn takes(node: &Node, pod: &PodSpec) -> bool {
    let selected = pod
        .node_selector
        .iter()
        .flatten()
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
    let mut lasting = node.taints.iter().filter(|taint| !is_passing(taint));
    node.schedulable
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
