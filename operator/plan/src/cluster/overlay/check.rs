//! What a user's pod template may not contain: unknown fields, duplicates, and anything that would
//! break the operator's own containers. Each error has its path and the cure.

use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use scaledapp_crds::words::label;
use serde_json::Value;

use super::super::drift::{is_empty, keys};
use super::{Frame, INSTALL, OverlayError, error};

/// The prefix of the operator's own labels and annotations.
const OWN_PREFIX: &str = "scaledapp.io/";
/// The operator's labels that no selector uses: a user may change their values.
const FREE_LABELS: [&str; 2] = [label::NAME, label::PART_OF];
/// The fields that a user may set for the init container that installs the supervisor.
const OF_INSTALL: [&str; 7] = [
    "name",
    "resources",
    "securityContext",
    "imagePullPolicy",
    "env",
    "terminationMessagePath",
    "terminationMessagePolicy",
];

/// Checks the template `written`, which was read as `understood` and `parsed`, before it is
/// merged over `ours`.
pub(super) fn check(
    written: &Value,
    understood: &Value,
    parsed: &PodTemplateSpec,
    ours: &PodTemplateSpec,
    frame: Frame,
) -> Result<(), OverlayError> {
    let root = frame.root;
    if let Some(path) = unknown(written, understood, root) {
        return Err(error(
            &path,
            "there is no such field in a pod template: `kubectl explain deployment.spec.template` lists them",
        ));
    }
    if let Some((path, key)) = twice(written, root, "") {
        return Err(error(&path, format!("{key} occurs twice: leave one out")));
    }
    own_labels(parsed, ours, root)?;
    let (Some(spec), Some(ours)) = (&parsed.spec, &ours.spec) else {
        return Ok(());
    };
    containers(spec, written, frame)?;
    pod(spec, written, ours, frame)?;
    mounts(spec, ours, root)
}

/// The first field of `written` that is missing in `understood`.
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

/// The first list member whose keys equal those of an earlier member of the list: a merge would
/// combine the two members, and the API server refuses them.
fn twice(written: &Value, path: &str, list: &str) -> Option<(String, String)> {
    match written {
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, value)| twice(value, &format!("{path}.{name}"), name)),
        Value::Array(items) => {
            let named = |item: &Value| -> Option<Vec<String>> {
                let keys = keys(list)?.iter();
                keys.map(|key| item.get(key)?.as_str().map(ToOwned::to_owned))
                    .collect()
            };
            let mut seen = Vec::new();
            items.iter().enumerate().find_map(|(index, item)| {
                let path = format!("{path}[{index}]");
                if let Some(key) = named(item) {
                    if seen.contains(&key) {
                        return Some((path, key.join(" ")));
                    }
                    seen.push(key);
                }
                twice(item, &path, "")
            })
        }
        _ => None,
    }
}

/// Refuses the operator's own labels and annotations: they select pods and carry the desired state.
fn own_labels(
    parsed: &PodTemplateSpec,
    ours: &PodTemplateSpec,
    root: &str,
) -> Result<(), OverlayError> {
    let Some(meta) = &parsed.metadata else {
        return Ok(());
    };
    let ours = ours.metadata.as_ref();
    let labels = ours.and_then(|meta| meta.labels.as_ref());
    for (name, value) in meta.labels.iter().flatten() {
        let own = labels.and_then(|labels| labels.get(name));
        let is_free = FREE_LABELS.contains(&name.as_str()) || own == Some(value);
        if !is_free && (own.is_some() || name.starts_with(OWN_PREFIX)) {
            return Err(error(
                &format!("{root}.metadata.labels[{name}]"),
                "the operator finds the pods by this label: leave it out, or use a label of your own",
            ));
        }
    }
    let mut annotations = meta.annotations.iter().flatten();
    match annotations.find(|(name, _)| name.starts_with(OWN_PREFIX)) {
        Some((name, _)) => Err(error(
            &format!("{root}.metadata.annotations[{name}]"),
            "the operator controls the pods with this annotation: leave it out",
        )),
        None => Ok(()),
    }
}

fn containers(spec: &PodSpec, written: &Value, frame: Frame) -> Result<(), OverlayError> {
    let root = frame.root;
    let lists = [
        ("containers", Some(&spec.containers)),
        ("initContainers", spec.init_containers.as_ref()),
    ];
    for (list, containers) in lists {
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let path = format!("{root}.spec.{list}[{index}]");
            let written = &written["spec"][list][index];
            if container.name.is_empty() {
                return Err(error(
                    &format!("{path}.name"),
                    format!(
                        "is missing: `{}` is our container; any other name is a container of your own",
                        frame.container
                    ),
                ));
            }
            let is_main = list == "containers" && container.name == frame.container;
            let is_install = list == "initContainers" && container.name == INSTALL;
            if is_main {
                main(container, written, &path, frame)?;
            } else if is_install && frame == super::APP {
                install(written, &path)?;
            } else if [frame.container, INSTALL].contains(&container.name.as_str()) {
                return Err(error(
                    &format!("{path}.name"),
                    format!(
                        "{} is a container of ours: use another name",
                        container.name
                    ),
                ));
            } else if container.image.is_none() {
                return Err(error(
                    &format!("{path}.image"),
                    "is missing: a container of your own needs an image",
                ));
            }
        }
    }
    Ok(())
}

fn is_given(written: &Value, field: &str) -> bool {
    written.get(field).is_some_and(|value| !value.is_null())
}

fn main(
    container: &Container,
    written: &Value,
    path: &str,
    frame: Frame,
) -> Result<(), OverlayError> {
    let mut elsewhere = frame.elsewhere.iter();
    if let Some((field, cure)) = elsewhere.find(|(field, _)| is_given(written, field)) {
        return Err(error(&format!("{path}.{field}"), *cure));
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let name = &variable.name;
        let path = format!("{path}.env[{index}]");
        if name.starts_with("SCALEDAPP_") || name == "WEB_CONCURRENCY" {
            let why = format!("{name} is set by the supervisor: leave it out");
            return Err(error(&path, why));
        }
        if name == "PORT" && frame == super::APP {
            let why = "PORT is set from spec.port: change that field";
            return Err(error(&path, why));
        }
    }
    Ok(())
}

fn install(written: &Value, path: &str) -> Result<(), OverlayError> {
    let fields = written.as_object().into_iter().flatten();
    let mut fields = fields.filter(|(_, value)| !value.is_null());
    match fields.find(|(field, _)| !OF_INSTALL.contains(&field.as_str())) {
        Some((field, _)) => Err(error(
            &format!("{path}.{field}"),
            format!(
                "this container installs the supervisor, and the operator decides how: leave it out; only {} can be set",
                OF_INSTALL[1..].join(", ")
            ),
        )),
        None => Ok(()),
    }
}

fn pod(spec: &PodSpec, written: &Value, ours: &PodSpec, frame: Frame) -> Result<(), OverlayError> {
    let root = frame.root;
    let at = |field: &str| format!("{root}.spec.{field}");
    let policy = spec.restart_policy.as_deref();
    if policy.is_some_and(|policy| policy != "Always") {
        return Err(error(
            &at("restartPolicy"),
            "a Deployment allows only Always: leave it out",
        ));
    }
    let mut forbidden = frame.ours.iter();
    if let Some((field, cure)) = forbidden.find(|(field, _)| is_given(&written["spec"], field)) {
        return Err(error(&at(field), *cure));
    }
    if spec.service_account.is_some() && spec.service_account != spec.service_account_name {
        return Err(error(
            &at("serviceAccount"),
            "is the old name of serviceAccountName: use that field",
        ));
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let mut taken = ours.volumes.iter().flatten();
        if taken.any(|ours| ours.name == volume.name) {
            return Err(error(
                &format!("{}[{index}].name", at("volumes")),
                format!("{} is a volume of ours: use another name", volume.name),
            ));
        }
    }
    Ok(())
}

/// Refuses mounts that would hide files that the operator mounts into its containers.
fn mounts(spec: &PodSpec, ours: &PodSpec, root: &str) -> Result<(), OverlayError> {
    for (index, container) in spec.containers.iter().enumerate() {
        let mut own = ours.containers.iter();
        let Some(own) = own.find(|own| own.name == container.name) else {
            continue;
        };
        for (number, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let path = mount.mount_path.trim_end_matches('/');
            let mut taken = own.volume_mounts.iter().flatten();
            let hidden = taken.find(|taken| {
                let taken = taken.mount_path.as_str();
                let below = |inner: &str, outer: &str| {
                    inner
                        .strip_prefix(outer)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                below(taken, path) || below(path, taken)
            });
            if let Some(hidden) = hidden {
                return Err(error(
                    &format!("{root}.spec.containers[{index}].volumeMounts[{number}].mountPath"),
                    format!("{} is a mount of ours: use another path", hidden.mount_path),
                ));
            }
        }
    }
    Ok(())
}
