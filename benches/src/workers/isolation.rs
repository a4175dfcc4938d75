//! Where a run happens: in a network namespace of its own, so that its ports
//! meet nobody's, and in a PID namespace, so that nothing it started outlives
//! it, PM2's daemon included. Where neither may be made it runs in the open.

use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::Context;
use rustix::process::geteuid;

const INSIDE: &str = "SCALEDAPP_BENCH_INSIDE";
/// As PID 1 a shell that can be interrupted: its end is everybody's.
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

/// Runs this program again in namespaces of its own; its exit code. `None`: go
/// on, this is the inner one, or there can be none.
///
/// # Errors
/// This program's own file is gone.
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

/// Whether this process is in namespaces of its own.
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
