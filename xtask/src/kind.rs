//! `cargo xtask kind`: a three-node cluster for tests and for trying things
//! out, with or without a container registry in reach.
//!
//! This file has the command and what others of this crate do with a cluster.
//! How one is made is decided below: `cluster` its life, `source` where nodes
//! come from, `node` and `recipe` what a node is made of, `archive` images
//! without an engine, `engine` what runs nodes, `run` how commands are called.

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

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use crate::console::{heading, note, say, seconds, timed};
use crate::{compile, distribution};
use cache::Cache;
use engine::Engine;
use run::Run;
use source::Choice;

/// Of the cluster; the name in kind-config.yaml.
const NAME: &str = "scaledapp";

/// Loading an archive into three nodes.
const LOAD: Duration = Duration::from_mins(10);

/// `kind` as typed.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Words {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    up: Up,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create the cluster, or reuse it if it is healthy (the default)
    Up(Up),
    /// Remove the cluster and keep what it was made from
    Down {
        /// Remove what it was made from, too: node image and target/kind
        #[arg(long)]
        all: bool,
    },
    /// Say whether the cluster is there and healthy; exit code 1 if not
    Status,
    /// Try in the cluster what tests rely on (after `cargo xtask build`)
    Check,
}

#[derive(Debug, Args, Default)]
struct Up {
    /// Where the nodes' image comes from
    #[arg(long, value_enum, default_value_t)]
    image: Choice,
    /// The cluster alone: no ScaledApp, no sample
    #[arg(long)]
    bare: bool,
}

/// Runs the command; whether all is well.
///
/// # Errors
/// A step failed; the text names the cure.
pub(crate) fn run(words: Words) -> anyhow::Result<bool> {
    match words.action.unwrap_or(Action::Up(words.up)) {
        Action::Up(up) => {
            let begun = Instant::now();
            let cluster = ensure(up.image)?;
            if !up.bare {
                compile::run()?;
                deploy::all(&cluster)?;
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

/// What tests need to know of a cluster on which ScaledApp is installed; made
/// and installed if need be.
///
/// # Errors
/// A step fails.
pub(crate) fn for_tests() -> anyhow::Result<Vec<(&'static str, String)>> {
    let cluster = ensure(Choice::Auto)?;
    deploy::all(&cluster)?;
    let helm = golang::client(&cluster.cache, &recipe::HELM)?;
    let prefix = cluster.engine.prefix();
    // What sets the engine up is a variable.
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

/// Where helm is, for tests that need no cluster; compiled at its first use.
///
/// # Errors
/// It does not compile.
pub(crate) fn helm_for_tests() -> anyhow::Result<(&'static str, String)> {
    let helm = golang::client(&Cache::new(), &recipe::HELM)?;
    Ok(("SCALEDAPP_HELM", helm.to_string_lossy().into_owned()))
}

/// Where the programs of a control plane are, for tests that start one without
/// nodes; compiled if need be, as for the nodes of a cluster. Empty without Go:
/// the tests say what they miss.
///
/// # Errors
/// One does not compile.
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

/// A running cluster, new or as it was.
///
/// # Errors
/// None can be made.
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
        None => note("It was never finished, or is stopped: `cargo xtask kind` makes it anew."),
    }
    let cluster = Cluster { cache, engine };
    if !cluster.kubeconfig().is_file() {
        note("This checkout has no kubeconfig for it: `cargo xtask kind` writes one.");
        return Ok(false);
    }
    match cluster::healthy(&cluster) {
        Ok(()) => {
            note("Healthy: all nodes are Ready and reach Services, CoreDNS is rolled out.");
            cluster.explain();
            Ok(true)
        }
        Err(error) => {
            note(&format!("Not healthy: {error:#}"));
            Ok(false)
        }
    }
}

/// A cluster to work with. It goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    cache: Cache,
    engine: Engine,
}

impl Cluster {
    /// How clients reach it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.cache.kubeconfig()
    }

    /// Where `kubectl`, `kind` and, once asked for, `helm` are.
    pub(crate) fn bin(&self) -> PathBuf {
        self.cache.bin()
    }

    /// What runs its nodes.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests that stop a node"))]
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// kubectl with these words, for this cluster.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Run {
        Run::new(self.bin().join("kubectl"), words).env("KUBECONFIG", self.kubeconfig())
    }

    /// helm with these words, for this cluster; compiled at its first use.
    ///
    /// # Errors
    /// It does not compile.
    pub(crate) fn helm(&self, words: &[&str]) -> anyhow::Result<Run> {
        let helm = golang::client(&self.cache, &recipe::HELM)?;
        Ok(Run::new(helm, words).env("KUBECONFIG", self.kubeconfig()))
    }

    /// Names of its nodes, the control plane first.
    ///
    /// # Errors
    /// The engine does not answer.
    pub(crate) fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let nodes = cluster::containers(&self.engine)?;
        Ok(nodes.into_iter().map(|node| node.name).collect())
    }

    /// Runs a command on a node, where addresses of pods and Services are
    /// reached; what it prints.
    ///
    /// # Errors
    /// It fails, or takes longer than a minute.
    pub(crate) fn node_exec(&self, node: &str, words: &[&str]) -> anyhow::Result<String> {
        let words = [&["exec", node][..], words].concat();
        self.engine.run(&words).text()
    }

    /// Puts the archive of an image (see [`archive`]) into every node that does
    /// not have it. Pods use it with `imagePullPolicy: IfNotPresent`.
    ///
    /// # Errors
    /// A node cannot take it.
    pub(crate) fn load_image(&self, reference: &str, archive: &Path) -> anyhow::Result<()> {
        let nodes = self.nodes()?;
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        // The last archive that was loaded under this reference; the kubelet
        // may have removed the image since.
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
        let load = self.engine.kind(&kind, &words).within(LOAD);
        load.log(self.cache.log("load")).done()?;
        for node in without {
            let write = r#"printf %s "$1" >"$2""#;
            self.node_exec(node, &["sh", "-c", write, "sh", &name, &mark])?;
        }
        Ok(())
    }

    /// Says how to use it.
    fn explain(&self) {
        let (kubeconfig, bin) = (self.kubeconfig(), self.bin());
        note(&format!("export KUBECONFIG={}", kubeconfig.display()));
        note(&format!("export PATH={}:$PATH", bin.display()));
        note("kubectl get nodes");
        say("");
        note("Addresses of Services and pods are reached from its nodes:");
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

    /// What no command uses yet, tried for as long as that is so.
    #[test]
    #[ignore = "needs a running cluster and compiles helm: run it by its name"]
    fn what_later_steps_need_works_in_the_running_cluster() {
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
