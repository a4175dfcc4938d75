//! Merges the user's pod template over the operator's.
//!
//! Kubernetes' own types define which fields exist and how they merge: members of a list that has
//! keys are merged by key, and any other list or value is replaced. A value that allows only one of
//! its members (a probe, a variable) is replaced as a whole. Unknown fields would be dropped
//! silently, so they are refused with their path. Values that would break the operator's own
//! containers are refused, too ([`check`]).

mod check;

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{
    Container, PodSpec, PodTemplateSpec, Probe, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use scaledapp_crds::words::{Reason, annotation, label};
use serde_json::Value;

use super::Stalled;
use super::meta::selects;

pub(super) use super::frame::{APP, BALANCER, CONTAINER, Frame, INSTALL};
use super::frame::{OverlayError, error};

impl From<OverlayError> for Stalled {
    fn from(error: OverlayError) -> Self {
        Self {
            reason: Reason::InvalidPodTemplate,
            message: error.to_string(),
        }
    }
}

/// `overlay` merged over `template`.
pub(super) fn merge(
    mut template: PodTemplateSpec,
    overlay: &Value,
    frame: Frame,
) -> Result<PodTemplateSpec, OverlayError> {
    let root = frame.root;
    let mut overlay = overlay.clone();
    amounts(&mut overlay, root, "")?;
    let overlay = &overlay;
    let mut parsed: PodTemplateSpec =
        serde_path_to_error::deserialize(overlay).map_err(|failure| {
            let path = match failure.path().to_string() {
                path if path == "." => root.to_owned(),
                path => format!("{root}.{path}"),
            };
            error(&path, failure.into_inner().to_string())
        })?;
    let understood =
        serde_json::to_value(&parsed).map_err(|failure| error(root, failure.to_string()))?;
    check::check(overlay, &understood, &parsed, &template, frame)?;
    if let Some(spec) = &mut parsed.spec {
        // The policy is `Always` if it is given: `check` refuses any other.
        spec.restart_policy = None;
        let selector = selector(&template);
        if let Some(ours) = &mut template.spec {
            remove_replaced(ours, spec, &selector);
        }
    }
    join_evictable(&template, &mut parsed);
    template.merge_from(parsed);
    if let Some(spec) = &mut template.spec {
        // The main container comes first: `kubectl logs` and `exec` use the first one.
        spec.containers
            .sort_by_key(|container| container.name != frame.container);
    }
    Ok(template)
}

/// Turns quantities that are numbers into text: the API accepts numbers and text, but Kubernetes'
/// Rust types accept only text.
fn amounts(value: &mut Value, path: &str, name: &str) -> Result<(), OverlayError> {
    let is_map = matches!(name, "requests" | "limits" | "overhead");
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let path = format!("{path}.{field}");
                if is_map || matches!(field.as_str(), "sizeLimit" | "divisor") {
                    amount(value, &path)?;
                } else {
                    amounts(value, &path, field)?;
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            let mut items = items.iter_mut().enumerate();
            items.try_for_each(|(index, item)| amounts(item, &format!("{path}[{index}]"), ""))
        }
        _ => Ok(()),
    }
}

fn amount(value: &mut Value, path: &str) -> Result<(), OverlayError> {
    let text = match &*value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        // A null that counts as absent, or a value that the field's type refuses later.
        _ => return Ok(()),
    };
    if let Err(failure) = text.parse::<scaledapp_crds::Quantity>() {
        return Err(error(path, failure.to_string()));
    }
    *value = Value::String(text);
    Ok(())
}

/// The labels by which a template's pods are selected.
fn selector(template: &PodTemplateSpec) -> LabelSelector {
    let labels = template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.as_ref());
    let selecting = [label::APP, label::INSTANCE, label::COMPONENT];
    let pairs = labels.into_iter().flatten();
    let pairs = pairs.filter(|(name, _)| selecting.contains(&name.as_str()));
    selects(
        pairs
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    )
}

/// Removes from the operator's pod what the user replaces as a whole: a merge would mix the members
/// of two probes, variables or constraints.
fn remove_replaced(ours: &mut PodSpec, theirs: &mut PodSpec, selector: &LabelSelector) {
    let installs = ours.init_containers.iter_mut().flatten();
    for container in ours.containers.iter_mut().chain(installs) {
        let inits = theirs.init_containers.iter().flatten();
        let mut others = theirs.containers.iter().chain(inits);
        if let Some(other) = others.find(|other| other.name == container.name) {
            remove_replaced_of(container, other);
        }
    }
    let Some(constraints) = theirs.topology_spread_constraints.take() else {
        return;
    };
    let known = ours.topology_spread_constraints.get_or_insert_default();
    for constraint in constraints {
        let constraint = TopologySpreadConstraint {
            // A constraint without a selector would count no pods.
            label_selector: constraint.label_selector.or_else(|| Some(selector.clone())),
            ..constraint
        };
        let is_same = |other: &&mut TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key
                && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        match known.iter_mut().find(is_same) {
            Some(ours) => *ours = constraint,
            None => known.push(constraint),
        }
    }
}

fn remove_replaced_of(ours: &mut Container, theirs: &Container) {
    for (ours, theirs) in [
        (&mut ours.liveness_probe, &theirs.liveness_probe),
        (&mut ours.readiness_probe, &theirs.readiness_probe),
        (&mut ours.startup_probe, &theirs.startup_probe),
    ] {
        if theirs.as_ref().is_some_and(has_action) {
            *ours = None;
        }
    }
    for variable in ours.env.iter_mut().flatten() {
        let mut others = theirs.env.iter().flatten();
        if let Some(other) = others.find(|other| other.name == variable.name) {
            // The variable keeps its position, because later variables may refer to it.
            variable.clone_from(other);
        }
    }
}

/// Whether a probe has an action. A probe without an action only changes the times of the
/// operator's probe.
fn has_action(probe: &Probe) -> bool {
    let Probe {
        exec,
        grpc,
        http_get,
        tcp_socket,
        ..
    } = probe;
    exec.is_some() || grpc.is_some() || http_get.is_some() || tcp_socket.is_some()
}

/// Joins the operator's and the user's comma-separated lists of volumes that do not keep a node
/// from being removed.
fn join_evictable(ours: &PodTemplateSpec, theirs: &mut PodTemplateSpec) {
    let name = annotation::EVICTABLE_VOLUMES;
    let ours = ours.metadata.as_ref().and_then(|meta| {
        let annotations = meta.annotations.as_ref()?;
        annotations.get(name)
    });
    let annotations = theirs.metadata.as_mut();
    let annotations = annotations.and_then(|meta| meta.annotations.as_mut());
    if let (Some(ours), Some(volumes)) = (ours, annotations.and_then(|all| all.get_mut(name))) {
        let known = volumes.split(',').any(|volume| volume.trim() == ours);
        if volumes.trim().is_empty() {
            volumes.clone_from(ours);
        } else if !known {
            *volumes = format!("{ours},{volumes}");
        }
    }
}
