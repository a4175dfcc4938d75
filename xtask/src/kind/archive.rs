//! Makes image archives that Docker, podman and containerd can load. Needs files, a start command
//! and possibly a root file system, but no engine. An image is a layer, a configuration with the
//! layer's digest, and a manifest that names both (the format of `docker save`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::cache::{Cache, Key};
use super::debian::{self, Variant};
use super::run::Run;

/// How long copying and hashing several hundred megabytes may take on a busy disk.
const COPY_TIMEOUT: Duration = Duration::from_mins(5);

/// How an image is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Start<'a> {
    /// Program and first arguments.
    pub(crate) entrypoint: &'a [&'a str],
    /// User and group, such as `65534:65534`; empty for root.
    pub(crate) user: &'a str,
    /// Working directory; empty for `/`.
    pub(crate) directory: &'a str,
}

/// A file or directory of this machine, and its path in the image.
pub(crate) type Content<'a> = (&'a Path, &'a str);

/// Makes an archive of an image `reference` (such as `localhost/scaledapp/sidecar:dev`) that
/// contains only these files. It is meant for static binaries.
///
/// # Errors
/// A file cannot be read, or the archive cannot be written.
pub(crate) fn from_scratch(
    cache: &Cache,
    reference: &str,
    files: &[Content<'_>],
    start: &Start<'_>,
) -> anyhow::Result<PathBuf> {
    build(cache, reference, None, files, start)
}

/// Makes an archive of an image with Debian packages (such as `nodejs` or `python3-minimal`) and an
/// app's directory at `/app`.
///
/// # Errors
/// A package is not available, or the archive cannot be written.
pub(crate) fn from_debian(
    cache: &Cache,
    reference: &str,
    packages: &[&str],
    app: &Path,
    start: &Start<'_>,
) -> anyhow::Result<PathBuf> {
    // The root file system is named after the packages, so that apps with the same packages share
    // it.
    let root = debian::root(cache, &packages.join("-"), Variant::Minimal, packages)?;
    build(cache, reference, Some(&root), &[(app, "/app")], start)
}

/// Makes an archive of an image with files and directories, on top of the archive of a root file
/// system if there is one.
///
/// # Errors
/// A file cannot be read, or the archive cannot be written.
pub(crate) fn build(
    cache: &Cache,
    reference: &str,
    root: Option<&Path>,
    contents: &[Content<'_>],
    start: &Start<'_>,
) -> anyhow::Result<PathBuf> {
    let configuration = configuration(start, "");
    let mut key = Key::new().and(reference).and(configuration.to_string());
    // The name of a root file system's archive contains a hash of the inputs that it was made from.
    key = key.and(root.map_or(&[][..], |root| root.as_os_str().as_encoded_bytes()));
    for (source, at) in contents {
        key = key.and(at);
        key = if source.is_dir() {
            key.and_tree(source)?
        } else {
            key.and_file(source)?
        };
    }
    let name = format!("images/{}", reference_file(reference));
    let archive = cache.keyed(&name, key, ".tar")?;
    Cache::once(&archive, |partial| {
        write(partial, reference, root, contents, start)
            .with_context(|| format!("cannot make the image {reference}"))
    })?;
    Ok(archive)
}

/// Writes the archive of an image to the path `archive`, even if that file exists.
///
/// # Errors
/// As [`build`].
pub(crate) fn write(
    archive: &Path,
    reference: &str,
    root: Option<&Path>,
    contents: &[Content<'_>],
    start: &Start<'_>,
) -> anyhow::Result<()> {
    // The work directory is beside the archive, because its content is at least as large as the
    // archive, which may be too much for /tmp.
    let beside = archive.parent().context("an archive is in a directory")?;
    let work = tempfile::tempdir_in(beside)?;
    let layer = work.path().join("layer.tar");
    self::layer(work.path(), &layer, root, contents)?;
    let layer_text = layer.to_string_lossy();
    let digest = Run::new("sha256sum", &[&*layer_text])
        .within(COPY_TIMEOUT)
        .text()?;
    let digest = digest.split_whitespace().next().unwrap_or_default();
    ensure!(digest.len() == 64, "sha256sum says {digest:?}");
    let put = |name: &str, value: &Value| fs::write(work.path().join(name), value.to_string());
    put("config.json", &configuration(start, digest))?;
    put("manifest.json", &manifest(reference))?;
    let (archive, work) = (archive.to_string_lossy(), work.path().to_string_lossy());
    let files = ["manifest.json", "config.json", "layer.tar"];
    tar(&[&["-cf", &*archive, "-C", &*work][..], &files].concat())
}

/// Writes the layer of an image: files and directories on top of the archive of a root file system,
/// if there is one. `work` is a directory that has room for a copy of the contents.
///
/// # Errors
/// As [`build`].
pub(crate) fn layer(
    work: &Path,
    layer: &Path,
    root: Option<&Path>,
    contents: &[Content<'_>],
) -> anyhow::Result<()> {
    let tree = work.join("tree");
    // The image has a /tmp, for mounts and for programs that write to it if the root is writable.
    let temporary = tree.join("tmp");
    fs::create_dir_all(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777))?;
    for (source, at) in contents {
        let at = tree.join(at.trim_start_matches('/'));
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        let (source, at) = (source.to_string_lossy(), at.to_string_lossy());
        Run::new("cp", &["-rT", &source, &at])
            .within(COPY_TIMEOUT)
            .done()?;
    }
    if let Some(root) = root {
        fs::copy(root, layer).with_context(|| format!("cannot copy {}", root.display()))?;
    }
    let (layer, tree) = (layer.to_string_lossy(), tree.to_string_lossy());
    let verb = if root.is_some() { "-rf" } else { "-cf" };
    tar(&[verb, &layer, "-C", &tree, "--mode=a+rX", "."])
}

/// Runs tar with options by which its output depends on the names, modes and content of the files,
/// but not on their times, owners and order.
fn tar(words: &[&str]) -> anyhow::Result<()> {
    let same = [
        "--format=gnu",
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ];
    Run::new("tar", &[&same[..], words].concat())
        .within(COPY_TIMEOUT)
        .cure("an image archive is as large as its content: `df -h target`")
        .done()
}

fn configuration(start: &Start<'_>, digest: &str) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": start.entrypoint,
            "User": start.user,
            "WorkingDir": start.directory,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask kind"}],
    })
}

fn manifest(reference: &str) -> Value {
    json!([{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}])
}

/// The end of a reference as part of a file's name: `sidecar-dev` for
/// `localhost/scaledapp/sidecar:dev`.
fn reference_file(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    name.replace(':', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_what_a_loader_looks_for() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("binary"), "#!").unwrap();
        let start = Start {
            entrypoint: &["/binary", "run"],
            user: "65534:65534",
            ..Start::default()
        };
        let binary = at("binary");
        let contents: [Content<'_>; 1] = [(&binary, "/bin/binary")];
        write(&at("a.tar"), "localhost/x:1", None, &contents, &start).unwrap();
        let show = |member: &str| {
            let archive = at("a.tar").to_string_lossy().into_owned();
            Run::new("tar", &["-xOf", &archive, member]).text().unwrap()
        };
        let manifest: Value = serde_json::from_str(&show("manifest.json")).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "localhost/x:1");
        let config: Value = serde_json::from_str(&show("config.json")).unwrap();
        assert_eq!(config["config"]["Entrypoint"][1], "run");
        let digest = config["rootfs"]["diff_ids"][0].as_str().unwrap();
        assert_eq!(digest.len(), "sha256:".len() + 64);
        // The configuration contains the layer's digest, so a second archive has the same layer.
        write(&at("b.tar"), "localhost/x:1", None, &contents, &start).unwrap();
        assert_eq!(
            show("config.json"),
            Run::new(
                "tar",
                &["-xOf", &at("b.tar").to_string_lossy(), "config.json"]
            )
            .text()
            .unwrap()
        );
    }

    #[test]
    fn names_of_files_are_taken_from_references() {
        assert_eq!(reference_file("localhost/scaledapp/dns:dev"), "dns-dev");
        assert_eq!(reference_file("etcd:3.6"), "etcd-3.6");
    }
}
