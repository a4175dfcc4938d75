//! `scaledapp-dns`: authoritative DNS for one zone over UDP and TCP.
//!
//! This file parses the command line and maps results to exit codes. `scaledapp-answers` decides
//! the answers, and [`catalog`] decides the content of the zone.

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
mod service;
mod tcp;
mod udp;

use std::process::ExitCode;

use scaledapp_runtime::cli::{USAGE, fail, parse, serve};

use cli::{Cli, Command, Settings};

const PROGRAM: &str = "scaledapp-dns";

fn main() -> ExitCode {
    scaledapp_runtime::reset_signals();
    let cli = match parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let Command::Run(args) = cli.command;
    match Settings::resolve(args) {
        Ok(settings) => serve(PROGRAM, || run::run(settings)),
        Err(error) => fail(PROGRAM, &error, USAGE),
    }
}
