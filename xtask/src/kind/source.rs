//! Decides whether nodes come from the stock image of kind or from an image that is built here, and
//! configures kind for that image.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use scaledapp_tests::binaries;

use super::cache::{Cache, Key};
use super::engine::{self, Engine};
use super::recipe::{self, KIND};
use super::{cluster, golang, network, node};
use crate::console::{heading, note};

/// How long a registry may take to answer. After that it counts as unreachable.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long pulling half a gigabyte may take.
const PULL_TIMEOUT: Duration = Duration::from_mins(15);

/// The image that the user has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Choice {
    /// The stock image if its registry is reachable, otherwise one built from packages
    #[default]
    Auto,
    /// An image built from Debian packages and Go modules (root on Debian)
    Build,
    /// kindest/node from its registry
    Stock,
}

/// The origin of a cluster's nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// An image of this name, built here.
    Built(String),
    /// The default image of the pinned kind.
    Stock,
}

/// The settings that are appended to kind-config.yaml for nodes that were built here. Since 1.35, a
/// kubelet refuses cgroup v1 unless it is configured otherwise. KubeletInUserNamespace lets the
/// kubelet continue if it may not write OOM scores and sysctls. nftables needs no kernel modules.
const OURS: &str = "\
networking: {disableDefaultCNI: true, kubeProxyMode: nftables, podSubnet: PODS}
featureGates: {KubeletInUserNamespace: true}
kubeadmConfigPatches:
- |
  kind: KubeletConfiguration
  failCgroupV1: false
";

impl Source {
    /// The configuration for kind.
    ///
    /// # Errors
    /// kind-config.yaml cannot be read, or has a setting that must be set here.
    pub(crate) fn configuration(&self) -> anyhow::Result<String> {
        let file = binaries::workspace().join("kind-config.yaml");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        match self {
            Self::Stock => Ok(text),
            Self::Built(_) => extended(&text),
        }
    }

    /// All inputs of a cluster, in one line. A cluster made from other inputs is replaced.
    ///
    /// # Errors
    /// As [`Source::configuration`].
    pub(crate) fn fingerprint(&self) -> anyhow::Result<String> {
        let script = include_str!("../../../tests/cluster/node-network.sh");
        let key = Key::new().and(self.configuration()?).and(script).text();
        let image = match self {
            Self::Built(image) => format!("built {image}"),
            Self::Stock => {
                let kind = golang::version_in(KIND.part, "sigs.k8s.io/kind")?;
                format!("stock kind-{kind}")
            }
        };
        Ok(format!("{image} configuration-{key}"))
    }
}

fn extended(text: &str) -> anyhow::Result<String> {
    for line in OURS.lines() {
        let name = line.split(':').next().unwrap_or(line);
        let top = !name.starts_with([' ', '-']);
        ensure!(
            !top || text
                .lines()
                .all(|line| !line.starts_with(&format!("{name}:"))),
            "kind-config.yaml sets `{name}`, which xtask has to set where no registry is \
             reachable.\nCure: take it out, and set it in xtask/src/kind/source.rs"
        );
    }
    let ours = OURS.replace("PODS", network::PODS);
    Ok(format!("{}\n{ours}", text.trim_end()))
}

/// The sources that are allowed by `choice`. A running cluster is reused only if its nodes come
/// from one of these.
///
/// # Errors
/// A part of the recipe cannot be read.
pub(crate) fn acceptable(choice: Choice) -> anyhow::Result<Vec<Source>> {
    let built = || node::name().map(Source::Built);
    Ok(match choice {
        Choice::Auto => vec![built()?, Source::Stock],
        Choice::Build => vec![built()?],
        Choice::Stock => vec![Source::Stock],
    })
}

/// An engine for this choice, preferably the engine that has the cluster's nodes.
///
/// # Errors
/// No engine works, and none can be installed.
pub(crate) fn engine(cache: &Cache, choice: Choice) -> anyhow::Result<Engine> {
    if choice == Choice::Build {
        return Engine::podman(cache);
    }
    match cluster::engine(cache) {
        Some(engine) => Ok(engine),
        None if choice == Choice::Auto => Engine::podman(cache),
        None => bail!(
            "neither Docker nor podman runs here.\nCure: install one of them (for Docker: \
             start its daemon), or use `--image build` as root on Debian"
        ),
    }
}

/// Decides where the nodes of a new cluster come from, and pulls or builds their image.
///
/// # Errors
/// The image can neither be pulled nor built.
pub(crate) fn obtain(
    cache: &Cache,
    engine: Engine,
    choice: Choice,
) -> anyhow::Result<(Source, Engine)> {
    let image = node::name()?;
    let there = engine.program() == "podman" && engine.has_image(&image);
    if choice == Choice::Stock || (choice == Choice::Auto && !there) {
        if !golang::is_there() {
            // Without Go nothing can be built, so kind must pull its image itself.
            return Ok((Source::Stock, engine));
        }
        heading("Looking for a container registry");
        match pull(&engine) {
            Ok(()) => return Ok((Source::Stock, engine)),
            Err(error) if choice == Choice::Stock => {
                bail!("{error:#}\nCure: connect this machine to it, or use `--image build`")
            }
            Err(error) => {
                let reason = format!("{error:#}");
                let last = reason.lines().last().unwrap_or_default();
                note(last.trim_start_matches([' ', '|']));
                note("No registry is reachable: the node image is built from packages.");
            }
        }
    }
    let engine = if engine.program() == "podman" {
        engine
    } else {
        Engine::podman(cache)?
    };
    if !there {
        engine::machine_can_build()?;
    }
    node::ensure_image(cache, &engine, &image)?;
    Ok((Source::Built(image), engine))
}

/// Pulls the stock image, after a check that its registry answers.
fn pull(engine: &Engine) -> anyhow::Result<()> {
    let source = golang::module_directory(KIND.part, "sigs.k8s.io/kind")?;
    let file = source.join("pkg/apis/config/defaults/image.go");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let image = format!("docker.io/{}", recipe::stock_image(&text)?);
    // podman accepts a tag or a digest, not both; the digest is enough.
    let (name, digest) = image.split_once('@').unwrap_or((&image, ""));
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    let exact = format!("{name}@{digest}");
    let look = engine.run(&["manifest", "inspect", &exact]);
    look.within(ANSWER_TIMEOUT).done()?;
    engine.run(&["pull", &exact]).within(PULL_TIMEOUT).done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_settings_are_appended_to_the_configuration() {
        let text = extended("kind: Cluster\nnodes: []\n").unwrap();
        assert!(
            text.starts_with("kind: Cluster\nnodes: []\nnetworking:"),
            "{text}"
        );
    }

    #[test]
    fn a_setting_that_is_ours_is_refused_by_name() {
        let text = extended("networking: {}\n").unwrap_err().to_string();
        assert!(text.contains("sets `networking`"), "{text}");
        extended("nodes:\n- role: worker\n  kubeadmConfigPatches: []\n").unwrap();
    }

    #[test]
    fn the_configuration_of_the_repository_can_be_extended() {
        let source = Source::Built("x".to_owned());
        let text = source.configuration().unwrap();
        assert_eq!(text.matches("- role:").count(), 3);
        assert_ne!(
            source.fingerprint().unwrap(),
            Source::Stock.fingerprint().unwrap()
        );
    }
}
