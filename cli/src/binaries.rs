//! Finds the other programs of the project: beside this program, otherwise on `PATH`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The programs that a local run starts.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    pub(crate) sidecar: PathBuf,
    pub(crate) balancer: PathBuf,
    pub(crate) dns: PathBuf,
}

impl Binaries {
    /// Finds all three programs.
    ///
    /// # Errors
    /// A program is missing. The message says where it was expected, and gives the cure.
    pub(crate) fn find() -> anyhow::Result<Self> {
        Ok(Self {
            sidecar: find("scaledapp-sidecar")?,
            balancer: find("scaledapp-balancer")?,
            dns: find("scaledapp-dns")?,
        })
    }
}

/// Finds one program by its name.
///
/// # Errors
/// The program is neither beside this one nor on `PATH`.
pub(crate) fn find(name: &str) -> anyhow::Result<PathBuf> {
    let ours = std::env::current_exe().context("cannot find the path of this program")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(name, &ours, &path)
}

fn find_in(name: &str, ours: &Path, path: &OsStr) -> anyhow::Result<PathBuf> {
    let beside = ours.with_file_name(name);
    let on_path = std::env::split_paths(path).map(|directory| directory.join(name));
    let found = std::iter::once(beside.clone())
        .chain(on_path)
        .find(|candidate| candidate.is_file());
    match found {
        // The path is absolute, because a child starts in another directory.
        Some(found) => Ok(std::path::absolute(found)?),
        None => bail!(
            "{name} is neither at {} nor on PATH: build it with `cargo xtask build`, or install it beside scaledapp",
            beside.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sibling_is_preferred_to_the_path_and_without_either_the_cure_is_named() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let us = ours.path().join("scaledapp");
        let path = theirs.path().as_os_str();
        let message = find_in("x", &us, path).unwrap_err().to_string();
        assert!(message.contains("cargo xtask build"), "{message}");
        std::fs::write(theirs.path().join("x"), "").unwrap();
        assert_eq!(find_in("x", &us, path).unwrap(), theirs.path().join("x"));
        std::fs::write(ours.path().join("x"), "").unwrap();
        assert_eq!(find_in("x", &us, path).unwrap(), ours.path().join("x"));
    }
}
