//! The files that a release offers for download: archives of the programs, krew's manifest of the
//! kubectl plugin, and the checksums of everything.
//!
//! `cross` compiles the programs. The manifest comes from the template `dist/krew/scaledapp.yaml`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use scaledapp_tests::binaries;

use super::component::Arch;
use super::program;
use crate::kind::run::Run;

/// The programs for one machine, which share an archive.
pub(super) const PROGRAMS: [&str; 4] = [
    "scaledapp",
    "scaledapp-sidecar",
    "scaledapp-balancer",
    "scaledapp-dns",
];
/// The plugin has an archive of its own, because krew wants one with nothing else.
pub(super) const PLUGIN: &str = "kubectl-scaledapp";
/// How long packing may take on a busy machine.
const PACK_TIMEOUT: Duration = Duration::from_mins(5);

/// The addresses in krew's manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses<'a> {
    /// The project's page; may be empty.
    pub(super) homepage: &'a str,
    /// Where the files of `output` will be found, without a slash at the end.
    pub(super) downloads: &'a str,
}

/// Writes the archives, krew's manifest, and `SHA256SUMS` of these and of `others` into the directory
/// `output`. The same programs give the same bytes.
///
/// # Errors
/// A program is missing, is not static, or is for another platform.
pub(super) fn write(
    output: &Path,
    programs: &[(Arch, PathBuf)],
    version: &str,
    addresses: &Addresses<'_>,
    others: &[PathBuf],
) -> anyhow::Result<()> {
    if output.exists() {
        fs::remove_dir_all(output)?;
    }
    fs::create_dir_all(output)?;
    let template = binaries::workspace().join("dist/krew/scaledapp.yaml");
    let mut krew = fs::read_to_string(&template)
        .with_context(|| format!("cannot read {}", template.display()))?;
    for (arch, directory) in programs {
        let name = |program| format!("{program}-{version}-linux-{}.tar.gz", arch.name());
        pack(&output.join(name("scaledapp")), directory, &PROGRAMS, *arch)?;
        let plugin = output.join(name(PLUGIN));
        pack(&plugin, directory, &[PLUGIN], *arch)?;
        let placeholder = format!("SHA256-linux-{}", arch.name());
        krew = krew.replace(&placeholder, &sums(output, &[plugin])?[..64]);
    }
    let krew = filled(&krew, version, addresses)?;
    fs::write(output.join("scaledapp.yaml"), krew)?;
    for other in others {
        let name = other.file_name().context("a file has a name")?;
        fs::copy(other, output.join(name))
            .with_context(|| format!("cannot copy {}", other.display()))?;
    }
    let mut files: Vec<PathBuf> = fs::read_dir(output)?
        .flatten()
        .map(|it| it.path())
        .collect();
    files.sort();
    fs::write(output.join("SHA256SUMS"), sums(output, &files)? + "\n")?;
    Ok(())
}

/// Krew's manifest with the version (krew wants `v1.2.3`) and the address. A platform that was not
/// compiled loses its entry.
fn filled(template: &str, version: &str, addresses: &Addresses<'_>) -> anyhow::Result<String> {
    let (head, platforms) = template
        .split_once("  platforms:\n")
        .context("krew's template has no platforms")?;
    let entries =
        platforms
            .split_inclusive('\n')
            .fold(Vec::<String>::new(), |mut entries, line| {
                if line.starts_with("  - ") {
                    entries.push(String::new());
                }
                if let Some(entry) = entries.last_mut() {
                    entry.push_str(line);
                }
                entries
            });
    let compiled: Vec<&str> = entries
        .iter()
        .map(String::as_str)
        .filter(|entry| !entry.contains("SHA256-"))
        .collect();
    ensure!(
        !compiled.is_empty(),
        "krew's template has no platform that was compiled"
    );
    let comments = |line: &&str| !line.starts_with('#');
    let head: String = head.split_inclusive('\n').filter(comments).collect();
    let text = format!("{head}  platforms:\n{}", compiled.concat());
    let text = text.replace("  version: VERSION", &format!("  version: v{version}"));
    let text = text.replace("VERSION", version);
    let homepage = match addresses.homepage {
        "" => addresses.downloads,
        homepage => homepage,
    };
    let text = text.replace("HOMEPAGE", homepage);
    Ok(text.replace("URL/", &format!("{}/", addresses.downloads)))
}

/// Packs programs of a directory, so that the same content gives the same bytes.
fn pack(archive: &Path, directory: &Path, programs: &[&str], arch: Arch) -> anyhow::Result<()> {
    for name in programs {
        program::check(&directory.join(name), arch)?;
    }
    // gzip writes neither a name nor a time for what it reads from a pipe.
    let script = r#"set -o pipefail; archive=$0; directory=$1; shift
        tar -c --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
            --mode=0755 -C "$directory" -- "$@" | gzip -n -9 >"$archive""#;
    let mut words = vec![Path::new("-c"), Path::new(script), archive, directory];
    words.extend(programs.iter().map(Path::new));
    Run::new("bash", &words).within(PACK_TIMEOUT).done()
}

/// The lines of `sha256sum` for files of a directory, with names relative to it.
fn sums(directory: &Path, files: &[PathBuf]) -> anyhow::Result<String> {
    let names = files.iter().filter_map(|file| file.file_name());
    let text = Run::new("sha256sum", &names.collect::<Vec<_>>())
        .within_directory(directory)
        .within(PACK_TIMEOUT)
        .text()?;
    ensure!(text.len() > 64, "sha256sum says {text:?}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_archives_sums_and_a_manifest_that_names_them() {
        let directory = tempfile::tempdir().unwrap();
        let programs = directory.path().join("programs");
        fs::create_dir(&programs).unwrap();
        for name in PROGRAMS.iter().chain([&PLUGIN]) {
            let content = program::stand_in(Arch::Arm64, name);
            fs::write(programs.join(name), content).unwrap();
        }
        let chart = directory.path().join("scaledapp-1.2.3.tgz");
        fs::write(&chart, "chart").unwrap();
        let outputs = ["a", "b"].map(|name| directory.path().join(name));
        for output in &outputs {
            let built = [(Arch::Arm64, programs.clone())];
            let addresses = Addresses {
                homepage: "",
                downloads: "https://example.org/v1.2.3",
            };
            let chart = std::slice::from_ref(&chart);
            write(output, &built, "1.2.3", &addresses, chart).unwrap();
        }
        let read = |output: &PathBuf, name| fs::read_to_string(output.join(name)).unwrap();
        let all = read(&outputs[0], "SHA256SUMS");
        assert_eq!(all, read(&outputs[1], "SHA256SUMS"), "the same bytes again");
        assert_eq!(all.lines().count(), 4, "{all}");
        let krew = read(&outputs[0], "scaledapp.yaml");
        assert!(krew.contains("\n  version: v1.2.3\n"), "{krew}");
        let uri = "uri: https://example.org/v1.2.3/kubectl-scaledapp-1.2.3-linux-arm64.tar.gz\n";
        assert!(krew.contains(uri), "{krew}");
        let sum = all
            .lines()
            .find(|line| line.contains("  kubectl-"))
            .unwrap();
        assert!(
            krew.contains(&format!("sha256: {}\n", &sum[..64])),
            "{krew}"
        );
        // No platform that was not compiled, and nothing to fill in.
        assert!(
            !krew.contains("amd64") && !krew.contains("SHA256"),
            "{krew}"
        );
        Run::new("sha256sum", &["--check", "--quiet", "SHA256SUMS"])
            .within_directory(&outputs[0])
            .done()
            .unwrap();
    }
}
