//! `scaledapp-sidecar`: parses the command line and maps results to exit codes.

use std::io::Write;
use std::process::ExitCode;

use scaledapp_runtime::cli::{COULD_NOT_START, USAGE, fail, parse};
use scaledapp_sidecar::cli::{Cli, Command};
use scaledapp_sidecar::ctl::command;
use scaledapp_sidecar::handover::selftest;
use scaledapp_sidecar::settings::Settings;
use scaledapp_sidecar::{import, install, run, unit, watchdog};

const PROGRAM: &str = "scaledapp-sidecar";

fn main() -> ExitCode {
    // Workers inherit the signal state that this call leaves.
    scaledapp_runtime::reset_signals();
    let cli = match parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match cli.command {
        Command::Run(args) => {
            // Dropped last, so that everything logged until then is written.
            let _logging = scaledapp_runtime::init_logging("sidecar");
            match Settings::resolve(*args) {
                Ok(settings) => match run::run(settings) {
                    Ok(code) => ExitCode::from(code as u8),
                    Err(error) => fail(PROGRAM, &error, COULD_NOT_START),
                },
                Err(error) => fail(PROGRAM, &error, USAGE),
            }
        }
        Command::Unit(args) => {
            let (systemd, of_user) = (args.systemd, args.of_user);
            let words = std::env::args().skip_while(|word| word != "unit").skip(1);
            let text = Settings::resolve(args.run)
                .and_then(|settings| unit::text(&settings, words, systemd, of_user));
            match text {
                Ok(text) => print(&text),
                Err(error) => fail(PROGRAM, &error, USAGE),
            }
        }
        Command::Ctl(args) => match command::run(&args, &mut std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is::<command::HungUp>() => ExitCode::FAILURE,
            Err(error) => fail(PROGRAM, &error, 1),
        },
        Command::Import { arguments } => fail(PROGRAM, &import::run(&arguments), 1),
        Command::Install { dir } => match install::install(&dir) {
            Ok(path) => print(&format!("{}\n", path.display())),
            Err(error) => fail(PROGRAM, &error, 1),
        },
        Command::SelfTest { port } => ExitCode::from(u8::from(!selftest::bind_as_an_app(port))),
        Command::Watchdog => {
            watchdog::run(std::io::stdin().lock());
            ExitCode::SUCCESS
        }
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe, so nothing can be reported.
        Err(_) => ExitCode::FAILURE,
    }
}
