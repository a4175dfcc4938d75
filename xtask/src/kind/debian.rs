//! Makes archives of root file systems from Debian packages. The callers choose the packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cache::{Cache, Key};
use super::recipe::SUITE;
use super::run::Run;
use crate::console::timed;
use crate::distribution;

const BUILD_TIMEOUT: Duration = Duration::from_mins(15);

/// The machine's apt sources. They are used if they name [`SUITE`], because they may name a mirror
/// that is closer to this machine.
const SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";

const CURE: &str = "packages could not be downloaded or unpacked: see the log for the first \
    error; `apt-get update` must work on this machine, as root, with 2 GB free in /tmp";

/// Paths of documentation and translations, which containers do not need.
const LEFT_OUT: [&str; 3] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
];

/// How complete the system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// A system in which packages can be configured.
    Minimal,
    /// Only the files of the packages and their dependencies. It is quick to make and small, but it
    /// has no shell and nothing that the packages' scripts would set up.
    FilesOnly,
}

/// Makes an archive of a Debian system with these packages.
///
/// # Errors
/// The archive cannot be made.
pub(crate) fn root(
    cache: &Cache,
    name: &str,
    variant: Variant,
    packages: &[&str],
) -> anyhow::Result<PathBuf> {
    let key = key(variant, packages);
    let archive = cache.keyed(&format!("debian/{name}"), key, ".tar")?;
    if archive.exists() {
        return Ok(archive);
    }
    distribution::ensure("mmdebstrap", &["mmdebstrap"])?;
    let what = format!("Root file system `{name}` from Debian packages");
    timed(&what, || {
        Cache::once(&archive, |partial| {
            make(cache, name, variant, packages, partial)
        })
    })?;
    Ok(archive)
}

/// A hash of the inputs. The date is not an input, so security updates need `kind down --all`.
pub(crate) fn key(variant: Variant, packages: &[&str]) -> Key {
    let words = packages.iter().chain(&LEFT_OUT);
    words.fold(Key::new().and(SUITE).and(variant.word()), Key::and)
}

impl Variant {
    /// The name of the variant in mmdebstrap.
    fn word(self) -> &'static str {
        match self {
            Self::Minimal => "minbase",
            Self::FilesOnly => "extract",
        }
    }
}

fn make(
    cache: &Cache,
    name: &str,
    variant: Variant,
    packages: &[&str],
    into: &Path,
) -> anyhow::Result<()> {
    let variant = format!("--variant={}", variant.word());
    let include = format!("--include={}", packages.join(","));
    let into = into.to_string_lossy();
    let mut words = vec![
        "--format=tar",
        "--mode=root",
        &variant,
        "--aptopt=Apt::Install-Recommends \"false\"",
        "--aptopt=Acquire::Retries \"3\"",
        // An incomplete archive is made again, so nothing has to be flushed to disk.
        "--dpkgopt=force-unsafe-io",
        &include,
    ];
    let excluded: Vec<String> = LEFT_OUT
        .iter()
        .map(|path| format!("--dpkgopt=path-exclude={path}"))
        .collect();
    words.extend(excluded.iter().map(String::as_str));
    words.extend([SUITE, &into]);
    let sources = Path::new(SOURCES);
    let same = fs::read_to_string(sources).is_ok_and(|text| text.contains(SUITE));
    if same {
        words.push("-");
    }
    let mut run = Run::new("mmdebstrap", &words)
        .within(BUILD_TIMEOUT)
        .log(cache.log(&format!("debian-{name}")))
        .cure(CURE);
    if same {
        run = run.input(sources);
    }
    run.done()
}
