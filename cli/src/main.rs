//! `scaledapp`: an app on one machine, and its operations.
//!
//! This file parses the command line and maps results to exit codes. `scaledapp-plan` decides what
//! an object means, `scaledapp-sidecar` runs the workers.

mod addresses;
mod ask;
mod autoscale;
mod binaries;
mod browser;
mod certificate;
mod cli;
mod control;
mod dashboard;
mod develop;
mod directory;
mod failure;
mod import;
mod launch;
mod local;
mod members;
mod object;
mod output;
mod podset;
mod rundir;
mod runs;
mod state;
mod status;
mod summary;
mod waiting;

use std::io::Write;
use std::process::ExitCode;

use scaledapp_runtime::cli::{COULD_NOT_START, fail, parse};
use scaledapp_runtime::say;

use cli::{Cli, Command};
use local::Ended;

const PROGRAM: &str = "scaledapp";
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    scaledapp_runtime::reset_signals();
    let cli = match parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let done = match cli.command {
        Command::Local(args) => {
            let logging = scaledapp_runtime::init_logging("local");
            let ended = local::run(&args);
            drop(logging);
            return match ended {
                Ok(Ended::Drained) => ExitCode::SUCCESS,
                Ok(Ended::Killed) => ExitCode::from(FAILURE),
                Err(error) => fail(PROGRAM, &error, COULD_NOT_START),
            };
        }
        Command::Status { name, output, run } => {
            status::run(name.as_deref(), run.state_file.as_deref(), output)
        }
        Command::Scale { name, workers, run } => {
            control::scale(&name, run.state_file.as_deref(), &workers)
        }
        Command::Reload { name, run } => control::reload(&name, run.state_file.as_deref()),
        Command::Dashboard { open, port, run } => {
            dashboard::run(run.state_file.as_deref(), port, open)
        }
        Command::Import(args) => return imported(&args),
        Command::Init(args) => import::init(&args),
        Command::Logs { name, run } => {
            let logs = control::logs(&name, run.state_file.as_deref());
            logs.map(|logs| {
                if let Some(note) = logs.note {
                    say(&format!("{PROGRAM}: {note}"));
                }
                logs.lines
            })
        }
    };
    match done {
        Ok(text) => print(&text),
        Err(error) => fail(PROGRAM, &error, FAILURE),
    }
}

fn imported(args: &cli::ImportArgs) -> ExitCode {
    match import::run(args) {
        Ok(imported) => {
            say(imported.report.trim_end());
            let printed = print(&imported.text);
            if args.strict && imported.has_losses {
                return ExitCode::from(FAILURE);
            }
            printed
        }
        Err(error) => fail(PROGRAM, &error, FAILURE),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader closed the pipe (`scaledapp status | head`).
        Err(_) => ExitCode::FAILURE,
    }
}
