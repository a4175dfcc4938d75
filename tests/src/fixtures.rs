//! The apps that tests supervise. None has code for a supervisor, and each takes its port from its
//! arguments instead of `PORT`, so its workers can share the port only by the socket hand-over.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{bail, ensure};

use crate::{binaries, process};

/// Path of an app in `tests/fixtures/apps`.
pub fn app(name: &str) -> String {
    let path = binaries::workspace().join("tests/fixtures/apps").join(name);
    path.to_string_lossy().into_owned()
}

/// The words of a command that runs a Node app on a port.
pub fn node(name: &str, port: u16) -> Vec<String> {
    vec!["node".to_owned(), app(name), port.to_string()]
}

/// The words of a command that runs the Python app on a port.
pub fn python(port: u16) -> Vec<String> {
    vec!["python3".to_owned(), app("app.py"), port.to_string()]
}

/// Builds the static Go server and returns the command that runs it on a port. Later builds are
/// quick, because of Go's cache.
///
/// # Errors
/// The server does not build. Check first that `go` is installed.
pub fn go(port: u16) -> anyhow::Result<Vec<String>> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let output = binaries::workspace().join("target/scaledapp-fixture-go");
    if let Err(reason) =
        BUILT.get_or_init(|| build_go(&output).map_err(|error| format!("{error:#}")))
    {
        bail!("{reason}");
    }
    Ok(vec![
        output.to_string_lossy().into_owned(),
        port.to_string(),
    ])
}

fn build_go(output: &Path) -> anyhow::Result<()> {
    // Another test process may build or run the server at the same time. Renaming replaces the file
    // atomically.
    let partial = output.with_extension(std::process::id().to_string());
    let mut command = Command::new("go");
    command.current_dir(binaries::workspace().join("tests/fixtures/go"));
    command.env("CGO_ENABLED", "0");
    command
        .args(["build", "-trimpath", "-o"])
        .arg(&partial)
        .arg(".");
    let ended = process::run(command, Duration::from_mins(3))?;
    ensure!(
        ended.code == 0,
        "the Go fixture does not build:\n{}",
        ended.stderr
    );
    Ok(std::fs::rename(&partial, output)?)
}
