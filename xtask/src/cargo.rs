//! Commands for the tools of the toolchain. The callers decide what to run.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::Context;
use scaledapp_tests::binaries;

/// A cargo command in the workspace, with nothing on its standard input.
pub(crate) fn cargo(words: &[&str]) -> Command {
    // This is the cargo that started this program, so that the toolchain is the same.
    let mut command = tool(&std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.args(words);
    command
}

/// A command for any program, in the workspace, with nothing on its standard input. In the
/// workspace, rustup's proxies use the toolchain of `rust-toolchain.toml`.
pub(crate) fn tool(program: &OsString) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(binaries::workspace())
        .stdin(Stdio::null());
    command
}

/// Runs a program and returns its standard output.
///
/// # Errors
/// The program cannot be started, or exits with another code than 0.
pub(crate) fn output_of(program: &OsString, words: &[&str]) -> anyhow::Result<String> {
    let shown = program.to_string_lossy();
    let output = tool(program)
        .args(words)
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{shown} {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether a program is installed and runs.
pub(crate) fn works(program: &str) -> bool {
    let mut command = tool(&OsString::from(program));
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
