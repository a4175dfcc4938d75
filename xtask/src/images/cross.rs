//! Compiles the programs of the images for a platform: this machine's own, or another one.
//!
//! Another platform needs a C compiler and a linker for it, because the cryptography is written in
//! C. Both are zig, which comes as a package of PyPI, and cargo-zigbuild hands it to cargo. Versions
//! are pinned as a pair, because not every pair builds that library.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use scaledapp_tests::binaries;

use super::archives;
use super::component::{Arch, COMPONENTS, Component};
use crate::cargo::{output_of, tool};
use crate::compile;
use crate::console::timed;
use crate::distribution;

const PYPI: [&str; 2] = ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"];

/// Compiles the programs of the images for `arch`, and with `downloads` also those that people start
/// themselves. Returns their directory.
///
/// # Errors
/// A tool cannot be installed, or something does not compile.
pub(super) fn build(arch: Arch, downloads: bool) -> anyhow::Result<PathBuf> {
    if arch.is_ours() {
        ensure!(
            compile::run()?,
            "the programs for {} could not be built",
            arch.name()
        );
        return Ok(binaries::workspace().join("target/release"));
    }
    let target = arch.target();
    timed(&format!("Adding the target {target}"), || {
        output_of(&OsString::from("rustup"), &["target", "add", target]).map(drop)
    })
    .context("the standard library for another platform comes with rustup")?;
    let tools = tools()?;
    let directory = binaries::workspace().join("target/images/build");
    timed(&format!("Building static binaries for {target}"), || {
        compile_with(&tools, target, &directory, downloads)
    })?;
    Ok(directory.join(target).join("release"))
}

fn compile_with(
    tools: &Path,
    target: &str,
    directory: &Path,
    downloads: bool,
) -> anyhow::Result<()> {
    let mut path = tools.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    let mut command = tool(&tools.join("cargo-zigbuild").into_os_string());
    command.args(["zigbuild", "--release", "--locked", "--target", target]);
    command.arg("--target-dir").arg(directory);
    let mut programs: BTreeSet<String> = COMPONENTS.map(Component::program).into();
    if downloads {
        programs.extend(archives::PROGRAMS.map(str::to_owned));
        programs.insert(archives::PLUGIN.to_owned());
    }
    for program in &programs {
        command.args(["--package", compile::package(program), "--bin", program]);
    }
    let status = command.env("PATH", path).status();
    let status = status.context("cannot start cargo-zigbuild")?;
    ensure!(
        status.success(),
        "cargo zigbuild exited with {status}; its messages are above"
    );
    Ok(())
}

/// The directory with cargo-zigbuild and zig; installs them if necessary.
fn tools() -> anyhow::Result<PathBuf> {
    let directory = binaries::workspace().join("target/images/zig");
    let holds = directory.join("holds");
    let wanted = PYPI.join("\n");
    if std::fs::read_to_string(&holds).is_ok_and(|held| held == wanted) {
        return Ok(directory.join("bin"));
    }
    timed(
        "Installing zig, which compiles and links for other platforms",
        || {
            let to = directory.to_string_lossy().into_owned();
            let python = OsString::from("python3");
            if output_of(&python, &["-m", "venv", "--clear", &to]).is_err() {
                // In Debian, a part of the module is in a separate package.
                distribution::ensure("python3", &["python3"])?;
                distribution::install(&["python3-venv"])?;
                output_of(&python, &["-m", "venv", "--clear", &to])?;
            }
            let words = ["install", "--quiet", "--no-deps", "--only-binary", ":all:"];
            output_of(
                &directory.join("bin/pip").into_os_string(),
                &[&words[..], &PYPI].concat(),
            )?;
            Ok(std::fs::write(&holds, &wanted)?)
        },
    )?;
    Ok(directory.join("bin"))
}
