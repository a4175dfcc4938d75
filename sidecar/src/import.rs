//! `import` has moved to `scaledapp`, because a program that runs as PID 1 of each pod does
//! not need a parser of PM2 files. This program still starts it, so that commands in
//! existing scripts and notes keep working.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// The program that has the importer.
const PROGRAM: &str = "scaledapp";

/// Replaces this process by `scaledapp import`; returns only if that cannot be started.
pub fn run(arguments: &[OsString]) -> anyhow::Error {
    let beside = std::env::current_exe().map(|ours| ours.with_file_name(PROGRAM));
    let beside = beside.ok().filter(|path| path.is_file());
    // If the directory of this program does not contain `scaledapp`, the one on PATH is used.
    let program = beside.unwrap_or_else(|| PathBuf::from(PROGRAM));
    let error = Command::new(program).arg("import").args(arguments).exec();
    anyhow::Error::from(error).context(
        "the importer is in `scaledapp`, which is neither beside this program nor on PATH: \
         install it and run `scaledapp import`",
    )
}
