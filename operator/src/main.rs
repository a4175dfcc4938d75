//! `scaledapp-operator`: what a `ScaledApp` says becomes objects of a cluster.
//!
//! Parses the command line and maps results to exit codes; the work is in the
//! library.

use std::io::Write;
use std::process::ExitCode;

use scaledapp_operator::cli::{Cli, Command, Settings};
use scaledapp_operator::{render, request, run};

/// Nothing could be started.
const COULD_NOT_START: u8 = 2;
/// A file could not be read or makes no sense.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    let cli = match scaledapp_admin::cli::parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match cli.command {
        Command::Run(args) => {
            let logging = scaledapp_admin::init_logging("scaledapp-operator");
            let ended = run::run(Settings::resolve(args));
            drop(logging);
            match ended {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, COULD_NOT_START),
            }
        }
        Command::Crd => print(render::definition()),
        Command::Render(args) => print(render::file(&args)),
        Command::Get { url } => print(request::get(&url)),
    }
}

fn print(text: anyhow::Result<String>) -> ExitCode {
    let printed = text.and_then(|text| Ok(std::io::stdout().write_all(text.as_bytes())?));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, FAILURE),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // With stderr closed there is nobody to tell but by the code.
    let _closed = writeln!(std::io::stderr(), "scaledapp-operator: {error:#}");
    ExitCode::from(code)
}
