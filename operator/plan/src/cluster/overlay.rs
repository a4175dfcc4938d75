//! The user's `podTemplate` laid over our pod template.
//!
//! Kubernetes' own types say what exists and what merges how: lists with keys
//! by their keys, everything else replaced. What they do not know would vanish
//! without a word, so it is refused with its path.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// Name of the container that runs the app.
pub(super) const CONTAINER: &str = "app";

/// Fields of the app's container that the object says elsewhere.
const ELSEWHERE: [(&str, &str); 4] = [
    ("command", "say it in spec.command"),
    ("args", "say it in spec.args"),
    ("image", "say it in spec.image"),
    ("ports", "say it in spec.port"),
];

/// Where the overlay is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub(super) struct OverlayError {
    path: String,
    message: String,
}

fn error(path: &str, message: impl Into<String>) -> OverlayError {
    OverlayError {
        path: path.to_owned(),
        message: message.into(),
    }
}

/// `overlay` over `template`, except for what only we know: labels that select,
/// and the whole of `ours` (init container, command, mounts) once more on top.
pub(super) fn merge(
    mut template: PodTemplateSpec,
    overlay: &Value,
) -> Result<PodTemplateSpec, OverlayError> {
    let root = "spec.podTemplate";
    let parsed: PodTemplateSpec = serde_path_to_error::deserialize(overlay).map_err(|failure| {
        let path = match failure.path().to_string() {
            path if path == "." => root.to_owned(),
            path => format!("{root}.{path}"),
        };
        error(&path, failure.into_inner().to_string())
    })?;
    let understood =
        serde_json::to_value(&parsed).map_err(|failure| error(root, failure.to_string()))?;
    if let Some(path) = unknown(overlay, &understood, root) {
        return Err(error(
            &path,
            "there is no such field in a pod template: `kubectl explain deployment.spec.template` lists them",
        ));
    }
    check(&parsed, overlay)?;
    let ours = template.clone();
    template.merge_from(parsed);
    keep_ours(&mut template, &ours);
    Ok(template)
}

/// The first member of `written` that is missing in what was understood of it.
fn unknown(written: &Value, understood: &Value, path: &str) -> Option<String> {
    match (written, understood) {
        (Value::Object(written), understood) => written.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match understood.get(name) {
                Some(understood) => unknown(value, understood, &path),
                None if is_empty(value) => None,
                None => Some(path),
            }
        }),
        (Value::Array(written), Value::Array(understood)) => {
            let mut pairs = written.iter().zip(understood).enumerate();
            pairs.find_map(|(index, (value, understood))| {
                unknown(value, understood, &format!("{path}[{index}]"))
            })
        }
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn check(overlay: &PodTemplateSpec, written: &Value) -> Result<(), OverlayError> {
    let Some(spec) = &overlay.spec else {
        return Ok(());
    };
    let lists = [
        ("containers", Some(&spec.containers)),
        ("initContainers", spec.init_containers.as_ref()),
    ];
    for (list, containers) in lists {
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let path = format!("spec.podTemplate.spec.{list}[{index}]");
            if container.name.is_empty() {
                return Err(error(
                    &format!("{path}.name"),
                    "is missing: `app` is the app's container, any other name a container of your own",
                ));
            }
            if list == "containers" && container.name == CONTAINER {
                let written = &written["spec"][list][index];
                for (field, cure) in ELSEWHERE {
                    if written.get(field).is_some() {
                        return Err(error(
                            &format!("{path}.{field}"),
                            format!("the supervisor starts the app: {cure}"),
                        ));
                    }
                }
            } else if container.image.is_none() && container.name != INSTALL {
                return Err(error(
                    &format!("{path}.image"),
                    "is missing: a container of your own needs an image",
                ));
            }
        }
    }
    if spec
        .restart_policy
        .as_deref()
        .is_some_and(|policy| policy != "Always")
    {
        return Err(error(
            "spec.podTemplate.spec.restartPolicy",
            "a Deployment knows Always only: leave it out",
        ));
    }
    Ok(())
}

/// Name of the init container that brings the supervisor.
pub(super) const INSTALL: &str = "scaledapp-install";

/// Puts back what must be ours: without it nothing of the rest would work.
fn keep_ours(template: &mut PodTemplateSpec, ours: &PodTemplateSpec) {
    let meta = ours.metadata.clone().unwrap_or_default();
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.extend(meta.labels.unwrap_or_default());
    let annotations = template
        .metadata
        .get_or_insert_default()
        .annotations
        .get_or_insert_default();
    annotations.extend(meta.annotations.unwrap_or_default());
    let (Some(spec), Some(ours)) = (&mut template.spec, &ours.spec) else {
        return;
    };
    spec.restart_policy = None;
    for volume in ours.volumes.iter().flatten() {
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|other| other.name != volume.name);
        volumes.push(volume.clone());
    }
    let installs = ours.init_containers.clone().unwrap_or_default();
    let inits = spec.init_containers.get_or_insert_default();
    inits.retain(|container| installs.iter().all(|ours| ours.name != container.name));
    inits.splice(0..0, installs);
    for container in &mut spec.containers {
        let Some(ours) = ours
            .containers
            .iter()
            .find(|ours| ours.name == container.name)
        else {
            continue;
        };
        container.command.clone_from(&ours.command);
        container.args.clone_from(&ours.args);
        for mount in ours.volume_mounts.iter().flatten() {
            let mounts = container.volume_mounts.get_or_insert_default();
            mounts.retain(|other| other.mount_path != mount.mount_path);
            mounts.push(mount.clone());
        }
    }
    // The app first: it is what `kubectl logs` and `exec` mean.
    spec.containers
        .sort_by_key(|container| container.name != CONTAINER);
}
