//! Builds a node image for kind without a container registry, from Debian packages, kind's own node
//! files and the programs of `recipe`. The images of the control plane are made from these programs
//! and `pause.c`, and are already in the node's containerd. `source` decides whether an image is
//! built.
//!
//! The content follows kind's images/base/Dockerfile and `kind build node-image`. Comments give the
//! reason for each difference.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use scaledapp_tests::binaries;
use serde_json::{Value, json};

use super::archive::{self, Start};
use super::cache::{Cache, Key, remove};
use super::debian::{self, Variant};
use super::engine::Engine;
use super::golang;
use super::recipe::{
    CONTAINERS, COREDNS, ETCD, KIND, KUBECTL, KUBERNETES, NODE, NODE_PACKAGES, PROXY_PACKAGES, Unit,
};
use super::run::Run;
use crate::console::{note, timed};

const REPOSITORY: &str = "localhost/scaledapp/node";

/// How long reading and writing a gigabyte may take on a busy disk.
const COPY_TIMEOUT: Duration = Duration::from_mins(10);

/// The start settings that kind expects of a node image, as at the end of kind's Dockerfile.
const START: [&str; 3] = [
    "ENTRYPOINT [\"/usr/local/bin/entrypoint\",\"/sbin/init\"]",
    "ENV container=docker",
    "STOPSIGNAL SIGRTMIN+3",
];

/// Directories of a node that kubeadm, the kubelet, containerd or kind expects, or into which files
/// are put here.
const DIRECTORIES: [&str; 6] = [
    "opt/cni/bin",
    "etc/cni/net.d",
    "etc/kubernetes/manifests",
    "kind/manifests",
    "usr/local/bin",
    "images",
];

/// A file below `tests/cluster`.
fn ours(name: &str) -> PathBuf {
    binaries::workspace().join("tests/cluster").join(name)
}

/// The name of the image that this recipe makes.
///
/// # Errors
/// A part of the recipe cannot be read.
pub(crate) fn name() -> anyhow::Result<String> {
    let mut key = Key::new().and(include_str!("node.rs"));
    for unit in NODE {
        key = key.and(golang::key(unit)?.text());
    }
    key = key.and(debian::key(Variant::Minimal, NODE_PACKAGES).text());
    key = key.and(debian::key(Variant::FilesOnly, PROXY_PACKAGES).text());
    for file in ["node-rootfs.sh", "pause.c", "default-storage.yaml"] {
        key = key.and_file(&ours(file))?;
    }
    // kind's node files come from this version.
    key = key.and(golang::version_in(KIND.part, "sigs.k8s.io/kind")?);
    let version = golang::kubernetes_version()?;
    Ok(format!("{REPOSITORY}:{version}-{}", key.text()))
}

/// The names of all node images that were built here.
///
/// # Errors
/// The engine does not answer.
pub(crate) fn built(engine: &Engine) -> anyhow::Result<Vec<String>> {
    let format = "{{.Repository}}:{{.Tag}}";
    let words = ["images", "--format", format, REPOSITORY];
    let listed = engine.run(&words).text()?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Builds the image unless it exists.
///
/// # Errors
/// A part cannot be compiled or downloaded, or the image cannot be assembled.
pub(crate) fn ensure_image(cache: &Cache, engine: &Engine, image: &str) -> anyhow::Result<()> {
    if engine.has_image(image) {
        return Ok(());
    }
    note(&format!(
        "{image} does not exist yet, so it is built from packages."
    ));

    if !golang::has(cache, &KUBERNETES)? {
        note("With an empty Go cache, this takes a quarter of an hour on two cores.");
        note("Completed parts are kept: if this run is stopped, the next one continues there.");
    }
    let mut programs = Vec::new();
    for unit in NODE {
        programs.push((unit.name, golang::programs(cache, unit)?));
    }
    let of = |unit: &Unit| {
        let found = programs.iter().find(|(name, _)| *name == unit.name);
        found
            .map(|(_, directory)| directory.clone())
            .context("every unit of a node is compiled")
    };
    let pieces = Built {
        kubernetes: of(&KUBERNETES)?,
        kubectl: of(&KUBECTL)?,
        containers: of(&CONTAINERS)?,
        coredns: of(&COREDNS)?,
        etcd: of(&ETCD)?,
        debian: debian::root(cache, "node", Variant::Minimal, NODE_PACKAGES)?,
        proxy: debian::root(cache, "kube-proxy", Variant::FilesOnly, PROXY_PACKAGES)?,
        version: golang::kubernetes_version()?,
    };
    // The work directory is not in /tmp, which may be in memory or too small. A killed run leaves
    // its directory behind, so an existing directory is removed first.
    let work = cache.at("work")?;
    remove(&work)?;
    let root = work.join("root");
    timed("Images of the control plane", || {
        images(&pieces, &work, &root.join("images"))
    })?;
    timed("Root file system of a node", || {
        assemble(cache, &pieces, &root)
    })?;
    timed(&format!("Image {image}"), || {
        let layer = work.join("root.tar");
        let (layer, root) = (layer.to_string_lossy(), root.to_string_lossy());
        let words = ["-cf", &layer, "--numeric-owner", "-C", &root, "."];
        Run::new("tar", &words).within(COPY_TIMEOUT).done()?;
        let mut words = vec!["import"];
        words.extend(START.iter().flat_map(|change| ["--change", *change]));
        words.extend([&*layer, image]);
        engine.run(&words).within(COPY_TIMEOUT).done()
    })?;
    // Images of earlier recipes are removed. The engine does not remove an image that a cluster
    // still uses.
    for earlier in built(engine)?.iter().filter(|name| *name != image) {
        let _in_use = engine.run(&["image", "rm", earlier]).done();
    }
    remove(&work)
}

/// The parts of the image.
struct Built {
    kubernetes: PathBuf,
    kubectl: PathBuf,
    containers: PathBuf,
    coredns: PathBuf,
    etcd: PathBuf,
    debian: PathBuf,
    proxy: PathBuf,
    version: String,
}

impl Built {
    /// The images that this version of kubeadm needs.
    fn references(&self) -> anyhow::Result<Vec<String>> {
        let kubeadm = self.kubernetes.join("kubeadm");
        let words = ["config", "images", "list", "--kubernetes-version"];
        let words = [&words[..], &[&self.version]].concat();
        let listed = Run::new(kubeadm, &words).text()?;
        Ok(listed.lines().map(str::to_owned).collect())
    }
}

/// The name of the program in an image such as `registry.k8s.io/coredns/coredns:v1.14.3`.
fn program_of(reference: &str) -> &str {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    last.split(':').next().unwrap_or(last)
}

/// Writes an archive of each image of the control plane.
fn images(built: &Built, work: &Path, into: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(into)?;
    let pause = work.join("pause");
    let (output, source) = (pause.to_string_lossy(), ours("pause.c"));
    let source = source.to_string_lossy();
    Run::new("cc", &["-Os", "-static", "-o", &*output, &*source])
        .cure("apt-get install -y gcc libc6-dev")
        .done()?;
    for reference in built.references()? {
        let program = program_of(&reference);
        let binary = match program {
            "pause" => pause.clone(),
            "etcd" => built.etcd.join(program),
            "coredns" => built.coredns.join(program),
            _ => built.kubernetes.join(program),
        };
        ensure!(
            binary.is_file(),
            "kubeadm asks for {reference}, and nothing in tests/cluster/parts builds that.\n\
             Cure: add it to xtask/src/kind/recipe.rs"
        );
        let at = format!("/usr/local/bin/{program}");
        let start = Start {
            entrypoint: &[&at],
            ..Start::default()
        };
        let root = (program == "kube-proxy").then_some(built.proxy.as_path());
        let archive = into.join(format!("{program}.tar"));
        archive::write(&archive, &reference, root, &[(&binary, &at)], &start)?;
        note(&reference);
    }
    Ok(())
}

/// Unpacks a root file system and turns it into that of a node.
fn assemble(cache: &Cache, built: &Built, root: &Path) -> anyhow::Result<()> {
    let (archive, at) = (built.debian.to_string_lossy(), root.to_string_lossy());
    let words = ["-xf", &archive, "--numeric-owner", "-C", &at];
    Run::new("tar", &words).within(COPY_TIMEOUT).done()?;
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    let kind = golang::module_directory(KIND.part, "sigs.k8s.io/kind")?;
    let files = kind.join("images/base/files");
    copy(&files, &files, root)?;
    let programs = [
        (&built.kubernetes, "usr/bin", &["kubelet", "kubeadm"][..]),
        (&built.kubectl, "usr/bin", &["kubectl"]),
        (
            &built.containers,
            "usr/local/bin",
            &["containerd", "ctr", "containerd-shim-runc-v2"],
        ),
        (
            &built.containers,
            "opt/cni/bin",
            &["ptp", "loopback", "host-local", "portmap"],
        ),
    ];
    for (from, to, names) in programs {
        for name in names {
            place(&from.join(name), &root.join(to).join(name), 0o755)?;
        }
    }
    let storage = root.join("kind/manifests/default-storage.yaml");
    place(&ours("default-storage.yaml"), &storage, 0o644)?;
    fs::write(root.join("kind/version"), &built.version)?;
    let references = built.references()?;
    let pause = references.iter().find(|name| program_of(name) == "pause");
    let pause = pause.context("kubeadm names no pause image")?;
    let config = root.join("etc/containerd/config.toml");
    let text = fs::read_to_string(&config)?;
    fs::write(&config, containerd_config(&text, pause)?)?;
    // The script runs in PID and mount namespaces of its own, so its processes and mounts end with
    // the script, even if this program is killed.
    let words = ["--mount", "--pid", "--fork", "--kill-child", "chroot"];
    let script = fs::read_to_string(ours("node-rootfs.sh"))?;
    let words = [&words[..], &[&at, "bash", "-euc", &script]].concat();
    Run::new("unshare", &words)
        .within(COPY_TIMEOUT)
        .log(cache.log("node-rootfs"))
        .done()?;
    let spec = Run::new("chroot", &[&at, "ctr", "oci", "spec"]).text()?;
    let spec = base_spec(serde_json::from_str(&spec)?)?;
    fs::write(root.join("etc/containerd/cri-base.json"), spec.to_string())?;
    Ok(())
}

/// Copies kind's node files. Scripts are made executable as in kind's Dockerfile, because files in
/// Go's cache are not.
fn copy(files: &Path, from: &Path, root: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            copy(files, &path, root)?;
            continue;
        }
        let name = path.strip_prefix(files)?;
        let program = name.starts_with("kind/bin") || name.starts_with("usr/local/bin");
        place(&path, &root.join(name), if program { 0o755 } else { 0o644 })?;
    }
    Ok(())
}

fn place(from: &Path, to: &Path, mode: u32) -> anyhow::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    remove(to)?;
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

/// kind's configuration of containerd, with `pause` as the pause image. OOM scores are clamped,
/// because negative ones cannot be set without CAP_SYS_RESOURCE.
fn containerd_config(text: &str, pause: &str) -> anyhow::Result<String> {
    const RESTRICT: &str = "restrict_oom_score_adj = ";
    const SANDBOX: &str = "sandbox_image = ";
    let lines = text.lines().map(|line| {
        let indent = &line[..line.len() - line.trim_start().len()];
        if line.trim_start().starts_with(RESTRICT) {
            format!("{indent}{RESTRICT}true\n")
        } else if line.trim_start().starts_with(SANDBOX) {
            format!("{indent}{SANDBOX}\"{pause}\"\n")
        } else {
            format!("{line}\n")
        }
    });
    let changed: String = lines.collect();
    for wanted in [RESTRICT, SANDBOX] {
        ensure!(
            changed.contains(wanted),
            "kind's containerd configuration has no `{wanted}` any more: compare \
             images/base/files/etc/containerd/config.toml of the pinned kind"
        );
    }
    Ok(changed)
}

/// The base specification of every container, as kind makes it: a hook hides the machine's product
/// files, and no limits are set, so that those of the node apply.
fn base_spec(mut spec: Value) -> anyhow::Result<Value> {
    let hook = json!({"path": "/kind/bin/mount-product-files.sh"});
    let hooks = &mut spec["hooks"]["createContainer"];
    match hooks.as_array_mut() {
        Some(hooks) => hooks.push(hook),
        None => *hooks = json!([hook]),
    }
    let process = spec["process"].as_object_mut();
    process
        .context("the output of `ctr oci spec` has no process")?
        .remove("rlimits");
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_their_images() {
        assert_eq!(program_of("registry.k8s.io/coredns/coredns:v1"), "coredns");
        assert_eq!(program_of("registry.k8s.io/pause:3.10"), "pause");
    }

    #[test]
    fn containerd_gets_our_pause_image_and_clamped_scores() {
        let text = "[a]\n  sandbox_image = \"x\"\n  restrict_oom_score_adj = false\n";
        assert_eq!(
            containerd_config(text, "pause:1").unwrap(),
            "[a]\n  sandbox_image = \"pause:1\"\n  restrict_oom_score_adj = true\n"
        );
        containerd_config("[a]", "pause:1").unwrap_err();
    }

    #[test]
    fn the_base_of_containers_has_kinds_hook_and_no_limits() {
        let spec = json!({"process": {"rlimits": [1], "args": []}});
        let spec = base_spec(spec).unwrap();
        let hooks = &spec["hooks"]["createContainer"];
        assert_eq!(hooks[0]["path"], "/kind/bin/mount-product-files.sh");
        assert_eq!(spec["process"], json!({"args": []}));
        base_spec(json!({})).unwrap_err();
    }

    #[test]
    fn the_images_name_follows_the_recipe() {
        let name = name().unwrap();
        assert!(name.starts_with("localhost/scaledapp/node:v1."), "{name}");
    }
}
