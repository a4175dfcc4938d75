//! Programs that the distribution has, put in place where that is allowed: as
//! root on a machine with `apt-get`. Whether to go on without is decided by
//! who asks.

use std::ffi::OsString;

use anyhow::{Context, bail};
use scaledapp_tests::binaries;

use crate::cargo::tool;
use crate::console::{note, timed};

/// Makes sure that `program` is on the `PATH`, if need be by installing
/// `packages`.
///
/// # Errors
/// It is not there and cannot be installed; the text names the cure.
pub(crate) fn ensure(program: &str, packages: &[&str]) -> anyhow::Result<()> {
    if binaries::on_path(program).is_ok() {
        return Ok(());
    }
    let by_hand = format!("apt-get install -y {}", packages.join(" "));
    if binaries::on_path("apt-get").is_err() {
        bail!("{program} is not installed: install it (on Debian: {by_hand})");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("{program} is not installed and only root may install it: {by_hand}");
    }
    timed(
        &format!("{program} is missing: installing {}", packages.join(" ")),
        || install(packages),
    )
    .with_context(|| format!("{program} cannot be installed: try {by_hand}"))?;
    binaries::on_path(program)
        .map(|path| note(&format!("{program} is now at {}.", path.display())))
        .map_err(|_| anyhow::anyhow!("{program} is still not on the PATH after {by_hand}"))
}

/// Installs packages.
///
/// # Errors
/// This is not root on a machine with `apt-get`, or they cannot be had.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    let words = [&["install", "-y", "--no-install-recommends"][..], packages].concat();
    // The package lists of a fresh machine may be missing or old.
    if apt(&words).is_err() {
        apt(&["update"])?;
        apt(&words)?;
    }
    Ok(())
}

fn apt(words: &[&str]) -> anyhow::Result<()> {
    let mut command = tool(&OsString::from("apt-get"));
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // Without a network it shall say so soon, and wait for another apt-get.
    command.args(["-qq", "-o", "Acquire::Retries=1"]);
    command.args([
        "-o",
        "Acquire::http::Timeout=20",
        "-o",
        "DPkg::Lock::Timeout=120",
    ]);
    let status = command
        .args(words)
        .status()
        .context("cannot start apt-get")?;
    anyhow::ensure!(
        status.success(),
        "apt-get {} ended with {status}",
        words.join(" ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_installed() {
        ensure("sh", &["no-such-package"]).unwrap();
    }
}
