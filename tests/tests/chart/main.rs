//! The chart as helm renders it: the effects of its values, and the refused values with their cure.
//! Nothing here needs a cluster.
//!
//! `cargo xtask test` compiles helm and passes its path. Without a path, helm is taken from
//! `target/kind` or from the `PATH`; if there is none, the tests are skipped.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod alert_cases;
mod alerts;
mod common;
mod dashboards;
mod delegation;
mod faults;
mod images;
mod prometheus;
mod rights;
mod zones;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use scaledapp_tests::binaries;
use scaledapp_tests::process::{self, Ended};
use serde_json::Value;

/// How long one call of helm may take. Rendering takes a tenth of a second.
const DEADLINE: Duration = Duration::from_mins(1);
const RELEASE: &str = "scaledapp";
const NAMESPACE: &str = "scaledapp-system";
/// The one value that an install needs.
const REGISTRY: &str = "image.registry=registry.example/team";

/// The path of helm. Without helm, prints the reason and returns `None`.
fn helm() -> Option<PathBuf> {
    let named = ["SCALEDAPP_HELM", "SCALEDAPP_KIND_HELM"];
    let mut named = named.iter().filter_map(std::env::var_os);
    let built = binaries::workspace().join("target/kind/bin/helm");
    match named.next() {
        Some(path) => Some(path.into()),
        None if built.is_file() => Some(built),
        None => binaries::on_path("helm")
            .map_err(|reason| println!("{reason}"))
            .ok(),
    }
}

fn chart() -> String {
    let chart = binaries::workspace().join("charts/scaledapp");
    chart.to_string_lossy().into_owned()
}

fn run(words: &[&str]) -> Option<Ended> {
    let mut command = Command::new(helm()?);
    command.args(words);
    Some(process::run(command, DEADLINE).unwrap())
}

/// Runs `helm template` with these values. A value that begins with `[` is JSON.
fn template(values: &[&str]) -> Option<Ended> {
    let chart = chart();
    let mut words = vec!["template", RELEASE, &chart, "--namespace", NAMESPACE];
    words.extend(["--set", "crd.install=false"]);
    for value in values {
        let flag = if value.contains("=[") {
            "--set-json"
        } else {
            "--set"
        };
        words.extend([flag, value]);
    }
    run(&words)
}

/// The objects rendered with these values and [`REGISTRY`].
fn rendered(values: &[&str]) -> Option<Vec<Value>> {
    let ended = template(&[&[REGISTRY], values].concat())?;
    assert_eq!(ended.code, 0, "{values:?}: {}", ended.stderr);
    let documents = ended.stdout.split("\n---\n");
    let objects = documents.map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
    Some(objects.filter(|object| !object.is_null()).collect())
}

/// The error message of helm for invalid values.
fn refused(values: &[&str]) -> Option<String> {
    let ended = template(values)?;
    assert_ne!(ended.code, 0, "{values:?} are accepted");
    Some(ended.stderr)
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let Some(object) = found.next() else {
        panic!("no {kind} {name}");
    };
    object
}

/// The only container of a component's Deployment.
fn container<'a>(objects: &'a [Value], component: &str) -> &'a Value {
    let deployment = find(objects, "Deployment", &format!("{RELEASE}-{component}"));
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

/// The values of a flag of a component.
fn flag(objects: &[Value], component: &str, name: &str) -> Vec<String> {
    let arguments = container(objects, component)["args"].as_array().unwrap();
    let prefix = format!("--{name}=");
    let arguments = arguments.iter().filter_map(Value::as_str);
    arguments
        .filter_map(|argument| argument.strip_prefix(&prefix))
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn the_linter_finds_nothing() {
    let chart = chart();
    let Some(ended) = run(&["lint", "--strict", &chart, "--set", REGISTRY]) else {
        return;
    };
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
}
