//! The chart of a release, in whose values the images are filled in, and the manifest that it
//! renders to.
//!
//! So `helm install oci://…` needs no values, and `kubectl apply -f install.yaml` installs the same
//! objects without helm. `dist/install.yaml` is the manifest of the chart as it is in this repository,
//! where nobody's registry is filled in: the word REGISTRY stands for it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use scaledapp_tests::binaries;

use super::component::Built;
use crate::kind::cache::Cache;
use crate::kind::golang;
use crate::kind::recipe;
use crate::kind::run::Run;

/// The namespace of the manifest.
const NAMESPACE: &str = "scaledapp-system";

/// What stands for the registry in `dist/install.yaml`. No registry has a name in capitals, so a
/// manifest in which it was forgotten pulls from nowhere.
const NO_REGISTRY: &str = "REGISTRY";

/// The files of a release.
#[derive(Debug)]
pub(super) struct Release {
    /// The packed chart.
    pub(super) chart: PathBuf,
    /// What the chart renders to, with its namespace.
    pub(super) manifest: PathBuf,
}

/// Packs the chart with the images of `built` below `prefix`, and renders it. `source` is the address of
/// the sources, and may be empty.
///
/// # Errors
/// Helm cannot be built, or refuses the chart.
pub(super) fn release(
    cache: &Cache,
    built: &[Built],
    prefix: &str,
    tag: &str,
    source: &str,
    output: &Path,
) -> anyhow::Result<Release> {
    let helm = golang::client(cache, &recipe::HELM)?;
    let work = tempfile::tempdir_in(output)?;
    let chart = work.path().join("scaledapp");
    let original = binaries::workspace().join("charts/scaledapp");
    Run::new("cp", &[Path::new("-rT"), &original, &chart]).done()?;
    let values = chart.join("values.yaml");
    let text = fs::read_to_string(&values)?;
    fs::write(&values, filled(&text, built, prefix, tag)?)?;
    if !source.is_empty() {
        // Helm pushes it as an annotation, by which ghcr.io finds the repository.
        let about = chart.join("Chart.yaml");
        let text = fs::read_to_string(&about)?;
        fs::write(&about, format!("{text}sources: [{source:?}]\n"))?;
    }
    // Helm packs the times of the files; the same sources shall give the same archive.
    without_times(&chart)?;
    let version = env!("CARGO_PKG_VERSION");
    Run::new(
        &helm,
        &[
            Path::new("package"),
            &chart,
            Path::new("--destination"),
            output,
            Path::new("--version"),
            Path::new(version),
            Path::new("--app-version"),
            Path::new(version),
        ],
    )
    .done()?;
    let packed = output.join(format!("scaledapp-{version}.tgz"));
    ensure!(packed.is_file(), "helm has not made {}", packed.display());
    // Helm pushes the time of the archive as that of its creation.
    without_times(&packed)?;
    let manifest = output.join("install.yaml");
    fs::write(&manifest, rendered(&helm, &packed, &[])?)?;
    Ok(Release {
        chart: packed,
        manifest,
    })
}

/// Sets the times of all files below `path` to 0.
fn without_times(path: &Path) -> anyhow::Result<()> {
    let script = r#"find "$0" -exec touch --no-dereference --date=@0 {} +"#;
    Run::new("sh", &[Path::new("-c"), Path::new(script), path]).done()
}

/// The manifest of the chart as it is in this repository, for `dist/install.yaml`.
///
/// # Errors
/// Helm cannot be built, or refuses the chart.
pub(super) fn without_registry(cache: &Cache) -> anyhow::Result<String> {
    let helm = golang::client(cache, &recipe::HELM)?;
    let chart = binaries::workspace().join("charts/scaledapp");
    let manifest = rendered(&helm, &chart, &[&format!("image.registry={NO_REGISTRY}")])?;
    Ok(format!(
        "# What `helm template` makes of charts/scaledapp, for clusters without helm. `cargo xtask images \
         --manifest`\n# writes it. {NO_REGISTRY} stands for the registry to which `cargo xtask images --push` \
         has pushed:\n#   sed 's|{NO_REGISTRY}/|registry.example/team/|' dist/install.yaml | kubectl apply \
         --server-side -f -\n{manifest}"
    ))
}

/// Where `cargo xtask images --manifest` writes [`without_registry`].
pub(super) fn committed() -> PathBuf {
    binaries::workspace().join("dist/install.yaml")
}

fn rendered(helm: &Path, chart: &Path, values: &[&str]) -> anyhow::Result<String> {
    let words = [
        "template",
        "scaledapp",
        "--namespace",
        NAMESPACE,
        "--include-crds",
    ];
    let mut words: Vec<&Path> = words.iter().map(Path::new).collect();
    words.push(chart);
    for value in values {
        words.extend([Path::new("--set"), Path::new(value)]);
    }
    Ok(manifest_of(&Run::new(helm, &words).text()?))
}

/// The values with the registry, and the tag and digest of each image.
fn filled(values: &str, built: &[Built], prefix: &str, tag: &str) -> anyhow::Result<String> {
    let mut text = replaced(
        values,
        "  registry: \"\"\n",
        &format!("  registry: {prefix}\n"),
    )?;
    for image in built {
        let name = image.component.name;
        text = replaced(
            &text,
            &format!("  {name}: {{repository: \"\", tag: \"\", digest: \"\"}}\n"),
            &format!(
                "  {name}: {{repository: \"\", tag: \"{tag}\", digest: \"{}\"}}\n",
                image.digest
            ),
        )?;
    }
    Ok(text)
}

fn replaced(text: &str, from: &str, to: &str) -> anyhow::Result<String> {
    ensure!(
        text.matches(from).count() == 1,
        "the chart's values.yaml does not have this line once: {from}"
    );
    Ok(text.replace(from, to))
}

/// The rendered objects after the namespace that contains them, without hooks, which only helm runs.
fn manifest_of(rendered: &str) -> String {
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n"
    );
    let objects = rendered
        .split("\n---\n")
        .map(|object| object.trim_start_matches("---\n"))
        .filter(|object| !object.contains("helm.sh/hook") && object.contains("kind:"));
    let mut text = namespace;
    for object in objects {
        text.push_str("---\n");
        text.push_str(object.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::component::COMPONENTS;
    use super::*;

    #[test]
    fn the_values_of_a_release_name_each_image_by_its_digest() {
        let path = binaries::workspace().join("charts/scaledapp/values.yaml");
        let values = fs::read_to_string(path).unwrap();
        let built: Vec<Built> = COMPONENTS
            .iter()
            .map(|component| Built {
                component: *component,
                layout: PathBuf::new(),
                digest: format!("sha256:{}", component.name),
            })
            .collect();
        let filled = filled(&values, &built, "registry.example/team", "1.2.3").unwrap();
        assert!(filled.contains("registry: registry.example/team\n"));
        for component in COMPONENTS {
            let digest = format!("digest: \"sha256:{}\"", component.name);
            assert!(filled.contains(&digest), "{filled}");
        }
    }

    #[test]
    fn a_manifest_begins_with_its_namespace_and_has_no_hooks() {
        let rendered = "---\n# Source: a\nkind: A\n---\n# Source: t\nkind: Pod\nmetadata:\n  annotations:\n    helm.sh/hook: test\n---\n# Source: b\nkind: B\n";
        let text = manifest_of(rendered);
        let kinds: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("kind: "))
            .collect();
        assert_eq!(kinds, ["Namespace", "A", "B"]);
    }

    #[test]
    fn the_committed_manifest_is_what_helm_renders() {
        let cache = Cache::new();
        if golang::client(&cache, &recipe::HELM).is_err() {
            println!("skipped: there is no helm, and no Go that compiles it");
            return;
        }
        let expected = without_registry(&cache).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            fs::write(committed(), &expected).unwrap();
        }
        let found = fs::read_to_string(committed()).unwrap_or_default();
        // Thousands of lines are no message.
        let differs = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
        assert!(
            found == expected,
            "dist/install.yaml is not what helm renders: `cargo xtask images --manifest` renews it; \
             the first line that differs: {differs:?}"
        );
    }
}
