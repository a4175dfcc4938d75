//! `scaledapp-balancer`: forwards HTTP requests of clients to the pods of an app.
//!
//! Parses the command line and maps results to exit codes. How a request is forwarded is
//! decided in `scaledapp-proxy`; where it can go is decided in [`discovery`] and [`peers`].

mod access;
mod cli;
mod discovery;
mod expiry;
mod fleet;
mod listener;
mod metrics;
mod pages;
mod peers;
mod report;
mod run;
mod settings;
mod tls;
mod vacancy;

use std::process::ExitCode;

use scaledapp_runtime::cli::{USAGE, fail, parse, serve};

use cli::{Cli, Command};
use settings::Settings;

const PROGRAM: &str = "scaledapp-balancer";

fn main() -> ExitCode {
    scaledapp_runtime::reset_signals();
    let cli = match parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let Command::Run(args) = cli.command;
    match Settings::resolve(*args) {
        Ok(settings) => serve(PROGRAM, || run::run(settings)),
        Err(error) => fail(PROGRAM, &error, USAGE),
    }
}
