//! Lists of the packages that are linked into each program, in CycloneDX 1.5.
//!
//! cargo-cyclonedx writes them beside each package's Cargo.toml, so they are moved from there. It
//! puts the time and a random number into them, which are removed: the same sources give the same
//! list.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use scaledapp_tests::binaries;
use serde_json::Value;

use super::component::{Arch, COMPONENTS};
use crate::cargo::{cargo, output_of, tool};
use crate::console::timed;

const VERSION: &str = "0.5.9";

/// Writes `scaledapp-COMPONENT-ARCH.cdx.json` for each component into `output`. Returns their paths.
///
/// # Errors
/// The tool cannot be installed, or does not list a program.
pub(super) fn write(arch: Arch, output: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let program = installed()?;
    fs::create_dir_all(output)?;
    timed(
        &format!("Listing what is linked for {}", arch.name()),
        || list(&program, arch, output),
    )
}

fn list(program: &Path, arch: Arch, output: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let _cleared = Strays;
    let mut command = tool(&program.as_os_str().to_owned());
    command.args(["cyclonedx", "--format", "json", "--describe", "binaries"]);
    command.args(["--spec-version", "1.5", "--target", arch.target()]);
    let status = command.status().context("cannot start cargo-cyclonedx")?;
    anyhow::ensure!(
        status.success(),
        "cargo-cyclonedx exited with {status}; its messages are above"
    );
    let (mut found, mut written) = (Vec::new(), Vec::new());
    collect(binaries::workspace(), &mut found)?;
    for component in COMPONENTS {
        let name = format!("{}_bin.cdx.json", component.program());
        let list = found
            .iter()
            .find(|path| path.file_name().is_some_and(|is| *is == *name))
            .with_context(|| format!("cargo-cyclonedx has written no {name}"))?;
        let mut content: Value = serde_json::from_slice(&fs::read(list)?)?;
        if let Some(content) = content.as_object_mut() {
            content.remove("serialNumber");
        }
        if let Some(metadata) = content["metadata"].as_object_mut() {
            metadata.remove("timestamp");
        }
        let name = format!("{}-{}.cdx.json", component.program(), arch.name());
        let at = output.join(name);
        fs::write(&at, serde_json::to_string_pretty(&content)?)?;
        written.push(at);
    }
    Ok(written)
}

/// Removes all lists among the sources when it is dropped, also after a failure or Ctrl-C.
struct Strays;

impl Drop for Strays {
    fn drop(&mut self) {
        let mut found = Vec::new();
        drop(collect(binaries::workspace(), &mut found));
        for path in found {
            drop(fs::remove_file(path));
        }
    }
}

/// All lists below a directory, outside of `target` and hidden directories.
fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if name != "target" && name != "node_modules" && !name.starts_with('.') {
                collect(&path, found)?;
            }
        } else if name.ends_with(".cdx.json") {
            found.push(path);
        }
    }
    Ok(())
}

/// The tool; installs it if necessary.
fn installed() -> anyhow::Result<PathBuf> {
    let root = binaries::workspace().join("target/images/cyclonedx");
    let program = root.join("bin/cargo-cyclonedx");
    let words = OsString::from(&program);
    let held = output_of(&words, &["cyclonedx", "--version"]);
    if held.is_ok_and(|held| held.ends_with(VERSION)) {
        return Ok(program);
    }
    timed("Installing cargo-cyclonedx", || {
        let mut command = cargo(&["install", "cargo-cyclonedx", "--locked", "--quiet"]);
        command.args(["--version", VERSION, "--root"]).arg(&root);
        let status = command.status().context("cannot start cargo")?;
        anyhow::ensure!(
            status.success(),
            "cargo install exited with {status}: without the lists, add --without-sbom"
        );
        Ok(())
    })?;
    Ok(program)
}
