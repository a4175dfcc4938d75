//! `scaledapp-operator`: turns each `ScaledApp` into objects of the cluster.
//!
//! Parses the command line and maps results to exit codes; the work is in the
//! library.

use std::io::Write;
use std::process::ExitCode;

use scaledapp_operator::cli::{Cli, Command, Settings};
use scaledapp_operator::{render, request, run};
use scaledapp_runtime::cli::{USAGE, fail, parse, serve};

const PROGRAM: &str = "scaledapp-operator";
/// Exit code: a file could not be read or is invalid.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    scaledapp_runtime::reset_signals();
    let cli = match parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match cli.command {
        Command::Run(args) => match Settings::resolve(args) {
            Ok(settings) => serve(PROGRAM, || run::run(settings)),
            Err(error) => fail(PROGRAM, &error, USAGE),
        },
        Command::Crd => print(render::definition()),
        Command::Render(args) => print(render::file(&args)),
        Command::Get { url } => print(request::get(&url)),
    }
}

fn print(text: anyhow::Result<String>) -> ExitCode {
    let printed = text.and_then(|text| Ok(std::io::stdout().write_all(text.as_bytes())?));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(PROGRAM, &error, FAILURE),
    }
}
