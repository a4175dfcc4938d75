//! The command line of `scaledapp-sidecar`: subcommands, help texts, and the values of
//! single flags. `settings` decides what the flags of `run` mean together.

mod ready;
mod scaling;
mod times;
mod trust;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use rustix::process::Signal;
use scaledapp_proxy::{Sticky, StickyError};
use scaledapp_runtime::cli::AdminArg;
use scaledapp_units::{Size, duration};
use serde::Deserialize;

use crate::range::WorkerRange;

pub use ready::{PortArg, ReadyArgs};
pub use scaling::{ScaleArg, ScalingArgs};
pub use times::TimeArgs;
pub use trust::{TrustArg, TrustArgs};

const RUN_EXAMPLES: &str = "\
Examples:
  scaledapp-sidecar run -- node server.js
      one worker per core behind port 3000; each request goes to the least busy worker
  scaledapp-sidecar run --port 8000 --workers 4 -- python3 -m http.server 8000
  scaledapp-sidecar run --workers 1..auto -- node server.js
      one worker, and more while the load needs them
  scaledapp-sidecar run --dispatch connection --port 6379 -- ./any-tcp-server
  scaledapp-sidecar run --readiness-path /healthz --boot-timeout 120s -- npm start
  scaledapp-sidecar run --port none -- node queue-consumer.js
  scaledapp-sidecar run --wait-ready --shutdown-message -- node server.js

Signals: TERM drains and exits 0, a second INT exits quickly, HUP reloads.
Exit codes: 0 drained, 2 the supervisor itself could not start, 64 usage;
the app's own code (128+signal, 126, 127) if it never became ready.";

const UNIT_EXAMPLES: &str = "\
Examples:
  scaledapp-sidecar unit -- node server.js | sudo tee /etc/systemd/system/hello.service
  scaledapp-sidecar unit --port 8000 --workers 4 -- gunicorn app:app
  scaledapp-sidecar unit --of-user -- node server.js > ~/.config/systemd/user/hello.service

Takes the flags of `run`, checks them, and writes them into the unit, with this
program's path, this directory and this PATH. `systemctl start` then waits for
the first ready worker, `systemctl reload` for the whole reload, and
`systemctl status` shows how many workers are ready.";

const CTL_EXAMPLES: &str = "\
Examples:
  scaledapp-sidecar ctl status
  scaledapp-sidecar ctl scale 4
  scaledapp-sidecar ctl scale 1..4
  scaledapp-sidecar ctl --admin 127.0.78.1:9377 reload
  scaledapp-sidecar ctl signal USR2 0
  scaledapp-sidecar ctl describe 0

Commands use a Unix socket that is named after the admin address; only the
supervisor's own user and root may use it.";

/// Runs one worker per core of an unmodified app behind one port.
#[derive(Debug, Parser)]
#[command(name = "scaledapp-sidecar", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Supervise COMMAND: start the workers, share the port, restart what ends
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Print a systemd unit that runs COMMAND under a supervisor
    #[command(after_help = UNIT_EXAMPLES)]
    Unit(Box<UnitArgs>),
    /// Query or control a running supervisor
    #[command(after_help = CTL_EXAMPLES)]
    Ctl(CtlArgs),
    /// Turn a PM2 ecosystem file into a ScaledApp or a command line: runs `scaledapp import`
    #[command(after_help = "Example:\n  scaledapp import ecosystem.config.js > scaledapp.yaml")]
    Import {
        /// Arguments that are passed on unchanged; see `scaledapp import --help`
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENT"
        )]
        arguments: Vec<OsString>,
    },
    /// Copy this binary into DIR (init container: puts the supervisor beside the app)
    #[command(after_help = "Example:\n  scaledapp-sidecar install /.scaledapp")]
    Install {
        /// Directory to copy into; the file is named `sidecar`
        dir: PathBuf,
    },
    /// Binds PORT once, so that the parent process can test the hand-over
    #[command(hide = true)]
    SelfTest {
        /// The port for which the parent process answers
        port: u16,
    },
    /// Kills the process groups named on stdin when stdin ends
    #[command(hide = true)]
    Watchdog,
}

/// The arguments of `unit`.
#[derive(Debug, Args)]
pub struct UnitArgs {
    /// Version of systemd on the machine; from 253 on, `systemctl reload` needs no second program
    #[arg(long, value_name = "VERSION", default_value = "252")]
    pub systemd: u32,
    /// A unit for `systemctl --user`, without rights of root
    #[arg(long)]
    pub of_user: bool,
    /// The flags of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// How work reaches the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DispatchArg {
    /// HTTP, each request to the least busy worker
    #[default]
    Request,
    /// Any TCP protocol, each connection to an idle worker
    Connection,
}

/// `--sticky`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StickyArg(pub(crate) Sticky);

impl FromStr for StickyArg {
    type Err = StickyError;

    fn from_str(text: &str) -> Result<Self, StickyError> {
        text.parse().map(Self)
    }
}

/// `--protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolArg {
    /// HTTP/1.1
    #[default]
    Http,
    /// HTTP/2 without TLS, by prior knowledge
    H2c,
}

impl DispatchArg {
    /// The value as it is written on the command line and in status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Connection => "connection",
        }
    }
}

/// How a worker gets its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MechanismArg {
    /// Notify if a self-test at the start succeeds, otherwise port
    Auto,
    /// The supervisor answers the app's bind call with its own socket
    Notify,
    /// Each worker gets a private port in PORT and must listen on it
    Port,
}

/// What happens to the lines that workers write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogsArg {
    /// Unchanged; stdout is not even read by the supervisor
    Inherit,
    /// Each line of stdout and stderr begins with its slot in brackets
    Prefix,
    /// Each line as a JSON object with time, slot, pid, stream and message
    Json,
}

/// What happens when the supervisor's own stdout or stderr accepts no more bytes.
#[expect(clippy::doc_markdown, reason = "clap prints the texts as they are")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogsFullArg {
    /// Workers wait when they write, as they would without a supervisor
    Block,
    /// Lines are dropped and counted in scaledapp_log_lines_dropped_total
    Drop,
}

/// How the metrics of several workers become one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsMergeArg {
    /// Each sample with a label worker="SLOT"
    Label,
    /// Sums of counters, histograms and gauges; quantiles are left out
    Sum,
}

/// The value of `--metrics-from`: `/metrics`, or `9464/metrics` with a port of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsFrom {
    /// A port other than the shared one; `None` means the shared one.
    pub port: Option<u16>,
    /// The path to request; begins with `/`.
    pub path: String,
}

impl FromStr for MetricsFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "{text:?} is not a path of metrics: give a path such as /metrics, or 9464/metrics for another port"
            )
        };
        let (port, path) = text.split_at(text.find('/').ok_or_else(error)?);
        let port = match port {
            "" => None,
            port => Some(
                port.parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(error)?,
            ),
        };
        if path.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
            return Err(error());
        }
        let path = path.to_owned();
        Ok(Self { port, path })
    }
}

/// The flags of `run`; `None` if neither the flag nor its variable was given.
#[expect(
    clippy::doc_markdown,
    reason = "clap prints the fields' texts as they are"
)]
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Address to serve on [default: all addresses]
    #[arg(long, env = "SCALEDAPP_HOST", value_name = "IP")]
    pub host: Option<IpAddr>,
    /// The port that the app listens on; "none" if it never listens [default: 3000]
    #[arg(long, env = "SCALEDAPP_PORT", value_name = "PORT")]
    pub port: Option<PortArg>,
    /// Further ports that workers share, such as 8081,9000; any other port works in only one worker [default: none]
    #[arg(
        long,
        env = "SCALEDAPP_SHARE",
        value_name = "PORT,…",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub share: Option<Vec<u16>>,
    /// auto (one per core), N, max (one per CPU, quota ignored), -K (K fewer than auto), Nx (N per core), or a range such as 1..auto, within which the load decides [default: auto]
    #[arg(
        long,
        env = "SCALEDAPP_WORKERS",
        value_name = "SPEC",
        allow_hyphen_values = true
    )]
    pub workers: Option<WorkerRange>,
    /// Whether requests or connections are distributed to workers [default: request]
    #[arg(long, env = "SCALEDAPP_DISPATCH")]
    pub dispatch: Option<DispatchArg>,
    /// What workers speak on the port: http (HTTP/1.1), or h2c (HTTP/2 without TLS), as gRPC needs it (request dispatch) [default: http]
    #[arg(long, env = "SCALEDAPP_PROTOCOL", value_name = "PROTOCOL")]
    pub protocol: Option<ProtocolArg>,
    /// How a client comes back to the same worker: cookie, cookie:NAME, header:NAME or address (request dispatch) [default: it does not]
    #[arg(long, env = "SCALEDAPP_STICKY", value_name = "KIND")]
    pub sticky: Option<StickyArg>,
    /// Read-only HTTP port: /livez /readyz /status /metrics /watch; "none" turns it and `ctl` off [default: 127.0.0.1:9377]
    #[arg(long, env = "SCALEDAPP_ADMIN", value_name = "ADDR")]
    pub admin: Option<AdminArg>,
    /// JSON file with the same names as these flags (camelCase)
    #[arg(long, env = "SCALEDAPP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How workers get the port [default: auto]
    #[arg(long, env = "SCALEDAPP_MECHANISM")]
    pub mechanism: Option<MechanismArg>,
    /// A worker is ready when GET PATH on it answers 2xx or 3xx [default: when it listens]
    #[arg(long, env = "SCALEDAPP_READINESS_PATH", value_name = "PATH")]
    pub readiness_path: Option<String>,
    /// A worker that is not ready within this time is replaced [default: 60s]
    #[arg(long, env = "SCALEDAPP_BOOT_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub boot_timeout: Option<Duration>,
    /// How long requests or connections in progress may take to end [default: 30s]
    #[arg(long, env = "SCALEDAPP_DRAIN_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub drain_timeout: Option<Duration>,
    /// On TERM, keep accepting until this long has passed without a new connection [default: 2s]
    #[arg(long, env = "SCALEDAPP_DRAIN_QUIET", value_parser = duration::parse, value_name = "TIME")]
    pub drain_quiet: Option<Duration>,
    /// Time from the stop signal to SIGKILL [default: 10s]
    #[arg(long, env = "SCALEDAPP_STOP_GRACE", value_parser = duration::parse, value_name = "TIME")]
    pub stop_grace: Option<Duration>,
    /// Signal that asks a worker to end [default: TERM]
    #[arg(long, env = "SCALEDAPP_STOP_SIGNAL", value_name = "SIG")]
    pub stop_signal: Option<String>,
    /// Variable that holds the worker's slot number, 0 to N-1 [default: NODE_APP_INSTANCE]
    #[arg(long, env = "SCALEDAPP_INSTANCE_ENV", value_name = "NAME")]
    pub instance_env: Option<String>,
    /// Directory in which workers start; its path is resolved at each start, so that switching a symlink takes effect [default: $PWD]
    #[arg(long, env = "SCALEDAPP_CWD", value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// JSON file {"workers": SPEC, "reload": TOKEN}, watched for changes: a new SPEC scales, a new TOKEN reloads
    #[arg(long, env = "SCALEDAPP_DESIRED_FILE", value_name = "FILE")]
    pub desired_file: Option<PathBuf>,
    /// Most requests that one worker gets at once; more wait in the queue (request dispatch) [default: no limit]
    #[arg(long, env = "SCALEDAPP_MAX_IN_FLIGHT", value_name = "N")]
    pub max_in_flight: Option<NonZeroU32>,
    /// Most requests that wait in the queue; more get 503 with Retry-After [default: 1024]
    #[arg(long, env = "SCALEDAPP_QUEUE_LENGTH", value_name = "N")]
    pub queue_length: Option<u32>,
    /// How long a request waits in the queue before it gets 503 [default: 30s]
    #[arg(long, env = "SCALEDAPP_QUEUE_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub queue_timeout: Option<Duration>,
    /// Threads of the request dispatcher [default: one per four cores]
    #[arg(long, env = "SCALEDAPP_DISPATCH_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub dispatch_threads: Option<u16>,
    /// What happens to lines that workers write to stdout and stderr [default: inherit]
    #[arg(long, env = "SCALEDAPP_LOGS")]
    pub logs: Option<LogsArg>,
    /// What happens when the supervisor's own stdout or stderr accepts no more lines [default: block]
    #[arg(long, env = "SCALEDAPP_LOGS_FULL")]
    pub logs_full: Option<LogsFullArg>,
    /// Collect every worker's metrics from PATH (or PORT/PATH) at /metrics/app of the admin port
    #[arg(long, env = "SCALEDAPP_METRICS_FROM", value_name = "PATH")]
    pub metrics_from: Option<MetricsFrom>,
    /// How the metrics of several workers become one page [default: label]
    #[arg(long, env = "SCALEDAPP_METRICS_MERGE")]
    pub metrics_merge: Option<MetricsMergeArg>,
    // The groups are last, because clap puts every flag that follows a heading under it.
    /// When the supervisor replaces a worker by itself.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// When a worker starts or stops within a range of `--workers`.
    #[command(flatten)]
    pub scaling: ScalingArgs,
    /// How a worker reports that it is ready, and is asked to end.
    #[command(flatten)]
    pub ready: ReadyArgs,
    /// How long a request, its answer and its client may take.
    #[command(flatten)]
    pub times: TimeArgs,
    /// Which statements about clients are believed.
    #[command(flatten)]
    pub trust: TrustArgs,
    /// The command of ONE worker; executed directly, without a shell
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Of `run`: when the supervisor replaces a worker by itself.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Recycling")]
pub struct LimitArgs {
    /// A worker whose processes have more than this is replaced, such as 300M (mebibytes) [default: none]
    #[arg(long, env = "SCALEDAPP_MAX_MEMORY", value_name = "SIZE")]
    pub max_memory: Option<Size>,
    /// A worker that has answered this many requests is replaced [default: none]
    #[arg(long, env = "SCALEDAPP_MAX_REQUESTS", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_requests: Option<u64>,
    /// A worker that has served for this long is replaced, such as 6h [default: none]
    #[arg(long, env = "SCALEDAPP_MAX_AGE", value_parser = duration::parse, value_name = "TIME")]
    pub max_age: Option<Duration>,
    /// Largest reduction of --max-requests and --max-age, in percent; it differs for each worker [default: 10]
    #[arg(long, env = "SCALEDAPP_RECYCLE_JITTER", value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub recycle_jitter: Option<u32>,
    /// A worker that has requests, but sends no byte and accepts no connection for this long, is killed; "none": never [default: 60s]
    #[arg(long, env = "SCALEDAPP_HANG_TIMEOUT", value_name = "TIME")]
    pub hang_timeout: Option<HangTimeout>,
}

/// The value of `--hang-timeout`: a time, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HangTimeout(pub Option<Duration>);

impl FromStr for HangTimeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        match duration::parse(text) {
            Ok(Duration::ZERO) => Err(
                "no worker can answer within 0s: give a time such as 60s, or \"none\"".to_owned(),
            ),
            Ok(time) => Ok(Self(Some(time))),
            Err(error) => Err(format!("{error}, or \"none\"")),
        }
    }
}

/// `ctl` as typed.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The --admin address of the supervisor
    #[arg(
        long,
        env = "SCALEDAPP_ADMIN",
        default_value = "127.0.0.1:9377",
        value_name = "ADDR"
    )]
    pub admin: SocketAddr,
    /// How long to wait for an answer, and for scale, reload and restart to finish [default: 300s, or as long as boots, drains and stops may take]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", global = true)]
    pub timeout: Option<Duration>,
    /// What to query or do
    #[command(subcommand)]
    pub verb: CtlVerb,
}

/// The format of the output of `ctl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people
    Table,
    /// The JSON of /status
    Json,
}

/// The verbs of `ctl`.
#[derive(Debug, Subcommand)]
pub enum CtlVerb {
    /// Show the workers
    #[command(visible_alias = "ls")]
    Status {
        /// Output format
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Change the number of workers and wait until that many are ready
    Scale {
        /// N, +K or -K: from now on this number; a range such as 1..4, auto, max or Nx: as --workers; reset: what --workers or the desired-state file says
        #[arg(allow_hyphen_values = true, value_name = "WORKERS")]
        workers: ScaleArg,
    },
    /// Replace all workers one after the other without losing a request
    Reload,
    /// Replace the worker of one slot without losing a request
    Restart {
        /// Slot number as shown by `status`
        slot: u32,
    },
    /// Send a signal to every worker, or to the worker of one slot
    Signal {
        /// Name or number, with or without SIG
        #[arg(value_parser = parse_signal)]
        signal: Signal,
        /// Slot number as shown by `status`
        slot: Option<u32>,
    },
    /// Print the last stderr lines of each slot, or of one slot
    Logs {
        /// Slot number as shown by `status`
        slot: Option<u32>,
    },
    /// Show everything that is known about each slot, or about one slot
    Describe {
        /// Slot number as shown by `status`
        slot: Option<u32>,
        /// Output format
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Show the workers repeatedly until Ctrl-C (only once without a terminal)
    Top {
        /// Time between two updates
        #[arg(long, default_value = "1s", value_parser = duration::parse, value_name = "TIME")]
        interval: Duration,
        /// Print one table and exit
        #[arg(long)]
        once: bool,
    },
    /// Show recent events with their causes
    Events {
        /// Output format
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
}

/// Reads a signal by name (`TERM`, `SIGTERM`) or number.
///
/// # Errors
/// The name is not a signal of this system. Real-time signals (from 32 on) belong to C
/// libraries and are not sent.
pub fn parse_signal(text: &str) -> anyhow::Result<Signal> {
    const NAMES: [(&str, Signal); 16] = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("ABRT", Signal::ABORT),
        ("KILL", Signal::KILL),
        ("USR1", Signal::USR1),
        ("SEGV", Signal::SEGV),
        ("USR2", Signal::USR2),
        ("PIPE", Signal::PIPE),
        ("ALRM", Signal::ALARM),
        ("TERM", Signal::TERM),
        ("CONT", Signal::CONT),
        ("STOP", Signal::STOP),
        ("TSTP", Signal::TSTP),
        ("URG", Signal::URG),
        ("WINCH", Signal::WINCH),
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = NAMES.iter().find(|(known, _)| *known == name);
    let numbered = || text.parse().ok().and_then(Signal::from_named_raw);
    named
        .map(|(_, signal)| *signal)
        .or_else(numbered)
        .with_context(|| {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!(
                "{text:?} is not a signal: use a number from 1 to 31 or one of {}",
                known.join(", ")
            )
        })
}
