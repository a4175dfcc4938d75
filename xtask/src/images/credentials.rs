//! Finds the stored credentials for a registry. Decides which file names the registry; reads no
//! password.
//!
//! docker, podman, helm and crane store credentials in the same format, but each in a file of its
//! own, and crane and helm read only some of them. So that one login is enough, the file that names
//! the registry is shown to both as `config.json` of a directory of its own (`DOCKER_CONFIG`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;

/// A directory with the found file as `config.json`.
#[derive(Debug)]
pub(super) struct Credentials {
    directory: TempDir,
    /// The file that names the registry, for messages.
    pub(super) source: PathBuf,
}

impl Credentials {
    /// The value of `DOCKER_CONFIG`.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The value of helm's `--registry-config`.
    pub(super) fn file(&self) -> PathBuf {
        self.directory.path().join("config.json")
    }
}

/// The credentials for a registry, such as `registry.example:5000`, in the files to which these
/// environment variables lead. `None` if no file names it; then the registry is asked without any.
///
/// # Errors
/// The directory cannot be made.
pub(super) fn find(
    registry: &str,
    environment: impl Fn(&str) -> Option<PathBuf>,
) -> anyhow::Result<Option<Credentials>> {
    let Some(source) = first(registry, &candidates(environment)) else {
        return Ok(None);
    };
    let directory = tempfile::tempdir()?;
    // A link, so that no copy of a password is left behind.
    std::os::unix::fs::symlink(&source, directory.path().join("config.json"))
        .with_context(|| format!("cannot link {}", source.display()))?;
    Ok(Some(Credentials { directory, source }))
}

/// The files in which docker, podman and helm store credentials, by these environment variables.
fn candidates(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let home = |below: &str| variable("HOME").map(|home| home.join(below));
    let configuration = || variable("XDG_CONFIG_HOME").or_else(|| home(".config"));
    let docker = variable("DOCKER_CONFIG").or_else(|| home(".docker"));
    let helm = || Some(configuration()?.join("helm/registry/config.json"));
    let podman = |root: Option<PathBuf>| Some(root?.join("containers/auth.json"));
    // Where podman stores them without a session, such as root's in a container.
    let without_session = || {
        let user = rustix::process::geteuid().as_raw();
        Some(PathBuf::from(format!("/run/containers/{user}/auth.json")))
    };
    [
        variable("REGISTRY_AUTH_FILE"),
        docker.map(|directory| directory.join("config.json")),
        variable("HELM_REGISTRY_CONFIG").or_else(helm),
        podman(variable("XDG_RUNTIME_DIR")).or_else(without_session),
        podman(configuration()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The first file that names the registry; otherwise the first one with a store for all registries.
fn first(registry: &str, files: &[PathBuf]) -> Option<PathBuf> {
    let read = |file: &PathBuf| -> Option<(PathBuf, Value)> {
        let content = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        // A relative path would be read in another directory.
        Some((fs::canonicalize(file).ok()?, content))
    };
    let read: Vec<_> = files.iter().filter_map(read).collect();
    let named = read.iter().find(|(_, content)| names(content, registry));
    let store = |(_, content): &&(PathBuf, Value)| {
        content["credsStore"]
            .as_str()
            .is_some_and(|it| !it.is_empty())
    };
    let found = named.or_else(|| read.iter().find(store));
    found.map(|(file, _)| file.clone())
}

/// Whether a file names the registry: as a host, as an address, or with a path below it.
fn names(content: &Value, registry: &str) -> bool {
    let keys = ["auths", "credHelpers"].map(|kind| content[kind].as_object());
    let mut keys = keys.into_iter().flatten().flat_map(serde_json::Map::keys);
    keys.any(|key| {
        let key = key.trim_start_matches("https://");
        let key = key.trim_start_matches("http://");
        key.split('/').next() == Some(registry)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_registry_is_named_as_a_host_an_address_or_with_a_path() {
        let content = json!({
            "auths": {"https://index.docker.io/v1/": {}, "registry.example:5000": {}, "quay.io/team": {}},
            "credHelpers": {"europe-docker.pkg.dev": "gcloud"},
        });
        for registry in [
            "index.docker.io",
            "registry.example:5000",
            "quay.io",
            "europe-docker.pkg.dev",
        ] {
            assert!(names(&content, registry), "{registry}");
        }
        for registry in ["registry.example", "ghcr.io", "io"] {
            assert!(!names(&content, registry), "{registry}");
        }
    }

    #[test]
    fn the_file_that_names_the_registry_wins_over_an_earlier_one_and_over_a_store() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["docker.json", "helm.json", "missing.json", "broken.json"];
        let files = files.map(|name| directory.path().join(name));
        let store = json!({"auths": {"ghcr.io": {}}, "credsStore": "desktop"});
        fs::write(&files[0], store.to_string()).unwrap();
        fs::write(&files[1], json!({"auths": {"r.example": {}}}).to_string()).unwrap();
        fs::write(&files[3], "{").unwrap();
        let name = |registry| {
            let found = first(registry, &files)?;
            Some(found.file_name()?.to_string_lossy().into_owned())
        };
        assert_eq!(name("r.example").as_deref(), Some("helm.json"));
        assert_eq!(name("ghcr.io").as_deref(), Some("docker.json"));
        assert_eq!(name("other.example").as_deref(), Some("docker.json"));
        assert_eq!(first("other.example", &files[1..]), None);
    }

    #[test]
    fn the_files_of_docker_helm_and_podman_are_looked_at() {
        let variable = |name: &str| match name {
            "HOME" => Some(PathBuf::from("/home/a")),
            "XDG_RUNTIME_DIR" => Some(PathBuf::from("/run/user/1")),
            _ => None,
        };
        let files = candidates(variable);
        assert_eq!(
            files,
            [
                "/home/a/.docker/config.json",
                "/home/a/.config/helm/registry/config.json",
                "/run/user/1/containers/auth.json",
                "/home/a/.config/containers/auth.json",
            ]
            .map(PathBuf::from)
        );
    }
}
