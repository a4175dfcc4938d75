//! Where nodes come from: the stock image of kind, or one that we build. Which
//! of the two is decided here, and what kind is told for each.

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

/// A registry that has not answered by then is out of reach.
const ANSWERS: Duration = Duration::from_secs(20);
/// Half a gigabyte.
const PULL: Duration = Duration::from_mins(15);

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Choice {
    /// The stock image if its registry is reachable, else one built from packages
    #[default]
    Auto,
    /// An image built from Debian packages and Go modules (root on Debian)
    Build,
    /// kindest/node from its registry
    Stock,
}

/// Where nodes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Built here, under this name.
    Built(String),
    /// Whatever the pinned kind takes by default.
    Stock,
}

/// Appended to kind-config.yaml for nodes that we built. kubelets from 1.35 on
/// refuse cgroup v1 unless they are told; KubeletInUserNamespace lets one go on
/// when it may not write OOM scores and sysctls; nftables needs no modules.
const OURS: &str = "\
networking: {disableDefaultCNI: true, kubeProxyMode: nftables, podSubnet: PODS}
featureGates: {KubeletInUserNamespace: true}
kubeadmConfigPatches:
- |
  kind: KubeletConfiguration
  failCgroupV1: false
";

impl Source {
    /// What kind is told.
    ///
    /// # Errors
    /// kind-config.yaml cannot be read or sets what we have to.
    pub(crate) fn configuration(&self) -> anyhow::Result<String> {
        let file = binaries::workspace().join("kind-config.yaml");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        match self {
            Self::Stock => Ok(text),
            Self::Built(_) => extended(&text),
        }
    }

    /// All that a cluster is made from, in one line: a cluster that was made
    /// from something else is made anew.
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

/// Sources that a running cluster may come from to be good enough.
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

/// An engine for this choice: the one that has our nodes, if any does.
///
/// # Errors
/// There is none and none can be installed.
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

/// Decides where nodes of a new cluster come from, and gets their image.
///
/// # Errors
/// The image can neither be had nor built.
pub(crate) fn obtain(
    cache: &Cache,
    engine: Engine,
    choice: Choice,
) -> anyhow::Result<(Source, Engine)> {
    let image = node::name()?;
    let there = engine.program() == "podman" && engine.has_image(&image);
    if choice == Choice::Stock || (choice == Choice::Auto && !there) {
        if !golang::is_there() {
            // Nothing can be built, and kind pulls its image by itself.
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

/// Pulls the stock image, after a look whether its registry answers at all.
fn pull(engine: &Engine) -> anyhow::Result<()> {
    let source = golang::module_directory(KIND.part, "sigs.k8s.io/kind")?;
    let file = source.join("pkg/apis/config/defaults/image.go");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let image = format!("docker.io/{}", recipe::stock_image(&text)?);
    // podman takes a tag or a digest, not both; the digest says it all.
    let (name, digest) = image.split_once('@').unwrap_or((&image, ""));
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    let exact = format!("{name}@{digest}");
    let look = engine.run(&["manifest", "inspect", &exact]);
    look.within(ANSWERS).done()?;
    engine.run(&["pull", &exact]).within(PULL).done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_settings_come_after_the_users() {
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
