//! The apps that tests supervise. Most of them have no code for a supervisor and take their port
//! from their arguments instead of `PORT`, so that their workers can share the port only by the
//! socket hand-over.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

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

/// The programs of `tests/fixtures/edge`, and their packages.
const EDGE: [(&str, &str); 3] = [
    ("h2spec", "github.com/summerwind/h2spec/cmd/h2spec"),
    ("interop-client", "google.golang.org/grpc/interop/client"),
    ("interop-server", "google.golang.org/grpc/interop/server"),
];

/// Builds a third-party program that tests HTTP/2 or gRPC, and returns its path. The first build
/// takes a minute or two.
///
/// # Errors
/// There is no such program, or it does not build. Check first that `go` is installed.
pub fn edge(program: &str) -> anyhow::Result<PathBuf> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let package = EDGE.iter().find(|(name, _)| *name == program);
    let (_, package) = package.with_context(|| format!("{program} is not in the list"))?;
    let output = binaries::workspace().join("target/edge").join(program);
    std::fs::create_dir_all(binaries::workspace().join("target/edge"))?;
    build("tests/fixtures/edge", package, &output)?;
    Ok(output)
}

fn build_go(output: &Path) -> anyhow::Result<()> {
    build("tests/fixtures/go", ".", output)
}

/// Builds a package of the module in `directory`.
fn build(directory: &str, package: &str, output: &Path) -> anyhow::Result<()> {
    // Another test process may build or run the program at the same time. Renaming replaces the
    // file atomically.
    let partial = output.with_extension(std::process::id().to_string());
    let mut command = Command::new("go");
    command.current_dir(binaries::workspace().join(directory));
    command
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", "");
    command
        .args(["build", "-trimpath", "-o"])
        .arg(&partial)
        .arg(package);
    let ended = process::run(command, Duration::from_mins(10))?;
    ensure!(
        ended.code == 0,
        "{package} does not build:\n{}",
        ended.stderr
    );
    Ok(std::fs::rename(&partial, output)?)
}
