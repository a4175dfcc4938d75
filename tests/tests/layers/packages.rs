//! The workspace as cargo describes it: its packages, and the dependencies in the lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use scaledapp_tests::{binaries, process};
use serde_json::Value;

/// A package of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
}

/// The output of `cargo metadata`, without network access.
fn metadata(more: &[&str]) -> Value {
    let mut command = Command::new("cargo");
    command.current_dir(binaries::workspace());
    command.args(["metadata", "--locked", "--offline", "--format-version=1"]);
    command.args(more);
    let ended = process::run(command, Duration::from_mins(1)).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn all(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().unwrap().iter()
}

/// The packages of the workspace.
pub(crate) fn ours() -> Vec<Package> {
    let metadata = metadata(&["--no-deps"]);
    let packages = all(&metadata["packages"]).map(|package| {
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        Package {
            name: text(&package["name"]),
            directory: manifest.parent().unwrap().to_owned(),
        }
    });
    packages.collect()
}

/// A package that is linked into a package of the workspace or into its tests.
#[derive(Debug)]
pub(crate) struct Linked {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression.
    pub(crate) license: String,
    /// The registry that the package comes from; `None` for packages of the workspace.
    pub(crate) source: Option<String>,
    /// The names of the direct dependencies.
    pub(crate) on: BTreeSet<String>,
}

/// All packages that are linked on this machine's platform. Packages for other platforms are not
/// downloaded, so their metadata is not available.
pub(crate) fn linked() -> Vec<Linked> {
    let here = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = metadata(&["--filter-platform", &here]);
    let packages: BTreeMap<_, _> = all(&metadata["packages"])
        .map(|package| (text(&package["id"]), package))
        .collect();
    let nodes = all(&metadata["resolve"]["nodes"]).map(|node| {
        let package = packages[&text(&node["id"])];
        let on = all(&node["deps"]).map(|on| text(&packages[&text(&on["pkg"])]["name"]));
        Linked {
            name: text(&package["name"]),
            version: text(&package["version"]),
            license: package["license"].as_str().unwrap_or_default().to_owned(),
            source: package["source"].as_str().map(str::to_owned),
            on: on.collect(),
        }
    });
    nodes.collect()
}
