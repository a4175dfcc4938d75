//! Finds the built binaries.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// Directory that overrides `target/release`.
pub const OVERRIDE: &str = "SCALEDAPP_BIN_DIR";

/// The workspace's root.
pub fn workspace() -> &'static Path {
    // The path is fixed at compile time: the harness always runs where it was built.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

/// The directory of the binaries.
pub fn directory() -> PathBuf {
    std::env::var_os(OVERRIDE).map_or_else(|| workspace().join("target/release"), PathBuf::from)
}

/// Path of a built binary such as `scaledapp-sidecar`.
///
/// # Errors
/// The binary has not been built. The message says how to build it.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    let path = directory().join(name);
    if !path.is_file() {
        bail!(
            "{} does not exist: run `cargo xtask build` (or set {OVERRIDE})",
            path.display()
        );
    }
    Ok(path)
}

/// Whether `program` is on the `PATH`; prints the reason for skipping a test if not.
#[expect(clippy::print_stdout, reason = "a skipped test says so on its output")]
pub fn has(program: &str) -> bool {
    on_path(program)
        .map_err(|reason| println!("{reason}"))
        .is_ok()
}

/// The path of `program`, if it is on the `PATH`.
///
/// # Errors
/// The program is not on the `PATH`; the text is the reason to print for a skipped test.
pub fn on_path(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("skipped: {program} is not installed"))
}
