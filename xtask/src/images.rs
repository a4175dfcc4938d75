//! `cargo xtask images`: the images, the chart and the manifest of a release, and their way to a
//! registry.
//!
//! The order: compile for each platform, lists of what is linked, images, chart, manifest, push. No
//! container engine is needed. Everything is written to `target/images`, and the same sources give
//! the same bytes. `oci` decides how an image looks, `cross` how the other platform is compiled,
//! `component` lists what there is an image of, `program` refuses what could not start, `emulated`
//! tries the programs of a platform, `sbom` lists what is linked, `chart` fills in the images,
//! `archives` makes the downloads of a release, `push` talks to registries, and `credentials` finds
//! the login.

mod archives;
mod chart;
mod component;
mod credentials;
mod cross;
mod emulated;
mod oci;
mod program;
mod push;
#[cfg(test)]
mod registry;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;
use scaledapp_tests::binaries;

use self::component::{Arch, Built, COMPONENTS};
use crate::console::{note, say, timed};
use crate::interrupt;
use crate::kind::cache::Cache;

/// The registry in the names of images that are not pushed.
const NOWHERE: &str = "registry.example/scaledapp";

/// The arguments of `images`.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Push everything to a registry: registry.example/team makes registry.example/team/scaledapp-operator
    #[arg(long, value_name = "PREFIX")]
    push: Option<String>,
    /// The tag of the images; by default the version of the project
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// The platforms; a second one is cross-compiled
    #[arg(long, value_enum, value_name = "ARCH", value_delimiter = ',', default_values_t = [Arch::Amd64, Arch::Arm64])]
    arch: Vec<Arch>,
    /// The registry speaks http, not https
    #[arg(long, requires = "push")]
    plain_http: bool,
    /// A file with the certificate of the authority that signed the registry's
    #[arg(
        long,
        requires = "push",
        value_name = "FILE",
        conflicts_with = "plain_http"
    )]
    ca_file: Option<PathBuf>,
    /// Leave out the lists of linked packages (CycloneDX), whose tool takes minutes to compile
    #[arg(long)]
    without_sbom: bool,
    /// Also make the downloads of a release, which will be found below this address
    #[arg(long, value_name = "URL")]
    downloads: Option<String>,
    /// Where the sources are, for the labels; registries show it, and ghcr.io finds the repository by it
    #[arg(long, value_name = "URL", default_value = env!("CARGO_PKG_REPOSITORY"), hide_default_value = true)]
    source: String,
    /// Only write dist/install.yaml from charts/scaledapp
    #[arg(long, conflicts_with_all = ["push", "downloads"])]
    manifest: bool,
}

/// Makes everything and pushes it if asked. At Ctrl-C, its commands are ended first.
///
/// # Errors
/// A tool is missing, something does not compile, or the registry refuses.
pub(crate) fn run(args: ImagesArgs) -> anyhow::Result<bool> {
    if args.manifest {
        let manifest = chart::without_registry(&Cache::new())?;
        fs::write(chart::committed(), manifest)?;
        note(&format!("{} is written.", chart::committed().display()));
        return Ok(true);
    }
    interrupt::stoppable(
        "What is complete stays in target/, and the next run continues from there.",
        move || make(&args),
    )
}

fn make(args: &ImagesArgs) -> anyhow::Result<bool> {
    let mut platforms = args.arch.clone();
    platforms.sort_unstable();
    platforms.dedup();
    let version = env!("CARGO_PKG_VERSION");
    let tag = args.tag.as_deref().unwrap_or(version);
    // What can be refused is refused before anything is compiled.
    check_tag(tag)?;
    let prefix = args
        .push
        .as_deref()
        .unwrap_or(NOWHERE)
        .trim_end_matches('/');
    push::check_prefix(prefix)?;
    let access = access(args)?;
    let output = binaries::workspace().join("target/images");
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    let mut programs = Vec::new();
    for arch in platforms {
        let directory = cross::build(arch, args.downloads.is_some())?;
        emulated::try_programs(arch, &directory)?;
        programs.push((arch, directory));
    }
    let mut lists = Vec::new();
    if !args.without_sbom {
        for (arch, _) in &programs {
            lists.extend(sbom::write(*arch, &output.join("sbom"))?);
        }
    }
    let built = timed("Writing the images", || {
        images(&programs, &output, version, &args.source)
    })?;
    let cache = Cache::new();
    let release = chart::release(&cache, &built, prefix, tag, &args.source, &output)?;
    say("");
    for line in digests(&built, prefix, tag).lines() {
        note(line);
    }
    let named = output.join("digests.txt");
    fs::write(&named, digests(&built, prefix, tag))?;
    if let Some(url) = &args.downloads {
        lists.extend([release.chart.clone(), release.manifest.clone(), named]);
        let to = output.join("downloads");
        let addresses = archives::Addresses {
            homepage: &args.source,
            downloads: url.trim_end_matches('/'),
        };
        timed("Packing the downloads", || {
            archives::write(&to, &programs, version, &addresses, &lists)
        })?;
    }
    if args.push.is_none() {
        say(&format!(
            "\nEverything is in {}. `cargo xtask images --push registry.example/team` pushes it.",
            output.display()
        ));
        return Ok(true);
    }
    let upload = push::Upload {
        built: &built,
        release: &release,
        prefix,
        tag,
        access: &access,
    };
    push::everything(&cache, upload)?;
    let more = match &access {
        push::Access {
            plain_http: true, ..
        } => " --plain-http".to_owned(),
        push::Access { ca_file, .. } => ca_file
            .as_ref()
            .map_or_else(String::new, |file| format!(" --ca-file {}", file.display())),
    };
    say(&format!(
        "\nInstall it with\n  helm install scaledapp oci://{prefix}/scaledapp --version {version} -n scaledapp-system --create-namespace{more}\nor\n  kubectl apply --server-side -f {}",
        release.manifest.display()
    ));
    Ok(true)
}

fn access(args: &ImagesArgs) -> anyhow::Result<push::Access> {
    let absolute = |file: &PathBuf| {
        fs::canonicalize(file).with_context(|| format!("cannot read {}", file.display()))
    };
    Ok(push::Access {
        plain_http: args.plain_http,
        ca_file: args.ca_file.as_ref().map(absolute).transpose()?,
    })
}

/// One image for each component, with a layer for each platform.
fn images(
    programs: &[(Arch, PathBuf)],
    output: &Path,
    version: &str,
    source: &str,
) -> anyhow::Result<Vec<Built>> {
    let origin = oci::Origin {
        version,
        revision: &oci::revision(),
        source,
    };
    let mut built = Vec::new();
    for component in COMPONENTS {
        let layout = output.join(component.name);
        let labels = oci::labels(component, &origin);
        let digest = oci::write(&layout, component, programs, &labels)
            .with_context(|| format!("cannot make the image of the {}", component.name))?;
        built.push(Built {
            component,
            layout,
            digest,
        });
    }
    Ok(built)
}

/// A line for each image, for people who pull by digest.
fn digests(built: &[Built], prefix: &str, tag: &str) -> String {
    let lines = built.iter().map(|image| {
        let repository = push::repository(prefix, image.component);
        format!("{repository}:{tag}@{}\n", image.digest)
    });
    lines.collect()
}

/// Refuses what no registry accepts as a tag (OCI distribution specification, "Pulling manifests").
fn check_tag(tag: &str) -> anyhow::Result<()> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    let begins = bytes.next().is_some_and(is_word);
    ensure!(
        begins && tag.len() <= 128 && bytes.all(|byte| is_word(byte) || b".-".contains(&byte)),
        "{tag:?} is no tag of an image: give letters, digits, dots, dashes and underscores, such as 1.2.3"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_checked_before_anything_is_compiled() {
        for good in ["0.1.0", "v1.2.3-rc.1", "_x", "a"] {
            check_tag(good).unwrap();
        }
        for bad in ["", "-a", ".a", "a b", "1.0+build", &"x".repeat(129)] {
            assert!(check_tag(bad).is_err(), "{bad}");
        }
    }
}
