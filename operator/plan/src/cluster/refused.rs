//! Translates a path that the API server refuses in a Deployment to the field that the user wrote
//! in the `ScaledApp`: `spec.template.spec.containers[1].resources` becomes
//! `spec.podTemplate.spec.containers[0].…` or `spec.resources.…`.
//!
//! The API server names a path in the Deployment that the operator made. A path that comes from
//! no field of the `ScaledApp` is not handled here.

use scaledapp_crds::v1alpha1::Delivery;
use scaledapp_crds::words::Reason;
use serde_json::Value;

use super::drift::keys;
use super::frame::VOLUME_BINARIES;
use super::overlay::{self, Frame, INSTALL};
use super::{App, Plan, Stalled};

/// One thing that is wrong with a Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The path in the Deployment.
    pub field: String,
    /// What is wrong, in the API server's words.
    pub message: String,
}

impl Cause {
    /// Reads the causes from the message with which server-side apply refuses an object
    /// that does not fit the schema. Such a refusal has status 500, and only its message names
    /// the fields.
    pub fn of_apply(message: &str) -> Vec<Self> {
        if !message.starts_with("failed to create typed patch object") {
            return Vec::new();
        }
        let lines = message
            .split_once("): ")
            .map_or("", |(_, rest)| rest)
            .lines();
        let causes = lines.filter_map(|line| {
            let (field, message) = line.trim().strip_prefix('.')?.split_once(": ")?;
            Some(Self {
                field: field.to_owned(),
                message: message.to_owned(),
            })
        });
        causes.collect()
    }
}

/// Why the API server refuses the Deployment `name` of a plan, if the user's fields are the
/// cause.
pub fn refused(app: &App, plan: &Plan, name: &str, causes: &[Cause]) -> Option<Stalled> {
    let mut planned = plan.apply.deployments.iter();
    let planned = planned.find(|it| it.metadata.name.as_deref() == Some(name))?;
    let template = serde_json::to_value(&planned.spec.template).ok()?;
    let is_app = name == app.app.name;
    let translation = Translation {
        app,
        template,
        frame: if is_app {
            overlay::APP
        } else {
            overlay::BALANCER
        },
        overlay: if is_app {
            &app.pod_template
        } else {
            &app.balancer_template
        }
        .as_ref(),
    };
    let mut messages: Vec<String> = Vec::new();
    for cause in causes {
        let Some(path) = translation.origin(&cause.field) else {
            continue;
        };
        let message = format!("{path}: {}", cause.message);
        if !messages.contains(&message) {
            messages.push(message);
        }
    }
    let is_template = messages
        .iter()
        .any(|it| it.starts_with(translation.frame.root));
    (!messages.is_empty()).then(|| Stalled {
        reason: if is_template {
            Reason::InvalidPodTemplate
        } else {
            Reason::InvalidSpec
        },
        message: messages.join("; "),
    })
}

/// A part of a path: a name, and the text in brackets after it.
struct Part<'a> {
    name: &'a str,
    index: Option<&'a str>,
}

/// Splits a path such as `a.b[0].c[x/y.z]`. Brackets may contain dots.
fn parts(path: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let (index, after) = match after.strip_prefix('[').and_then(|it| it.split_once(']')) {
            Some((index, after)) => (Some(index), after),
            None => (None, after),
        };
        parts.push(Part { name, index });
        rest = after.strip_prefix('.').unwrap_or(after);
        if rest.len() == path.len() {
            break;
        }
    }
    parts
}

/// `.a[0].b`.
fn text(parts: &[Part<'_>]) -> String {
    let one = |part: &Part<'_>| match part.index {
        Some(index) => format!(".{}[{index}]", part.name),
        None => format!(".{}", part.name),
    };
    parts.iter().map(one).collect()
}

/// The member of a list that `index` refers to. An index is a number, or a key and its value such
/// as `name="x"`.
fn member<'a>(list: &'a Value, index: &str) -> Option<&'a Value> {
    if let Ok(number) = index.parse::<usize>() {
        return list.get(number);
    }
    let (key, value) = index.split_once('=')?;
    let value = value.trim_matches('"');
    list.as_array()?.iter().find(|item| item[key] == value)
}

struct Translation<'a> {
    app: &'a App,
    template: Value,
    frame: Frame,
    overlay: Option<&'a Value>,
}

impl Translation<'_> {
    /// The user's field from which a field of the Deployment comes.
    fn origin(&self, field: &str) -> Option<String> {
        let rest = field.strip_prefix("spec.template.")?;
        let mut parts = parts(rest);
        let first = parts.first()?;
        let metadata = Part {
            name: "metadata",
            index: None,
        };
        if matches!(first.name, "labels" | "annotations") {
            parts.insert(0, metadata);
        }
        self.in_overlay(&parts).or_else(|| self.in_spec(&parts))
    }

    /// The path in the user's template; `None` if the template does not have it.
    fn in_overlay(&self, parts: &[Part<'_>]) -> Option<String> {
        let mut ours = Some(&self.template);
        let mut theirs = self.overlay?;
        let mut path = self.frame.root.to_owned();
        for (depth, part) in parts.iter().enumerate() {
            // In one of the operator's own containers, the user's template is the origin only if
            // it sets the container's field in question, such as `resources`. What lies below
            // that field may be missing.
            let is_ours = [self.frame.container, INSTALL].map(Value::from);
            let is_enough = depth
                > if is_ours.contains(&theirs["name"]) {
                    2
                } else {
                    1
                };
            let Some(written) = theirs.get(part.name).filter(|it| !it.is_null()) else {
                return is_enough.then(|| path + &text(&parts[depth..]));
            };
            path = format!("{path}.{}", part.name);
            ours = ours.and_then(|ours| ours.get(part.name));
            theirs = written;
            let Some(index) = part.index else { continue };
            let item = ours.and_then(|ours| member(ours, index));
            match written.as_array() {
                Some(list) => {
                    let number = same(list, part.name, item, index)?;
                    path = format!("{path}[{number}]");
                    theirs = &list[number];
                }
                None => return Some(format!("{path}[{index}]{}", text(&parts[depth + 1..]))),
            }
            ours = item;
        }
        Some(path)
    }

    /// The field of the `ScaledApp` outside the user's template.
    fn in_spec(&self, parts: &[Part<'_>]) -> Option<String> {
        let (root, list) = (parts.first()?, parts.get(1)?);
        if root.name != "spec" {
            return None;
        }
        let found = member(&self.template["spec"][list.name], list.index?)?;
        let is_app = self.frame == overlay::APP;
        if list.name == "volumes" && found["name"] == VOLUME_BINARIES {
            let is_image = self.app.delivery == Delivery::ImageVolume;
            return (is_app && is_image).then(|| {
                "spec.supervisor.delivery: ImageVolume needs Kubernetes 1.35, or an earlier version with the feature gate ImageVolume: leave the field out".to_owned()
            });
        }
        let is_main = list.name == "containers" && found["name"] == self.frame.container;
        let field = parts.get(2)?;
        let rest = text(&parts[3..]);
        if !is_app {
            let is_said = self.app.balancer_resources.is_some();
            let is_ours = is_main && field.name == "resources" && is_said;
            return is_ours.then(|| format!("spec.balancers.resources{rest}"));
        }
        // The init container inherits the resources of the app's container.
        let inherits = list.name == "initContainers" && found["name"] == INSTALL;
        match field.name {
            "resources" if is_main || inherits => Some(format!("spec.resources{rest}")),
            _ if !is_main => None,
            "image" => Some("spec.image".to_owned()),
            "workingDir" => Some("spec.workingDir".to_owned()),
            "envFrom" => Some(format!("spec.envFrom[{}]{rest}", field.index?)),
            "env" => {
                let variable = member(&found["env"], field.index?)?;
                let mut env = self.app.env.iter();
                let number = env.position(|own| variable["name"] == *own.name)?;
                Some(format!("spec.env[{number}]{rest}"))
            }
            _ => None,
        }
    }
}

/// The index of the user's member that became `item`.
fn same(list: &[Value], name: &str, item: Option<&Value>, index: &str) -> Option<usize> {
    match (keys(name), item) {
        (Some(keys), Some(item)) => list
            .iter()
            .position(|own| keys.iter().all(|key| own[key] == item[key])),
        // A list without keys is not merged, so its indexes are those of the user's list.
        _ => index.parse().ok().filter(|number| *number < list.len()),
    }
}
