//! What all objects of Kubernetes have: kind, name, namespace, labels, and fields that the API
//! server writes.

use super::super::report::Scope;
use super::super::tree::Node;

pub(super) fn kind(object: &Node) -> String {
    object.text(&["kind"]).unwrap_or_default()
}

pub(super) fn name(object: &Node) -> String {
    object.text(&["metadata", "name"]).unwrap_or_default()
}

/// Such as `Deployment web`.
pub(super) fn described(object: &Node) -> String {
    format!("{} {}", kind(object), name(object))
}

/// Whether two objects are in the same namespace. An object without a namespace may be in any.
pub(super) fn are_together(one: &Node, other: &Node) -> bool {
    let of = |object: &Node| object.text(&["metadata", "namespace"]);
    match (of(one), of(other)) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    }
}

/// Whether labels contain all of these.
pub(super) fn has_labels(labels: Option<&Node>, wanted: &[(String, Node)]) -> bool {
    let is_there = |(key, value): &(String, Node)| {
        let have = labels.and_then(|labels| labels.get(key));
        have.and_then(Node::scalar) == value.scalar()
    };
    !wanted.is_empty() && wanted.iter().all(is_there)
}

/// Names the fields that the API server and tools have written.
pub(super) fn written_by_the_server(object: &Node, scope: &mut Scope<'_>) {
    for field in [
        "creationTimestamp",
        "uid",
        "resourceVersion",
        "generation",
        "managedFields",
        "selfLink",
        "ownerReferences",
        "finalizers",
    ] {
        let metadata = object.get("metadata").map_or(&[][..], Node::entries);
        if metadata.iter().any(|(key, _)| key == field) {
            let why = "the API server has written it, so it is left out";
            scope.changed(&format!("metadata.{field}"), "", why);
        }
    }
    if object.entries().iter().any(|(key, _)| key == "status") {
        scope.changed(
            "status",
            "",
            "the cluster has written it, so it is left out",
        );
    }
}

/// Whether a label or annotation belongs to a tool that manages the old object.
pub(super) fn is_of_a_tool(key: &str) -> bool {
    let prefix = key.split('/').next().unwrap_or_default();
    [
        "kubectl.kubernetes.io",
        "deployment.kubernetes.io",
        "deprecated.daemonset.template.generation",
        "meta.helm.sh",
        "argocd.argoproj.io",
        "kustomize.toolkit.fluxcd.io",
    ]
    .contains(&prefix)
        || key == "app.kubernetes.io/managed-by"
        || key == "helm.sh/chart"
}

/// Removes what the API server has written.
pub(super) fn cleaned(object: &Node) -> Node {
    let mut object = object.clone();
    object.remove("status");
    if let Some(mut metadata) = object.remove("metadata") {
        let keep = |key: &str| ["name", "namespace", "labels", "annotations"].contains(&key);
        let entries = metadata.entries().iter();
        metadata = Node::Map(entries.filter(|(key, _)| keep(key)).cloned().collect());
        let annotations = metadata.get("annotations").map_or(&[][..], Node::entries);
        let annotations: Vec<_> = annotations
            .iter()
            .filter(|(key, _)| !is_of_a_tool(key))
            .cloned()
            .collect();
        metadata.remove("annotations");
        if !annotations.is_empty() {
            metadata.set(&["annotations"], Node::Map(annotations));
        }
        let spec = object.remove("spec");
        let others: Vec<_> = object.entries().to_vec();
        object = Node::Map(others);
        object.set(&["metadata"], metadata);
        if let Some(spec) = spec {
            object.set(&["spec"], spec);
        }
    }
    object
}
