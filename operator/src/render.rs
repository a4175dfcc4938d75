//! Commands that need no cluster: `crd` prints the definition, `render` the objects that a
//! file becomes.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::kubernetes::{self, ScaledApp};
use scaledapp_crds::words::annotation;
use scaledapp_plan::Violation;
use scaledapp_plan::cluster::{
    self, Certificate, LiveCertificate, Node, Objects, Observed, each_kind,
};
use serde::Serialize;

use crate::cli::RenderArgs;

/// The `CustomResourceDefinition` as YAML.
///
/// # Errors
/// The definition cannot be written as YAML.
pub fn definition() -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(&kubernetes::definition())?)
}

/// The objects that the `ScaledApp` of a file becomes, as YAML documents.
///
/// # Errors
/// The file cannot be read or does not contain one `ScaledApp`, or that `ScaledApp` is invalid or
/// its plan is stalled.
pub fn file(args: &RenderArgs) -> anyhow::Result<String> {
    let name = args.file.display();
    let text = read(&args.file).with_context(|| format!("cannot read {name}"))?;
    let written = scaledapp_crds::read(&text).with_context(|| format!("{name}"))?;
    let mut object = ScaledApp::from(written);
    object
        .metadata
        .namespace
        .get_or_insert_with(|| "default".to_owned());
    let observed = empty_cluster(args.nodes);
    let settings = args.images.clone().or_example();
    match objects(&object, &observed, &settings) {
        Ok(text) => Ok(text?),
        Err(violations) => bail!("{name}: {}", listed(&violations)),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}

fn objects(
    object: &ScaledApp,
    observed: &Observed,
    settings: &cluster::Settings,
) -> Result<anyhow::Result<String>, Vec<Violation>> {
    let app = cluster::validate(object)?;
    let plan = cluster::plan(&app, observed, settings);
    if let Some(stalled) = plan.stalled {
        return Ok(Err(anyhow::anyhow!(
            "{}: {}",
            stalled.reason,
            stalled.message
        )));
    }
    Ok(documents(plan.apply, plan.certificate))
}

/// All violations, one per line.
fn listed(violations: &[Violation]) -> String {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    lines.join("\n  ")
}

/// A cluster of ready nodes where nothing runs. The time is fixed, so that the same file
/// gives the same text.
fn empty_cluster(nodes: u16) -> Observed {
    let node = |number| Node {
        name: format!("node-{number}"),
        schedulable: true,
        ready: true,
        ..Node::default()
    };
    Observed {
        now: Timestamp::UNIX_EPOCH,
        nodes: (0..nodes).map(node).collect(),
        live: Objects::default(),
        pods: Vec::new(),
        foreign: Vec::new(),
        hidden: Vec::new(),
        certificate: LiveCertificate::Missing,
        // No token: a random one would change the text, and a fixed one would not be secret.
        token: None,
        hostname_taken_by: None,
        hostname_refused: None,
        autoscalers: Vec::new(),
        scaling: None,
        asked_from: String::new(),
        used: std::collections::BTreeMap::new(),
        admitted: std::collections::BTreeMap::new(),
    }
}

/// The objects as YAML documents, in the order of applying.
fn documents(objects: Objects, certificate: Option<Certificate>) -> anyhow::Result<String> {
    let mut text = String::new();
    add(&mut text, Vec::from_iter(certificate))?;
    macro_rules! documents {
        ($($(#[$about:meta])* $field:ident: $kind:ident = $type:ty;)*) => {
            $(add(&mut text, objects.$field)?;)*
        };
    }
    each_kind!(documents);
    Ok(text)
}

fn add<T>(text: &mut String, objects: Vec<T>) -> anyhow::Result<()>
where
    T: Serialize + Metadata<Ty = ObjectMeta>,
{
    for mut object in objects {
        let meta = object.metadata_mut();
        // The garbage collector would delete objects with an owner that does not exist.
        meta.owner_references = None;
        if let Some(annotations) = &mut meta.annotations {
            for remembered in [
                annotation::APPLIED,
                annotation::INPUTS,
                annotation::TEMPLATE,
            ] {
                annotations.remove(remembered);
            }
        }
        meta.annotations = meta.annotations.take().filter(|map| !map.is_empty());
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&object)?);
    }
    Ok(())
}
