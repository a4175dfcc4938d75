//! The way to a registry: crane pushes images, and helm pushes the chart. Both get the credentials
//! that `credentials` finds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::chart::Release;
use super::component::{Built, Component};
use super::credentials::{self, Credentials};
use crate::console::{note, timed};
use crate::kind::cache::Cache;
use crate::kind::golang;
use crate::kind::recipe;
use crate::kind::run::Run;

/// How long one upload may take.
const PUSH_TIMEOUT: Duration = Duration::from_mins(10);
const CURE: &str = "log in with `docker login REGISTRY`, `podman login` or `helm registry login`; \
    if the registry speaks http, add --plain-http; if its certificate is signed by an authority of \
    your own, add --ca-file FILE; whether the repository has to exist first depends on the registry";

/// How a registry is reached.
#[derive(Debug, Default)]
pub(super) struct Access {
    /// It speaks http.
    pub(super) plain_http: bool,
    /// A file with the certificates of authorities that the machine does not know.
    pub(super) ca_file: Option<PathBuf>,
}

/// What is pushed, and where to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upload<'a> {
    pub(super) built: &'a [Built],
    pub(super) release: &'a Release,
    /// The registry, with the path before the names of the images.
    pub(super) prefix: &'a str,
    /// The tag of the images.
    pub(super) tag: &'a str,
    pub(super) access: &'a Access,
}

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
pub(super) fn everything(cache: &Cache, upload: Upload<'_>) -> anyhow::Result<()> {
    with_login(cache, upload, |name| {
        std::env::var_os(name).map(PathBuf::from)
    })
}

/// As [`everything`], with the environment variables that lead to stored credentials.
pub(super) fn with_login(
    cache: &Cache,
    upload: Upload<'_>,
    environment: impl Fn(&str) -> Option<PathBuf>,
) -> anyhow::Result<()> {
    let Upload {
        built,
        release,
        prefix,
        tag,
        access,
    } = upload;
    let crane = golang::programs(cache, &recipe::CRANE)?.join("crane");
    let helm = golang::client(cache, &recipe::HELM)?;
    let registry = prefix.split('/').next().unwrap_or(prefix);
    let credentials = credentials::find(registry, environment)?;
    match &credentials {
        Some(found) => note(&format!(
            "Credentials for {registry} come from {}.",
            found.source.display()
        )),
        None => note(&format!(
            "There are no stored credentials for {registry}; it is asked without any."
        )),
    }
    let with = |program: &Path, words: &[OsString]| {
        let run = Run::new(program, words).within(PUSH_TIMEOUT).cure(CURE);
        surrounded(run, access, credentials.as_ref())
    };
    for image in built {
        let reference = format!("{}:{tag}", repository(prefix, image.component));
        let log = cache.log(&format!("push-{}", image.component.name));
        timed(&format!("Pushing {reference}"), || {
            let layout = image.layout.clone().into_os_string();
            let words = crane_words(access, ["push".into(), layout, (&reference).into()]);
            with(&crane, &words).log(log).done()
        })?;
        let words = crane_words(access, ["digest".into(), (&reference).into()]);
        let digest = with(&crane, &words).text();
        let digest = digest.context("the pushed image cannot be read")?;
        ensure!(
            digest.trim() == image.digest,
            "{reference} is {digest} in the registry, but {} was pushed: somebody else pushes there",
            image.digest
        );
    }
    let to = format!("oci://{prefix}");
    timed(&format!("Pushing the chart to {to}/scaledapp"), || {
        let mut words: Vec<OsString> = vec!["push".into(), (&release.chart).into(), (&to).into()];
        words.extend(access.plain_http.then(|| "--plain-http".into()));
        if let Some(found) = &credentials {
            words.extend(["--registry-config".into(), found.file().into_os_string()]);
        }
        // Helm writes times of this machine's zone into what it pushes.
        with(&helm, &words).env("TZ", "UTC").done()
    })
}

fn crane_words<const N: usize>(access: &Access, words: [OsString; N]) -> Vec<OsString> {
    let mut words = Vec::from(words);
    words.extend(access.plain_http.then(|| "--insecure".into()));
    words
}

/// Adds what crane and helm read from their environment.
fn surrounded(mut run: Run, access: &Access, credentials: Option<&Credentials>) -> Run {
    if let Some(found) = credentials {
        run = run.env("DOCKER_CONFIG", found.directory());
    }
    if let Some(file) = &access.ca_file {
        // Go also reads the directory with the machine's own authorities.
        run = run.env("SSL_CERT_FILE", file);
    }
    run
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
