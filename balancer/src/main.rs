//! `scaledapp-balancer`: HTTP/1 requests from clients to the pods of an app.
//!
//! Parses the command line and maps results to exit codes. How a request is
//! forwarded is decided in `scaledapp-proxy`; where it can go, in [`discovery`]
//! and [`health`].

mod backoff;
mod cli;
mod cluster;
mod discovery;
mod endpoints;
mod file;
mod fleet;
mod health;
mod lines;
mod listener;
mod metrics;
mod report;
mod run;
mod settings;
mod slices;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use cli::{Cli, Command};
use settings::Settings;

/// Nothing could be served.
const COULD_NOT_START: u8 = 2;

fn main() -> ExitCode {
    let cli = match scaledapp_admin::cli::parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let Command::Run(args) = cli.command;
    let settings = match Settings::resolve(*args) {
        Ok(settings) => settings,
        Err(error) => return fail(&error.into(), scaledapp_admin::cli::USAGE),
    };
    let logging = scaledapp_admin::init_logging("scaledapp-balancer");
    let ended = run::run(settings);
    drop(logging);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, COULD_NOT_START),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // With stderr closed there is nobody to tell but by the code.
    let _closed = writeln!(std::io::stderr(), "scaledapp-balancer: {error:#}");
    ExitCode::from(code)
}
