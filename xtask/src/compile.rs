//! `cargo xtask build`: chooses the binaries and the target, and puts the binaries into
//! `target/release/` or `target/demo/`.
//!
//! Binaries are static, so that they run in any image: with musl, or with glibc if the musl target
//! is not available. If there is no static glibc either, binaries are linked dynamically. A binary
//! is replaced by rename, so that a running binary is never written to.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use scaledapp_tests::binaries;
use serde_json::Value;

use crate::cargo::{cargo, output_of};
use crate::console::{note, say, timed};
use crate::distribution;

/// All binaries. Each is in the package of the same name, except those that [`package`] lists.
const BINARIES: [&str; 8] = [
    "scaledapp",
    "scaledapp-sidecar",
    "scaledapp-balancer",
    "scaledapp-dns",
    "scaledapp-hello-rust",
    "scaledapp-operator",
    "scaledapp-load",
    "kubectl-scaledapp",
];

/// How many of [`BINARIES`], counted from the first, the demo needs. The operator alone takes a
/// quarter of the whole build.
const LOCAL: usize = 5;

/// The target to build for.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Static with musl.
    Musl(String),
    /// Static with the C library of this machine.
    StaticGlibc(String),
    /// Dynamically linked, for the toolchain's default target.
    Dynamic,
}

/// Builds all binaries and puts them in place.
///
/// # Errors
/// A tool is missing and cannot be installed, or something does not compile.
pub(crate) fn run() -> anyhow::Result<bool> {
    run_some(&BINARIES, "release").map(|_| true)
}

/// Builds the programs that `scaledapp local` needs, including the samples, with the profile
/// `demo`, which compiles in a fraction of the time. Returns the directory with the binaries.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_local() -> anyhow::Result<PathBuf> {
    run_some(&BINARIES[..LOCAL], "demo")
}

fn run_some(wanted: &[&'static str], profile: &str) -> anyhow::Result<PathBuf> {
    // Even pure Rust is linked by the C compiler, which needs the start files in libc6-dev.
    distribution::ensure("cc", &["gcc", "libc6-dev"])?;
    let target = target()?;
    let what = match &target {
        Target::Musl(triple) => format!("Building static binaries for {triple}"),
        Target::StaticGlibc(triple) => format!("Building static binaries for {triple}, with glibc"),
        Target::Dynamic => "Building binaries that need this machine's C library".to_owned(),
    };
    let built = timed(&what, || build(&target, wanted, profile))?;
    let directory = binaries::workspace().join("target").join(profile);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    say("");
    for (name, source) in built {
        let at = directory.join(name);
        place(&source, &at).with_context(|| format!("cannot put {} in place", at.display()))?;
        let megabytes = fs::metadata(&at)?.len() as f64 / f64::from(1 << 20);
        note(&format!("target/{profile}/{name}  {megabytes:.1} MiB"));
    }
    Ok(directory)
}

fn target() -> anyhow::Result<Target> {
    let arch = std::env::consts::ARCH;
    let musl = format!("{arch}-unknown-linux-musl");
    let reason = match musl_is_there(&musl) {
        Ok(()) => return Ok(Target::Musl(musl)),
        Err(error) => format!("{error:#}"),
    };
    let gnu = format!("{arch}-unknown-linux-gnu");
    // If `cc` does not find the file, it prints only the name.
    let archive = output_of(&OsString::from("cc"), &["-print-file-name=libc.a"])?;
    let (instead, target) = if Path::new(&archive).is_absolute() && has_standard_library(&gnu) {
        (
            "The binaries are static nevertheless, with glibc",
            Target::StaticGlibc(gnu),
        )
    } else {
        (
            "The binaries will need this machine's C library",
            Target::Dynamic,
        )
    };
    say(&format!("\nWarning: {reason}.\n{instead}"));
    Ok(target)
}

/// Makes sure that there are a standard library for musl and a C compiler for the cryptography,
/// which is written in C.
fn musl_is_there(musl: &str) -> anyhow::Result<()> {
    let cure = format!("rustup target add {musl}");
    if !has_standard_library(musl) {
        if binaries::on_path("rustup").is_err() {
            bail!("this toolchain has no {musl} and there is no rustup to add it");
        }
        if std::env::var_os("RUSTUP_AUTO_INSTALL").is_some_and(|value| value == "0") {
            // This setting means that nothing may be downloaded without asking.
            bail!("{musl} is not installed and RUSTUP_AUTO_INSTALL=0 forbids adding it: {cure}");
        }
        timed(&format!("Adding the target {musl}"), || {
            output_of(&OsString::from("rustup"), &["target", "add", musl]).map(drop)
        })?;
        ensure!(
            has_standard_library(musl),
            "{musl} is still not installed after `{cure}`"
        );
    }
    distribution::ensure("musl-gcc", &["musl-tools"])
}

/// Whether the toolchain can build for a target.
fn has_standard_library(triple: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let words = ["--print", "target-libdir", "--target", triple];
    let Ok(directory) = output_of(&rustc, &words) else {
        return false;
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// Compiles the binaries. Returns the name of each one and the path to which cargo wrote it.
fn build(
    target: &Target,
    wanted: &[&'static str],
    profile: &str,
) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    // Cargo reports the paths, because its configuration may change them.
    let mut command = cargo(&["build", "--profile", profile, "--locked"]);
    command.arg("--message-format=json-render-diagnostics");
    for name in wanted {
        command.args(["--package", package(name), "--bin", name]);
    }
    match target {
        Target::Musl(triple) => {
            command.args(["--target", triple]);
        }
        Target::StaticGlibc(triple) => {
            // With an explicit target, this does not affect build scripts and macros.
            command.args(["--target", triple]);
            let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
            flags.push(" -C target-feature=+crt-static");
            command.env("RUSTFLAGS", flags);
        }
        Target::Dynamic => {}
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let output = child.stdout.take().context("stdout is a pipe")?;
    let mut found = Vec::new();
    for line in BufReader::new(output).lines() {
        found.extend(artifact(&line?));
    }
    let status = child.wait()?;
    ensure!(
        status.success(),
        "cargo build exited with {status}; its messages are above"
    );
    if let Some(missing) = wanted
        .iter()
        .find(|name| found.iter().all(|(built, _)| built != *name))
    {
        bail!("cargo built no binary {missing}: was its package renamed?");
    }
    Ok(found)
}

/// The package of a binary.
fn package(binary: &'static str) -> &'static str {
    match binary {
        "scaledapp-load" => "scaledapp-tests",
        "kubectl-scaledapp" => "scaledapp-kubectl",
        of_its_own => of_its_own,
    }
}

/// The binary that a line of cargo's messages reports, if it is one of [`BINARIES`].
fn artifact(line: &str) -> Option<(&'static str, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let executable = message["executable"].as_str()?;
    let name = BINARIES
        .into_iter()
        .find(|name| message["target"]["name"] == *name)?;
    Some((name, PathBuf::from(executable)))
}

/// Replaces `at` by a copy of `source`, by rename. A hard link is not enough, because cargo may
/// write to its own file again while the binary runs. A file with the same content is kept.
fn place(source: &Path, at: &Path) -> anyhow::Result<()> {
    let same = || -> std::io::Result<bool> {
        Ok(fs::metadata(source)?.len() == fs::metadata(at)?.len()
            && fs::read(source)? == fs::read(at)?)
    };
    if same().unwrap_or(false) {
        return Ok(());
    }
    let mut name = at.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let partial = at.with_file_name(name);
    let placed = fs::copy(source, &partial).and_then(|_| fs::rename(&partial, at));
    if placed.is_err() {
        drop(fs::remove_file(&partial));
    }
    Ok(placed?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn only_our_binaries_are_read_from_cargos_messages() {
        let line = |name: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}","kind":["bin"]}},"executable":{executable}}}"#
            )
        };
        assert_eq!(
            artifact(&line("scaledapp-dns", r#""/t/release/scaledapp-dns""#)),
            Some(("scaledapp-dns", PathBuf::from("/t/release/scaledapp-dns")))
        );
        for other in [
            line("scaledapp-dns", "null"),
            line("build-script-build", r#""/t/b""#),
            "warning: text".to_owned(),
        ] {
            assert_eq!(artifact(&other), None, "{other}");
        }
    }

    #[test]
    fn a_file_is_replaced_and_never_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let (source, at) = (directory.path().join("new"), directory.path().join("x"));
        fs::write(&at, "old").unwrap();
        fs::write(&source, "new").unwrap();
        let open = fs::File::open(&at).unwrap();
        let before = open.metadata().unwrap().ino();
        place(&source, &at).unwrap();
        assert_eq!(fs::read_to_string(&at).unwrap(), "new");
        let after = fs::metadata(&at).unwrap().ino();
        assert_ne!(after, before);
        place(&source, &at).unwrap();
        assert_eq!(fs::metadata(&at).unwrap().ino(), after, "it was the same");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
