//! The way to a registry: crane pushes images, and helm pushes the chart. Both read the credentials
//! that `docker login`, `podman login`, `crane auth login` or `helm registry login` have stored.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::chart::Release;
use super::{Built, Component};
use crate::console::timed;
use crate::kind::cache::Cache;
use crate::kind::golang;
use crate::kind::recipe;
use crate::kind::run::Run;

/// How long one upload may take.
const PUSH_TIMEOUT: Duration = Duration::from_mins(10);
const CURE: &str = "log in with `docker login REGISTRY`, `podman login` or `helm registry login`; \
    if the registry speaks http, add --plain-http; whether the repository has to exist first \
    depends on the registry";

/// The repository of a component's image.
pub(super) fn repository(prefix: &str, component: Component) -> String {
    format!("{prefix}/{}", component.program())
}

/// Refuses what is not the beginning of an image's name.
pub(super) fn check_prefix(prefix: &str) -> anyhow::Result<()> {
    let (host, path) = prefix.split_once('/').unwrap_or((prefix, ""));
    let is_host = host == "localhost" || host.contains(['.', ':']);
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte);
    ensure!(
        is_host && path.bytes().all(allowed) && !prefix.contains("//"),
        "{prefix:?} is not the beginning of an image's name: give a registry and a path in small letters, such as registry.example/team, without https:// and without a tag"
    );
    Ok(())
}

/// Pushes all images with their tag, then the chart.
///
/// # Errors
/// A tool cannot be built, or the registry refuses.
pub(super) fn everything(
    cache: &Cache,
    built: &[Built],
    release: &Release,
    prefix: &str,
    tag: &str,
    plain_http: bool,
) -> anyhow::Result<()> {
    let crane = golang::programs(cache, &recipe::CRANE)?.join("crane");
    for image in built {
        let reference = format!("{}:{tag}", repository(prefix, image.component));
        timed(&format!("Pushing {reference}"), || {
            push_image(&crane, &image.layout, &reference, plain_http)
        })?;
        let command = digest(&crane, &reference, plain_http);
        let digest = command.text().context("the pushed image cannot be read")?;
        ensure!(
            digest.trim() == image.digest,
            "{reference} is {digest} in the registry, but {} was pushed: somebody else pushes there",
            image.digest
        );
    }
    let helm = golang::client(cache, &recipe::HELM)?;
    let to = format!("oci://{prefix}");
    timed(&format!("Pushing the chart to {to}/scaledapp"), || {
        let mut words = vec![Path::new("push"), &release.chart, Path::new(&to)];
        if plain_http {
            words.push(Path::new("--plain-http"));
        }
        Run::new(&helm, &words)
            .within(PUSH_TIMEOUT)
            .cure(CURE)
            .done()
    })
}

fn push_image(
    crane: &Path,
    layout: &Path,
    reference: &str,
    plain_http: bool,
) -> anyhow::Result<()> {
    let layout = layout.to_string_lossy();
    let mut words = vec!["push", &*layout, reference, "--index"];
    words.extend(plain_http.then_some("--insecure"));
    Run::new(crane, &words)
        .within(PUSH_TIMEOUT)
        .cure(CURE)
        .done()
}

fn digest(crane: &Path, reference: &str, plain_http: bool) -> Run {
    let mut words = vec!["digest", reference];
    words.extend(plain_http.then_some("--insecure"));
    Run::new(crane, &words).within(PUSH_TIMEOUT).cure(CURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_registry_with_a_path() {
        for good in [
            "registry.example/team",
            "localhost:5000",
            "localhost/x",
            "ghcr.io/a/b-c",
        ] {
            check_prefix(good).unwrap();
        }
        for bad in [
            "",
            "team",
            "https://registry.example/team",
            "registry.example/Team",
            "registry.example/team:1",
            "registry.example//x",
        ] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}
