//! `cargo xtask kind`: a three-node cluster for tests and for trying things out, with or without
//! access to a container registry.
//!
//! This file has the command, and the operations on a cluster for the rest of this package. Of the
//! modules, `cluster` has the cluster's life cycle, `source` decides where its nodes come from, and
//! `node` and `recipe` have the content of the nodes. `archive` makes images without an engine,
//! `engine` is the container engine, and `run` runs external commands.

mod archive;
mod cache;
mod check;
mod cluster;
mod debian;
mod deploy;
mod engine;
mod golang;
mod lock;
mod network;
mod node;
mod recipe;
mod run;
mod source;
mod stub_zone;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use crate::console::{heading, note, say, seconds, timed};
use crate::{compile, distribution};
use cache::Cache;
use engine::Engine;
use run::Run;
use source::Choice;

/// The name of the cluster, as in kind-config.yaml.
const NAME: &str = "scaledapp";

/// How long loading an archive into three nodes may take.
const LOAD_TIMEOUT: Duration = Duration::from_mins(10);

/// The arguments of `kind`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct KindArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    up: Up,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create the cluster, or reuse it if it is healthy (the default)
    Up(Up),
    /// Remove the cluster, but keep the files that it was made from
    Down {
        /// Also remove the files that it was made from: node image and target/kind
        #[arg(long)]
        all: bool,
    },
    /// Show whether the cluster exists and is healthy; exit code 1 if not
    Status,
    /// Check that the cluster can do what tests rely on (after `cargo xtask build`)
    Check,
}

#[derive(Debug, Args, Default)]
struct Up {
    /// Origin of the nodes' image
    #[arg(long, value_enum, default_value_t)]
    image: Choice,
    /// Make only the cluster: no ScaledApp, no sample
    #[arg(long)]
    bare: bool,
}

/// Runs the command. Returns `false` only if `status` finds no healthy cluster.
///
/// # Errors
/// A step failed. The message names the cure.
pub(crate) fn run(arguments: KindArgs) -> anyhow::Result<bool> {
    match arguments.action.unwrap_or(Action::Up(arguments.up)) {
        Action::Up(up) => {
            let begun = Instant::now();
            let cluster = ensure(up.image)?;
            if !up.bare {
                compile::run()?;
                deploy::all(&cluster)?;
                timed("Names of our zone in the cluster's DNS", || {
                    deploy::stub_zone(&cluster)
                })?;
                timed("The sample, until it is Ready", || deploy::sample(&cluster))?;
            }
            heading(&format!(
                "The cluster `{NAME}` is ready after {}",
                seconds(begun.elapsed())
            ));
            cluster.explain();
            Ok(true)
        }
        Action::Down { all } => {
            let _lock = lock::take()?;
            cluster::down(&Cache::new(), all)?;
            Ok(true)
        }
        Action::Status => status(),
        Action::Check => {
            check::run(&ensure(Choice::Auto)?)?;
            Ok(true)
        }
    }
}

/// Makes sure that there is a cluster with ScaledApp installed. Returns the environment variables
/// that tests need for it.
///
/// # Errors
/// A step failed.
pub(crate) fn for_tests() -> anyhow::Result<Vec<(&'static str, String)>> {
    let cluster = ensure(Choice::Auto)?;
    deploy::all(&cluster)?;
    let helm = golang::client(&cluster.cache, &recipe::HELM)?;
    let prefix = cluster.engine.prefix();
    // The engine is configured by a variable, which `env` sets.
    let env = if prefix.is_empty() { "" } else { "env " };
    let engine = format!("{env}{prefix}{}", cluster.engine.program());
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    Ok(vec![
        (
            "SCALEDAPP_KIND_KUBECTL",
            text(cluster.bin().join("kubectl")),
        ),
        ("SCALEDAPP_KIND_KUBECONFIG", text(cluster.kubeconfig())),
        ("SCALEDAPP_KIND_HELM", text(helm)),
        ("SCALEDAPP_KIND_ENGINE", engine),
    ])
}

/// The environment variable with the path of helm, for tests that need no cluster. Helm is compiled
/// at its first use.
///
/// # Errors
/// Helm does not compile.
pub(crate) fn helm_for_tests() -> anyhow::Result<(&'static str, String)> {
    let helm = golang::client(&Cache::new(), &recipe::HELM)?;
    Ok(("SCALEDAPP_HELM", helm.to_string_lossy().into_owned()))
}

/// The environment variables with the paths of the control plane's programs, for tests that start a
/// control plane without nodes. The programs are compiled if necessary. Without Go, the list is
/// empty, and the tests report what is missing.
///
/// # Errors
/// A program cannot be installed or does not compile.
pub(crate) fn control_plane() -> anyhow::Result<Vec<(&'static str, String)>> {
    if !golang::is_there() {
        return Ok(Vec::new());
    }
    for (program, package) in [("openssl", "openssl"), ("ip", "iproute2")] {
        distribution::ensure(program, &[package])?;
    }
    let _lock = lock::take()?;
    let cache = Cache::new();
    let units = [
        ("SCALEDAPP_KUBERNETES", &recipe::KUBERNETES),
        ("SCALEDAPP_ETCD", &recipe::ETCD),
        ("SCALEDAPP_KUBECTL", &recipe::KUBECTL),
    ];
    let found = units.map(|(variable, unit)| {
        let directory = golang::programs(&cache, unit)?;
        Ok((variable, directory.to_string_lossy().into_owned()))
    });
    let mut found: Vec<_> = found.into_iter().collect::<anyhow::Result<_>>()?;
    let helm = golang::client(&cache, &recipe::HELM)?;
    found.push(("SCALEDAPP_HELM", helm.to_string_lossy().into_owned()));
    Ok(found)
}

/// Returns a running cluster, the existing one or a new one.
///
/// # Errors
/// The cluster cannot be made.
pub(crate) fn ensure(choice: Choice) -> anyhow::Result<Cluster> {
    let _lock = lock::take()?;
    cluster::ensure(&Cache::new(), choice)
}

fn status() -> anyhow::Result<bool> {
    let cache = Cache::new();
    let Some(engine) = cluster::engine(&cache) else {
        note("No container engine runs here, so there is no cluster.");
        return Ok(false);
    };
    let nodes = cluster::containers(&engine)?;
    if nodes.is_empty() {
        note("There is no cluster: `cargo xtask kind` makes one.");
        return Ok(false);
    }
    for node in &nodes {
        note(&format!("{}: {}", node.name, node.state));
    }
    match cluster::record(&engine) {
        Some(record) => note(&format!("Made from: {record}")),
        None => note("It is incomplete or stopped: `cargo xtask kind` makes a new one."),
    }
    let cluster = Cluster { cache, engine };
    if !cluster.kubeconfig().is_file() {
        note("This checkout has no kubeconfig for it: `cargo xtask kind` writes one.");
        return Ok(false);
    }
    match cluster::healthy(&cluster) {
        Ok(()) => {
            note("Healthy: all nodes are Ready and reach Services, and CoreDNS is rolled out.");
            cluster.explain();
            Ok(true)
        }
        Err(error) => {
            note(&format!("Not healthy: {error:#}"));
            Ok(false)
        }
    }
}

/// A running cluster. It keeps running when this value is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    cache: Cache,
    engine: Engine,
}

impl Cluster {
    /// The path of the cluster's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.cache.kubeconfig()
    }

    /// The directory with `kubectl`, `kind` and, once used, `helm`.
    pub(crate) fn bin(&self) -> PathBuf {
        self.cache.bin()
    }

    /// The engine that runs the nodes.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests that stop a node"))]
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A kubectl command for this cluster.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Run {
        Run::new(self.bin().join("kubectl"), words).env("KUBECONFIG", self.kubeconfig())
    }

    /// A helm command for this cluster. Helm is compiled at its first use.
    ///
    /// # Errors
    /// Helm does not compile.
    pub(crate) fn helm(&self, words: &[&str]) -> anyhow::Result<Run> {
        let helm = golang::client(&self.cache, &recipe::HELM)?;
        Ok(Run::new(helm, words).env("KUBECONFIG", self.kubeconfig()))
    }

    /// The names of the nodes, the control plane first.
    ///
    /// # Errors
    /// The engine does not answer.
    pub(crate) fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let nodes = cluster::containers(&self.engine)?;
        Ok(nodes.into_iter().map(|node| node.name).collect())
    }

    /// Runs a command on a node, where pods and Services can be reached. Returns its output.
    ///
    /// # Errors
    /// The command fails, or takes longer than a minute.
    pub(crate) fn node_exec(&self, node: &str, words: &[&str]) -> anyhow::Result<String> {
        let words = [&["exec", node][..], words].concat();
        self.engine.run(&words).text()
    }

    /// Loads the archive of an image (see [`archive`]) into every node that does not have the
    /// image. Pods use it with `imagePullPolicy: IfNotPresent`.
    ///
    /// # Errors
    /// A node cannot load the image.
    pub(crate) fn load_image(&self, reference: &str, archive: &Path) -> anyhow::Result<()> {
        let nodes = self.nodes()?;
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        // This file on the node names the last archive that was loaded under this reference. The
        // image is checked as well, because the kubelet may have removed it.
        let mark = format!("/kind/loaded-{}", reference.replace(['/', ':'], "-"));
        let has = r#"ctr -n k8s.io images ls -q | grep -qxF "$1" && cat "$2""#;
        let mut without = Vec::new();
        for node in &nodes {
            let words = ["sh", "-c", has, "sh", reference, &mark];
            if self.node_exec(node, &words).ok().as_deref() != Some(&*name) {
                without.push(node.as_str());
            }
        }
        if without.is_empty() {
            return Ok(());
        }
        let kind = golang::client(&self.cache, &recipe::KIND)?;
        let (archive, list) = (archive.to_string_lossy(), without.join(","));
        let words = ["load", "image-archive", &archive, "--name", NAME];
        let words = [&words[..], &["--nodes", &list]].concat();
        let load = self.engine.kind(&kind, &words).within(LOAD_TIMEOUT);
        load.log(self.cache.log("load")).done()?;
        for node in without {
            let write = r#"printf %s "$1" >"$2""#;
            self.node_exec(node, &["sh", "-c", write, "sh", &name, &mark])?;
        }
        Ok(())
    }

    /// Prints how to use the cluster.
    fn explain(&self) {
        let (kubeconfig, bin) = (self.kubeconfig(), self.bin());
        note(&format!("export KUBECONFIG={}", kubeconfig.display()));
        note(&format!("export PATH={}:$PATH", bin.display()));
        note("kubectl get nodes");
        say("");
        note("Services and pods can be reached from its nodes:");
        let (prefix, program) = (self.engine.prefix(), self.engine.program());
        note(&format!(
            "{prefix}{program} exec {NAME}-worker curl -s http://ADDRESS"
        ));
        say("");
        note("cargo xtask kind down   removes it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests operations on a cluster that have no command of their own.
    #[test]
    #[ignore = "needs a running cluster and compiles helm: run it by its name"]
    fn operations_without_a_command_work_in_the_running_cluster() {
        let cluster = ensure(Choice::Auto).unwrap();
        let version = cluster.helm(&["version", "--short"]).unwrap();
        assert!(version.text().unwrap().starts_with("v4."));
        let listed = cluster.helm(&["list", "--all-namespaces"]).unwrap();
        listed.done().unwrap();
        assert!(cluster.engine().run(&["ps"]).done().is_ok());

        let app = tempfile::tempdir().unwrap();
        std::fs::write(app.path().join("app.py"), "print('from', __file__)").unwrap();
        let (reference, packages) = ("localhost/scaledapp/try:dev", ["python3-minimal"]);
        let start = archive::Start {
            entrypoint: &["python3", "app.py"],
            user: "",
            directory: "/app",
        };
        let archive =
            archive::from_debian(&cluster.cache, reference, &packages, app.path(), &start);
        cluster.load_image(reference, &archive.unwrap()).unwrap();
        let run = [
            "run",
            "try",
            "--rm",
            "--attach",
            "--quiet",
            "--restart=Never",
        ];
        let image = format!("--image={reference}");
        let run = [&run[..], &["--image-pull-policy=Never", &image]].concat();
        let said = cluster.kubectl(&run).text().unwrap();
        assert_eq!(said.trim(), "from /app/app.py");
    }
}
