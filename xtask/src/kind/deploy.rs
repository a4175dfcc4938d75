//! Installs ScaledApp on the cluster: images of the built binaries, the chart, and the sample.
//!
//! The tag of a component's image is a hash of its program, so a second run changes only what
//! differs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use scaledapp_tests::binaries;

use super::Cluster;
use super::archive::{self, Start};
use super::cache::Key;
use super::stub_zone;
use crate::console::{note, timed};

/// The namespace into which the chart is installed and in which `restricted` is enforced.
pub(crate) const SYSTEM: &str = "scaledapp-system";
const RELEASE: &str = "scaledapp";
/// The registry in the images' names. Nothing is pulled from there.
const REGISTRY: &str = "localhost/scaledapp";
const COMPONENTS: [&str; 4] = ["operator", "sidecar", "balancer", "dns"];
/// The user nobody, because `restricted` demands a user that is not root.
const USER: &str = "65534:65534";
/// How long pods may take to start on a busy machine.
const ROLLOUT_TIMEOUT: Duration = Duration::from_mins(5);

/// Makes every image and loads it into the nodes.
///
/// # Errors
/// An image cannot be made or loaded.
pub(crate) fn images(cluster: &Cluster) -> anyhow::Result<()> {
    for component in COMPONENTS {
        let program = format!("scaledapp-{component}");
        let (source, at) = (
            binaries::path(&program)?,
            format!("/usr/local/bin/{program}"),
        );
        let start = Start {
            entrypoint: &[&at],
            user: USER,
            directory: "/",
        };
        // The image's name depends on its content, so that a pod never runs an older image of the
        // same name.
        let reference = reference(component)?;
        let archive = archive::from_scratch(&cluster.cache, &reference, &[(&source, &at)], &start)?;
        cluster.load_image(&reference, &archive)?;
        note(&reference);
    }
    for version in ["1", "2"] {
        hello_node(cluster, version)?;
    }
    let app = binaries::workspace().join("examples/hello-python");
    on_debian(cluster, "hello-python:1", "python3", &app)
}

/// The image reference of a component. Its tag is a hash of the component's program.
fn reference(component: &str) -> anyhow::Result<String> {
    let path = binaries::path(&format!("scaledapp-{component}"))?;
    let tag = Key::new().and_file(&path)?.text();
    Ok(format!("{REGISTRY}/{component}:{tag}"))
}

/// Makes the image of the sample for Node. The sample's answers contain `version`.
fn hello_node(cluster: &Cluster, version: &str) -> anyhow::Result<()> {
    let app = tempfile::tempdir()?;
    let source = binaries::workspace().join("examples/hello-node");
    fs::copy(source.join("server.js"), app.path().join("server.js"))?;
    let package = fs::read_to_string(source.join("package.json"))?;
    let package = package.replace("\"version\": \"1.", &format!("\"version\": \"{version}."));
    fs::write(app.path().join("package.json"), package)?;
    let image = format!("hello-node:{version}");
    on_debian(cluster, &image, "nodejs", app.path())
}

/// Makes an image of an app's directory on top of one Debian package.
fn on_debian(cluster: &Cluster, image: &str, package: &str, app: &Path) -> anyhow::Result<()> {
    let reference = format!("{REGISTRY}/{image}");
    let start = Start {
        entrypoint: &[],
        user: USER,
        directory: "/app",
    };
    let archive = archive::from_debian(&cluster.cache, &reference, &[package], app, &start)?;
    cluster.load_image(&reference, &archive)?;
    note(&reference);
    Ok(())
}

/// Installs the chart, or upgrades it, and waits until its pods are ready.
///
/// # Errors
/// Helm refuses, or the pods do not become ready.
pub(crate) fn install(cluster: &Cluster) -> anyhow::Result<()> {
    if cluster
        .kubectl(&["get", "namespace", SYSTEM])
        .text()
        .is_err()
    {
        cluster.kubectl(&["create", "namespace", SYSTEM]).done()?;
    }
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    cluster
        .kubectl(&["label", "--overwrite", "namespace", SYSTEM, enforce])
        .done()?;
    let chart = binaries::workspace().join("charts/scaledapp");
    let chart = chart.to_string_lossy();
    let mut words = vec![
        "upgrade",
        "--install",
        RELEASE,
        &*chart,
        "--namespace",
        SYSTEM,
    ];
    let mut values = Vec::new();
    for component in COMPONENTS {
        let reference = reference(component)?;
        let (repository, tag) = reference
            .rsplit_once(':')
            .context("a reference has a tag")?;
        values.push(format!("images.{component}.repository={repository}"));
        // `--set-string` is used because a tag may consist of digits only and must remain a string.
        values.push(format!("images.{component}.tag={tag}"));
    }
    for value in &values {
        words.extend(["--set-string", value]);
    }
    cluster.helm(&words)?.within(ROLLOUT_TIMEOUT).done()?;
    for component in ["operator", "dns"] {
        let deployment = format!("deployment/{RELEASE}-{component}");
        let words = [
            "-n",
            SYSTEM,
            "rollout",
            "status",
            &deployment,
            "--timeout=240s",
        ];
        let rolled = cluster.kubectl(&words).within(ROLLOUT_TIMEOUT).done();
        if rolled.is_err() {
            explain(cluster);
        }
        rolled?;
    }
    Ok(())
}

/// Prints the state of the release's pods, for an error report.
fn explain(cluster: &Cluster) {
    for words in [
        &["-n", SYSTEM, "get", "pods", "-o", "wide"][..],
        &["-n", SYSTEM, "get", "events"],
        &[
            "-n",
            SYSTEM,
            "logs",
            "--prefix",
            "--tail=30",
            "-l",
            "app.kubernetes.io/name=scaledapp",
        ],
    ] {
        let said = cluster.kubectl(words).text();
        note(&said.unwrap_or_else(|error| format!("{error:#}")));
    }
}

/// Applies the sample, waits until it is Ready, and prints how to reach it.
///
/// # Errors
/// The sample does not become Ready.
pub(crate) fn sample(cluster: &Cluster) -> anyhow::Result<()> {
    let yaml = binaries::workspace().join("examples/hello-node/scaledapp.yaml");
    let text = fs::read_to_string(&yaml).with_context(|| yaml.display().to_string())?;
    let text = text.replace(
        "registry.example/hello:1.0",
        &format!("{REGISTRY}/hello-node:1"),
    );
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    let path = file.path().to_string_lossy().into_owned();
    cluster.kubectl(&["apply", "-f", &path]).done()?;
    let wait = [
        "wait",
        "--for=condition=Ready",
        "scaledapp/hello",
        "--timeout=240s",
    ];
    cluster.kubectl(&wait).within(ROLLOUT_TIMEOUT).done()?;
    note(
        &cluster
            .kubectl(&["get", "scaledapps,pods,services"])
            .text()?,
    );
    let address = [
        "get",
        "scaledapp",
        "hello",
        "-o",
        "jsonpath={.status.balancers[0].address}",
    ];
    let address = cluster.kubectl(&address).text()?;
    let node = cluster.nodes()?.pop().context("a cluster has nodes")?;
    let answer = cluster.node_exec(&node, &["curl", "-s", &format!("http://{address}/")])?;
    note(&format!(
        "From node {node}: curl http://{address}/ answers {answer}"
    ));
    Ok(())
}

/// Lets the cluster's own DNS ask ours for names of its zone, so that pods resolve them.
///
/// # Errors
/// The configuration of `CoreDNS` cannot be read or written.
pub(crate) fn stub_zone(cluster: &Cluster) -> anyhow::Result<()> {
    let system = "--namespace=kube-system";
    let service = [
        "--namespace",
        SYSTEM,
        "get",
        "service",
        "scaledapp-dns",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ];
    let address = cluster.kubectl(&service).text()?;
    let read = [
        "get",
        "configmap",
        "coredns",
        system,
        "-o",
        "jsonpath={.data.Corefile}",
    ];
    let before = cluster.kubectl(&read).text()?;
    let Some(after) = stub_zone::with(&before, stub_zone::ZONE, address.trim()) else {
        return Ok(());
    };
    let patch = serde_json::json!({"data": {"Corefile": after}}).to_string();
    let write = [
        "patch",
        "configmap",
        "coredns",
        system,
        "--type=merge",
        "-p",
        &patch,
    ];
    cluster.kubectl(&write).done()?;
    // CoreDNS reads a change by itself, but only within two minutes.
    cluster
        .kubectl(&["rollout", "restart", "deployment/coredns", system])
        .done()?;
    let wait = [
        "rollout",
        "status",
        "deployment/coredns",
        system,
        "--timeout=120s",
    ];
    cluster.kubectl(&wait).within(ROLLOUT_TIMEOUT).done()
}

/// Makes the images and installs the chart. Prints how long each took.
///
/// # Errors
/// A step fails.
pub(crate) fn all(cluster: &Cluster) -> anyhow::Result<()> {
    timed("Images, loaded into all nodes", || images(cluster))?;
    timed("helm install", || install(cluster))?;
    Ok(())
}
