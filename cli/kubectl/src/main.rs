//! `kubectl scaledapp`: shows and changes the ScaledApps of a cluster, with the rights of the
//! user's kubeconfig.
//!
//! This file parses the command line, runs one verb, and ends with its exit code. `model` decides
//! what readings mean, `view` how they look, `check` what is wrong; the other files carry verbs out.

mod act;
mod api;
mod bundle;
mod check;
mod cli;
mod complete;
mod events;
mod explain;
mod logs;
mod model;
mod open;
mod outcome;
mod output;
mod read;
mod screen;
mod status;
mod text;
mod top;
mod view;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::{Cli, Verb};
use outcome::{Ended, Failure, GOOD, INTERRUPTED, UNKNOWN, USAGE};

fn main() -> ExitCode {
    scaledapp_runtime::reset_signals();
    let words: Vec<OsString> = std::env::args_os().collect();
    let cli = match cli::parse(&words) {
        Ok(cli) => cli,
        Err(error) => {
            // If the terminal is closed, only the exit code can be returned.
            drop(error.print());
            return ExitCode::from(if error.exit_code() == 0 { GOOD } else { USAGE });
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(interruptible(&cli));
            // A thread that reads keys must not be waited for.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Failure::unknown(format!("cannot start: {error}"))),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.text.is_empty() {
                scaledapp_runtime::say(&format!("scaledapp: {}", text::clean(&failure.text)));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Runs the verb until it ends or Ctrl-C comes.
async fn interruptible(cli: &Cli) -> Ended {
    tokio::select! {
        ended = run(cli) => ended,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Ok(INTERRUPTED),
            Err(error) => Err(Failure::new(UNKNOWN, format!("no signals: {error}"))),
        },
    }
}

async fn run(cli: &Cli) -> Ended {
    let color = cli.looks.color;
    let api = || api::Api::connect(&cli.connection);
    match &cli.verb {
        Verb::Status(args) => status::run(&api().await?, args, color).await,
        Verb::Check(args) => check::run(&api().await?, args, color).await,
        Verb::Logs(args) => logs::run(&api().await?, args, color).await,
        Verb::Events(args) => events::run(&api().await?, args, color).await,
        Verb::Reload(args) => act::reload(&api().await?, args).await,
        Verb::Restart(args) => act::restart(&api().await?, args).await,
        Verb::Scale(args) => act::scale(&api().await?, args).await,
        Verb::Pause(args) => act::pause(&api().await?, args, true).await,
        Verb::Resume(args) => act::pause(&api().await?, args, false).await,
        Verb::Top(args) => top::run(&api().await?, args, color).await,
        Verb::Explain { word } => explain::run(word.as_deref()),
        Verb::Render(args) => {
            let text = scaledapp_operator::render::file(args)
                .map_err(|error| Failure::fails(format!("{error:#}")))?;
            output::write(&text)?;
            Ok(GOOD)
        }
        Verb::Completion { shell } => complete::script(*shell),
        Verb::Complete { words } => complete::complete(words).await,
        Verb::Open(args) => open::run(&api().await?, args).await,
        Verb::SupportBundle(args) => bundle::run(&api().await?, args).await,
    }
}
