//! `scaledapp-dns`: authoritative DNS for one zone over UDP and TCP.
//!
//! Parses the command line and maps results to exit codes. What is answered is
//! decided in `scaledapp-answers`, what the zone holds in [`catalog`].

mod apps;
mod catalog;
mod cli;
mod cluster;
mod health;
mod metrics;
mod origins;
mod probe;
mod records;
mod report;
mod responder;
mod run;
mod tcp;
mod udp;

use std::io::Write;
use std::process::ExitCode;

use cli::{Cli, Command, Settings};

/// Nothing could be served.
const COULD_NOT_START: u8 = 2;

fn main() -> ExitCode {
    let cli = match scaledapp_admin::cli::parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let Command::Run(args) = cli.command;
    let settings = match Settings::resolve(args) {
        Ok(settings) => settings,
        Err(error) => return fail(&error.into(), scaledapp_admin::cli::USAGE),
    };
    let logging = scaledapp_admin::init_logging("scaledapp-dns");
    let ended = run::run(settings);
    drop(logging);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, COULD_NOT_START),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // With stderr closed there is nobody to tell but by the code.
    let _closed = writeln!(std::io::stderr(), "scaledapp-dns: {error:#}");
    ExitCode::from(code)
}
