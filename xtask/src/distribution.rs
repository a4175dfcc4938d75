//! Installs programs of the distribution if that is allowed: as root on a machine with `apt-get`.
//! The caller decides whether a missing program is an error.

use std::ffi::OsString;

use anyhow::{Context, bail};
use scaledapp_tests::binaries;

use crate::cargo::tool;
use crate::console::{note, timed};

/// Makes sure that `program` is on the `PATH`; installs `packages` if it is not.
///
/// # Errors
/// The program is missing and cannot be installed. The message names the cure.
pub(crate) fn ensure(program: &str, packages: &[&str]) -> anyhow::Result<()> {
    if binaries::on_path(program).is_ok() {
        return Ok(());
    }
    let by_hand = format!("apt-get install -y {}", packages.join(" "));
    if binaries::on_path("apt-get").is_err() {
        bail!("{program} is not installed: install it (on Debian: {by_hand})");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("{program} is not installed, and only root may install it: {by_hand}");
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
/// This process is not root on a machine with `apt-get`, or the installation fails.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    let words = [&["install", "-y", "--no-install-recommends"][..], packages].concat();
    // On a new machine, the package lists may be missing or old.
    if apt(&words).is_err() {
        apt(&["update"])?;
        apt(&words)?;
    }
    Ok(())
}

fn apt(words: &[&str]) -> anyhow::Result<()> {
    let mut command = tool(&OsString::from("apt-get"));
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // Without a network, apt-get fails soon; it waits for another apt-get.
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
        "apt-get {} exited with {status}",
        words.join(" ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_program_is_not_installed_again() {
        ensure("sh", &["no-such-package"]).unwrap();
    }
}
