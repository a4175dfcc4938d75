//! The command line of `scaledapp`.

#![expect(
    clippy::doc_markdown,
    reason = "the comments are help texts, which are not markdown"
)]

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  scaledapp local examples/hello-node/scaledapp.yaml
      runs the app on this machine: pods, balancers and DNS, until Ctrl-C
  scaledapp status
  scaledapp scale hello 4
  scaledapp reload hello

Exit codes: 0 done, 1 failure, 2 nothing could start, 64 usage.";

const LOCAL_EXAMPLES: &str = "\
Examples:
  scaledapp local examples/hello-node/scaledapp.yaml
  scaledapp local app.yaml --watch --open
  scaledapp local app.yaml --nodes 3
  scaledapp local app.yaml --state-file /tmp/state.json --workdir /tmp/work

Real processes and sockets, no containers: spec.image is not pulled, and
spec.resources is not enforced. Pods get addresses 127.0.78.1, 127.0.78.2, …
(the next free block if taken) and keep spec.port; balancers get 127.0.77.1, …
with port 8080 or the next free one; DNS gets the first free port from 5353 on
127.0.0.1. `replicas: {perNode: N}` means N pods for each simulated node; with
`workers: {perCore: N}` the pods share the machine's cores.
A command runs in spec.workingDir if that exists on this machine, otherwise in
the directory of FILE. FILE may hold several objects (`---` between them, or a
List). All of them run, each at its own addresses, with one DNS server for each
zone.

Each line that the app writes is printed after its pod and slot:
  hello-0/1 | listening
with colours on a terminal, unless NO_COLOR is set. Balancers and DNS log only
problems; SCALEDAPP_LOG=info shows everything. Python gets PYTHONUNBUFFERED=1.

--watch looks at the files below the directory in which the command starts, but
not at those that git ignores, in node_modules, target and the like, or that apps
write (.log, .db, …). 200 ms after the last change, the workers are replaced, pod
by pod. If the change does not start, its last lines are printed, and the old
workers go on serving.

Signals: after INT, TERM or HUP (a closed terminal), the DNS record is withdrawn,
the balancers drain, then the pods, and nothing is left behind. A second signal
kills. A process that ends by itself is started again.

Files are in $XDG_RUNTIME_DIR/scaledapp/NAME, or /tmp/scaledapp-UID/NAME without
it. A directory that another user could change is refused; the message names it.
Exit codes: 0 drained, 1 killed, 2 could not start, 64 usage.

The state file, written when everything is ready:
  {\"dns\": \"127.0.0.1:5353\", \"hostname\": \"hello.apps.local\",
   \"balancers\": [\"127.0.77.1:8080\", …],
   \"pods\": [{\"name\": \"hello-0\", \"address\": \"127.0.78.1:3000\",
             \"admin\": \"127.0.78.1:9377\"}, …]}
With several apps, these keys describe the first one, and \"apps\" lists all of
them in the same form, each with its \"name\". The file is valid while its run
lives: commands refuse and remove the file of a killed run.";

/// Checks a worker count roughly; the supervisor's `ctl` has the final say.
fn count(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    // `parse` would accept a second sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain && digits.parse::<u32>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a number of workers: give N, +K or -K"
        ))
    }
}

const SCALE_EXAMPLES: &str = "\
Examples:
  scaledapp scale hello 4      four workers in each pod
  scaledapp scale hello +1     one more in each pod
  scaledapp scale hello -1     one fewer, drained first";

const STATUS_EXAMPLES: &str = "\
Examples:
  scaledapp status             every app that runs here
  scaledapp status hello -o json";

const DASHBOARD_EXAMPLES: &str = "\
Examples:
  scaledapp dashboard             prints the address of the page
  scaledapp dashboard --open

The page is served on 127.0.0.1 only, to those who have the printed address: it
ends with a token that is valid until Ctrl-C. It shows, and changes nothing.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  scaledapp import ecosystem.config.js --env production > scaledapp.yaml
  scaledapp import docker-compose.yml --env-file .env > scaledapp.yaml
  scaledapp import deployment.yaml service.yaml hpa.yaml > scaledapp.yaml
  helm template shop ./chart | scaledapp import /dev/stdin --app shop
  scaledapp import Procfile -o json

A file is recognised by its content: an ecosystem file of PM2, a Procfile, a
Compose file, or manifests of Kubernetes, of which several files are read
together. The objects go to stdout. The report goes to stderr and names every
field: kept, changed, without a counterpart, or needing your decision. No value
of a secret is printed; it is read from a Secret that the report names. A
JavaScript file is read by your own node, in a separate process.
Exit codes: 0 done, 1 failure, or with --strict a field that is not carried
over, 64 usage.";

const INIT_EXAMPLES: &str = "\
Examples:
  scaledapp init && scaledapp local scaledapp.yaml
  scaledapp init services/api

Reads Dockerfile, Procfile, package.json, pyproject.toml, requirements.txt,
go.mod, Cargo.toml, Gemfile and the usual names of source files. Each guess is
printed with its reason, and stands as a comment in the file. An existing
scaledapp.yaml is never changed.";

/// Runs an app on every core behind several balancers, and restarts what fails.
#[derive(Debug, Parser)]
#[command(name = "scaledapp", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a ScaledApp on this machine until Ctrl-C
    #[command(after_help = LOCAL_EXAMPLES)]
    Local(LocalArgs),
    /// Show the pods, workers and balancers of the apps that run here
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// Show only this app
        name: Option<String>,
        /// Format of the output
        #[arg(short, long, default_value = "table")]
        output: Output,
        #[command(flatten)]
        run: RunArg,
    },
    /// Change the number of workers in each pod, and wait until it is reached
    #[command(after_help = SCALE_EXAMPLES)]
    Scale {
        /// The app
        name: String,
        /// N, or +K / -K relative to the present number
        #[arg(allow_hyphen_values = true, value_parser = count)]
        workers: String,
        #[command(flatten)]
        run: RunArg,
    },
    /// Replace all workers, pod by pod, without losing a request; stops at a pod that fails
    #[command(after_help = "Example:\n  scaledapp reload hello")]
    Reload {
        /// The app
        name: String,
        #[command(flatten)]
        run: RunArg,
    },
    /// Print the last stderr lines of each worker
    #[command(after_help = "Example:\n  scaledapp logs hello")]
    Logs {
        /// The app
        name: String,
        #[command(flatten)]
        run: RunArg,
    },
    /// Show the apps that run here in a browser, live, until Ctrl-C
    #[command(after_help = DASHBOARD_EXAMPLES)]
    Dashboard {
        /// Open the page in the browser of this machine
        #[arg(long)]
        open: bool,
        /// Port of 127.0.0.1 for the page [default: a free one]
        #[arg(
            long,
            value_name = "PORT",
            default_value = "0",
            hide_default_value = true
        )]
        port: u16,
        #[command(flatten)]
        run: RunArg,
    },
    /// Turn files of PM2, Procfile, Compose or Kubernetes into ScaledApps
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(ImportArgs),
    /// Write a ScaledApp for the project in a directory, and say what is assumed
    #[command(after_help = INIT_EXAMPLES)]
    Init(InitArgs),
}

/// The arguments of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The files to import; several only if all are manifests of Kubernetes
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Only the app, service, process or workload of this name, whatever it is
    #[arg(long, value_name = "NAME")]
    pub(crate) app: Option<String>,
    /// The name of the result [default: that of the source]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// PM2: merge env_NAME over env, as `pm2 start --env NAME` does
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// Compose, Procfile: values of variables, NAME=VALUE in each line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// Kubernetes: the container that is the app [default: the one that a Service leads to]
    #[arg(long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// What one worker runs, if the file leaves it to the image
    #[arg(long, value_name = "COMMAND")]
    pub(crate) command: Option<String>,
    /// One worker in each pod, as before, in place of one per core
    #[arg(long)]
    pub(crate) keep_processes: bool,
    /// Fail if a field has no counterpart or needs a decision
    #[arg(long)]
    pub(crate) strict: bool,
    /// Format of the result
    #[arg(short, long, default_value = "scaledapp")]
    pub(crate) output: ImportOutput,
}

/// Format of `import`'s output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportOutput {
    /// ScaledApp objects (YAML) for `kubectl apply` and `scaledapp local`
    Scaledapp,
    /// PM2: a `scaledapp-sidecar run` command line for a shell
    Flags,
    /// The report and the objects as one JSON object
    Json,
}

/// The arguments of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The project's directory
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// The arguments of `local`.
#[derive(Debug, Args)]
pub(crate) struct LocalArgs {
    /// YAML or JSON file with ScaledApps
    pub(crate) file: PathBuf,
    /// Also write all addresses to this file, once everything is ready
    #[arg(long, env = "SCALEDAPP_STATE_FILE", value_name = "FILE")]
    pub(crate) state_file: Option<PathBuf>,
    /// Directory for the run's files [default: $XDG_RUNTIME_DIR/scaledapp/NAME or /tmp/scaledapp-UID/NAME]
    #[arg(long, env = "SCALEDAPP_WORKDIR", value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// Nodes to simulate, for replicas.perNode
    #[arg(long, env = "SCALEDAPP_NODES", value_name = "N", default_value = "2")]
    pub(crate) nodes: NonZeroU32,
    /// Reload the workers when files of the app change; a change that does not start changes nothing
    #[arg(long)]
    pub(crate) watch: bool,
    /// Open the app in a browser when it is ready
    #[arg(long)]
    pub(crate) open: bool,
}

/// Selects a run.
#[derive(Debug, Args)]
pub(crate) struct RunArg {
    /// State file of the run [default: the one that `local` wrote for the app's name]
    #[arg(long, env = "SCALEDAPP_STATE_FILE", value_name = "FILE")]
    pub(crate) state_file: Option<PathBuf>,
}

/// Format of `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table
    Table,
    /// The status of every pod and balancer, as one JSON array
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_relative_scale_is_not_taken_for_a_flag() {
        let cli = Cli::try_parse_from(["scaledapp", "scale", "hello", "-1"]).unwrap();
        assert!(matches!(cli.command, Command::Scale { workers, .. } if workers == "-1"));
    }

    #[test]
    fn an_invalid_number_of_workers_is_refused_before_any_request() {
        for word in ["abc", "auto", "", "+", "--1", "+-1", "4x", "99999999999"] {
            let error = Cli::try_parse_from(["scaledapp", "scale", "hello", word]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{word}: a usage error, 64 in `main`");
            assert!(error.to_string().contains("give N, +K or -K"), "{error}");
        }
    }
}
