//! Runs the bench in its own network namespace, so that its ports cannot collide with others, and
//! in its own PID namespace, so that no process that the bench started outlives it, including PM2's
//! daemon. If namespaces cannot be made, the bench runs without them.

use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::Context;
use rustix::process::geteuid;

const INSIDE: &str = "SCALEDAPP_BENCH_INSIDE";
/// The script of PID 1, a shell that can be interrupted. When it ends, all processes of the
/// namespace end.
const INIT: &str = "trap 'exit 130' INT TERM; ip link set lo up || exit 1; \"$@\" & wait $!";

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["sh", "-c", INIT, "sh"]);
    command
}

/// Runs this program again in its own namespaces and returns the exit code. `None` if this
/// is the inner run already, or if namespaces cannot be made.
///
/// # Errors
/// The file of this program no longer exists.
pub(crate) fn enter() -> anyhow::Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() || !works() {
        return Ok(None);
    }
    let program = std::env::current_exe().context("this program's file is gone: build it again")?;
    let mut command = unshare();
    command.arg(program).args(std::env::args_os().skip(1));
    let status = command.env(INSIDE, "1").status()?;
    Ok(Some(code(status)))
}

/// Whether this process is in its own namespaces.
pub(crate) fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn works() -> bool {
    let mut command = unshare();
    command
        .arg("true")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
