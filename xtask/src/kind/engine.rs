//! The container engine: which one is installed, which settings it needs on this machine, and how
//! the engine and kind are called. The callers decide what to run.
//!
//! No configuration file of the system is changed: podman gets its settings through
//! CONTAINERS_CONF.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use scaledapp_tests::binaries;

use super::cache::Cache;
use super::run::Run;
use crate::distribution;

/// The packages that podman needs if it is installed without recommended packages.
const PODMAN: &[&str] = &[
    "podman",
    "netavark",
    "aardvark-dns",
    "runc",
    "conmon",
    "iptables",
    "iproute2",
];

/// How long an engine may take to answer. A daemon that takes longer does not work.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// CAP_SYS_RESOURCE in the capability sets of proc(5).
const SYS_RESOURCE: u64 = 1 << 24;

/// Docker or podman.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    program: &'static str,
    settings: Option<PathBuf>,
}

impl Engine {
    /// The engines that are installed and work, Docker before podman.
    pub(crate) fn found(cache: &Cache) -> Vec<Self> {
        let works = |program| {
            binaries::on_path(program).ok()?;
            let engine = Self::of(program, cache).ok()?;
            engine.run(&["info"]).within(ANSWER_TIMEOUT).done().ok()?;
            Some(engine)
        };
        ["docker", "podman"].into_iter().filter_map(works).collect()
    }

    /// Podman, which is installed if necessary. Docker demands every capability for a privileged
    /// container, while podman uses the capabilities that exist.
    ///
    /// # Errors
    /// Podman cannot be installed, or does not run.
    pub(crate) fn podman(cache: &Cache) -> anyhow::Result<Self> {
        distribution::ensure("podman", PODMAN)?;
        for program in ["netavark", "aardvark-dns"] {
            let places = ["/usr/lib/podman", "/usr/libexec/podman"];
            ensure!(
                places
                    .iter()
                    .any(|place| Path::new(place).join(program).exists()),
                "podman is there without {program}, which makes its networks.\n\
                 Cure: apt-get install -y {program}"
            );
        }
        let engine = Self::of("podman", cache)?;
        if engine.settings.is_some() {
            distribution::ensure("runc", &["runc"])?;
        }
        engine
            .run(&["info"])
            .cure("podman does not work here: see its messages, and try `podman info` by hand")
            .done()?;
        Ok(engine)
    }

    fn of(program: &'static str, cache: &Cache) -> anyhow::Result<Self> {
        let mut settings = None;
        if program == "podman"
            && let Some(text) = podman_settings(unified_cgroup(), sys_resource())
        {
            let file = cache.at("containers.conf")?;
            if fs::read_to_string(&file).ok().as_deref() != Some(&text) {
                fs::write(&file, text)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            settings = Some(file);
        }
        Ok(Self { program, settings })
    }

    /// `docker` or `podman`.
    pub(crate) fn program(&self) -> &'static str {
        self.program
    }

    /// A command of the engine.
    pub(crate) fn run(&self, words: &[&str]) -> Run {
        self.with_settings(Run::new(self.program, words))
    }

    /// A kind command for this engine.
    pub(crate) fn kind(&self, kind: &Path, words: &[&str]) -> Run {
        self.with_settings(Run::new(kind, words))
            .env("KIND_EXPERIMENTAL_PROVIDER", self.program)
    }

    fn with_settings(&self, run: Run) -> Run {
        match &self.settings {
            Some(file) => run.env("CONTAINERS_CONF", file),
            None => run,
        }
    }

    /// Whether an image exists.
    pub(crate) fn has_image(&self, image: &str) -> bool {
        self.run(&["image", "inspect", image]).done().is_ok()
    }

    /// The prefix with which a user can call the engine by hand.
    pub(crate) fn prefix(&self) -> String {
        match &self.settings {
            Some(file) => format!("CONTAINERS_CONF={} ", file.display()),
            None => String::new(),
        }
    }
}

/// The settings that podman needs on this machine, if any.
fn podman_settings(unified_cgroup: bool, sys_resource: bool) -> Option<String> {
    let mut text = String::new();
    if !sys_resource {
        // Without the capability a limit can only be lowered, and podman's defaults are higher than
        // the limits of this process.
        text.push_str(
            "[containers]\n\
             default_ulimits = [\"nofile=16384:16384\", \"nproc=16384:16384\"]\n",
        );
    }
    if !unified_cgroup {
        // crun refuses a mix of cgroup v1 and v2.
        text.push_str("[engine]\nruntime = \"runc\"\n");
    }
    (!text.is_empty()).then_some(text)
}

fn unified_cgroup() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn sys_resource() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    has_capability(&status, SYS_RESOURCE)
}

fn has_capability(status: &str, capability: u64) -> bool {
    let mut lines = status.lines();
    let bounding = lines.find_map(|line| line.strip_prefix("CapBnd:"));
    // If the set is unknown, the process probably has the capability, as on most machines.
    bounding
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_none_or(|set| set & capability != 0)
}

/// Installs what building a node image needs besides an engine.
///
/// # Errors
/// This process is not root, or a program is missing and cannot be installed.
pub(crate) fn machine_can_build() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "a node image is built from Debian packages by root only.\nCure: run it as root \
             (`sudo -E env PATH=\"$PATH\" cargo xtask kind`), or where a registry is reachable \
             install Docker and use `--image stock`"
        );
    }
    distribution::ensure("mmdebstrap", &["mmdebstrap"])?;
    distribution::ensure("cc", &["gcc", "libc6-dev"])?;
    // kind mounts this directory into every node, even if it is empty.
    let modules = Path::new("/lib/modules");
    fs::create_dir_all(modules).with_context(|| format!("cannot make {}", modules.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podman_gets_only_the_settings_that_this_machine_needs() {
        assert_eq!(podman_settings(true, true), None);
        let text = podman_settings(false, true).unwrap();
        assert_eq!(text, "[engine]\nruntime = \"runc\"\n");
        let text = podman_settings(true, false).unwrap();
        assert!(text.starts_with("[containers]\ndefault_ulimits"), "{text}");
        assert!(!text.contains("runc"), "{text}");
    }

    #[test]
    fn a_capability_is_read_from_the_bounding_set() {
        let status = "Name:\tx\nCapEff:\t0000000000000000\nCapBnd:\t000001fffeffffff\n";
        assert!(!has_capability(status, SYS_RESOURCE));
        assert!(has_capability(status, 1));
        assert!(has_capability("", SYS_RESOURCE));
    }
}
