//! `cargo xtask bench`: what is measured, and what that needs.
//!
//! The measuring itself, and against whom, is in `benches/`.

use anyhow::Context;

use crate::cargo::cargo;
use crate::{compile, distribution};

/// Builds, measures and prints the tables; whether it could.
///
/// # Errors
/// A peer cannot be installed, or something does not compile.
pub(crate) fn run() -> anyhow::Result<bool> {
    for (program, package) in [("nginx", "nginx-light"), ("wrk", "wrk")] {
        distribution::ensure(program, &[package])?;
    }
    compile::run()?;
    let status = cargo(&[
        "run",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "scaledapp-benches",
        "--bin",
        "hop",
    ])
    .status()
    .context("cannot start cargo")?;
    Ok(status.success())
}
