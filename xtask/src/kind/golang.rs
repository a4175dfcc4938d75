//! Compiles the pinned Go modules: calls Go, keeps the programs and shows progress. `recipe` lists
//! what is compiled.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use scaledapp_tests::binaries;

use super::cache::{Cache, Key, remove};
use super::recipe::{self, KUBERNETES, Unit};
use super::run::Run;
use crate::console::timed;

/// How long one unit may take to compile. Kubernetes takes a quarter of an hour on two busy
/// cores.
const COMPILE_TIMEOUT: Duration = Duration::from_hours(1);
const DOWNLOAD_TIMEOUT: Duration = Duration::from_mins(10);

const CURE: &str = "read the last lines; if a download timed out, run it again (what is \
    there stays); if a checksum differs, compare tests/cluster/parts with git; `no space \
    left`: `go clean -cache`";

/// The directory of a part, which is a Go module below `tests/cluster/parts`.
fn part(name: &str) -> PathBuf {
    binaries::workspace().join("tests/cluster/parts").join(name)
}

fn go(part_name: &str, words: &[&str]) -> Run {
    Run::new("go", words)
        .within_directory(&part(part_name))
        .env("CGO_ENABLED", "0")
        // A surrounding workspace or the user's flags must not change the result.
        .env("GOWORK", "off")
        .env("GOFLAGS", "")
        .cure(CURE)
}

/// The version of Kubernetes that is compiled here, such as `v1.36.3`.
///
/// # Errors
/// The go.mod of Kubernetes' part cannot be read or does not require the module.
pub(crate) fn kubernetes_version() -> anyhow::Result<String> {
    version_in(KUBERNETES.part, "k8s.io/kubernetes")
}

/// The version that a part requires of a module.
///
/// # Errors
/// The part's go.mod cannot be read or does not require the module.
pub(crate) fn version_in(part_name: &str, module: &str) -> anyhow::Result<String> {
    let file = part(part_name).join("go.mod");
    let go_mod =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(recipe::required(&go_mod, module)?.to_owned())
}

/// Whether Go is installed.
pub(crate) fn is_there() -> bool {
    binaries::on_path("go").is_ok()
}

fn check() -> anyhow::Result<()> {
    ensure!(
        is_there(),
        "go is not installed, and Kubernetes, kubectl, kind and helm are compiled from their \
         pinned modules here.\nCure: install Go 1.26 or newer (https://go.dev/doc/install) and \
         put it on the PATH; where a registry is reachable, kind, kubectl and helm on the PATH \
         are enough"
    );
    Ok(())
}

/// A hash of all inputs of a unit's programs.
///
/// # Errors
/// A file of its part cannot be read.
pub(crate) fn key(unit: &Unit) -> anyhow::Result<Key> {
    let flags = recipe::linker_flags(unit, &kubernetes_version()?)?;
    let programs = unit.programs.iter();
    let key = programs.fold(Key::new(), |key, (package, program)| {
        key.and(package).and(program)
    });
    let key = key.and(flags).and(unit.tags).and(std::env::consts::ARCH);
    key.and_tree(&part(unit.part))
}

/// Whether a unit is compiled.
///
/// # Errors
/// A file of its part cannot be read.
pub(crate) fn has(cache: &Cache, unit: &Unit) -> anyhow::Result<bool> {
    Ok(directory(cache, unit)?.exists())
}

fn directory(cache: &Cache, unit: &Unit) -> anyhow::Result<PathBuf> {
    cache.keyed(&format!("go/{}", unit.name), key(unit)?, "")
}

/// Compiles a unit if necessary. Returns the directory with its programs.
///
/// # Errors
/// The unit does not compile.
pub(crate) fn programs(cache: &Cache, unit: &Unit) -> anyhow::Result<PathBuf> {
    let directory = directory(cache, unit)?;
    if !directory.exists() {
        check()?;
        timed(&format!("Compiling {}", describe(unit)?), || {
            Cache::once(&directory, |partial| compile(cache, unit, partial))
        })?;
    }
    Ok(directory)
}

/// As [`programs`], for a unit with one program that users also call. Returns the program's path,
/// and links the program into the cache's `bin` directory. If Go is not installed and the unit is
/// not compiled, a program on the PATH is used.
///
/// # Errors
/// The unit does not compile.
pub(crate) fn client(cache: &Cache, unit: &Unit) -> anyhow::Result<PathBuf> {
    let (_, program) = unit.programs[0];
    let built = match binaries::on_path(program) {
        Ok(theirs) if !is_there() && !has(cache, unit)? => theirs,
        _ => programs(cache, unit)?.join(program),
    };
    let link = cache.at(&format!("bin/{program}"))?;
    if fs::read_link(&link).ok().as_deref() != Some(&built) {
        remove(&link)?;
        std::os::unix::fs::symlink(&built, &link)
            .with_context(|| format!("cannot link {}", link.display()))?;
    }
    Ok(built)
}

fn describe(unit: &Unit) -> anyhow::Result<String> {
    let (package, _) = unit.programs[0];
    let module = match unit.part {
        "kubernetes" => "k8s.io/kubernetes",
        "node" => "github.com/containerd/containerd/v2",
        "coredns" => "github.com/coredns/coredns",
        "helm" => "helm.sh/helm/v4",
        "crane" => "github.com/google/go-containerregistry",
        "actionlint" => "github.com/rhysd/actionlint",
        _ => package,
    };
    Ok(format!("{} {}", unit.name, version_in(unit.part, module)?))
}

fn compile(cache: &Cache, unit: &Unit, into: &Path) -> anyhow::Result<()> {
    let download = go(unit.part, &["mod", "download"]).within(DOWNLOAD_TIMEOUT);
    download
        .log(cache.log(&format!("download-{}", unit.name)))
        .done()?;
    let packages: Vec<&str> = unit.programs.iter().map(|(package, _)| *package).collect();
    let listed = go(unit.part, &[&["list", "-deps"], &packages[..]].concat());
    let all = listed.within(DOWNLOAD_TIMEOUT).text()?.lines().count();
    fs::create_dir_all(into)?;
    let flags = recipe::linker_flags(unit, &kubernetes_version()?)?;
    let mut output = into.to_string_lossy().into_owned();
    // Go names programs after the paths of their packages; a single program can get the name of the
    // output file.
    output.push('/');
    if let [(_, program)] = unit.programs {
        output.push_str(program);
    }
    let words = ["build", "-v", "-p", "2", "-trimpath", "-buildvcs=false"];
    let more = ["-tags", unit.tags, "-ldflags", &flags, "-o", &output];
    let run = go(unit.part, &[&words[..], &more, &packages].concat());
    // Go prints nothing for cached packages, and nothing while it links.
    let progress = move |output: &str| match output.lines().count() {
        0 => format!("linking; all {all} packages are in Go's cache"),
        compiled => format!("{compiled} of at most {all} packages compiled"),
    };
    run.within(COMPILE_TIMEOUT)
        .log(cache.log(&format!("compile-{}", unit.name)))
        .progress(Box::new(progress))
        .done()
}

/// The directory of a module's source. Downloads it if necessary.
///
/// # Errors
/// The module cannot be downloaded.
pub(crate) fn module_directory(part_name: &str, module: &str) -> anyhow::Result<PathBuf> {
    check()?;
    go(part_name, &["mod", "download", module])
        .within(DOWNLOAD_TIMEOUT)
        .done()?;
    let words = ["list", "-m", "-f", "{{.Dir}}", module];
    let directory = go(part_name, &words).text()?;
    ensure!(
        !directory.is_empty(),
        "go reports no directory for {module} after its download"
    );
    Ok(PathBuf::from(directory))
}
