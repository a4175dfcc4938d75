//! The command line of `scaledapp-sidecar`, and how flag, environment and
//! file become one [`Settings`]. Flags win over `SCALEDAPP_*` variables, those
//! over the file, those over the defaults here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use rustix::process::Signal;
use scaledapp_admin::duration;
use serde::Deserialize;

use crate::cores::WorkerSpec;
use crate::ctl::WorkerCount;

const RUN_EXAMPLES: &str = "\
Examples:
  scaledapp-sidecar run -- node server.js
      one worker per core behind port 3000, requests go to the least busy worker
  scaledapp-sidecar run --port 8000 --workers 4 -- python3 -m http.server 8000
  scaledapp-sidecar run --dispatch connection --port 6379 -- ./any-tcp-server
  scaledapp-sidecar run --readiness-path /healthz --boot-timeout 120s -- npm start

Signals: TERM drains and exits 0, a second INT exits quickly, HUP reloads.
Exit codes: 0 drained, 2 the supervisor itself could not start, 64 usage;
the app's own code (128+signal, 126, 127) when it never became ready.";

const CTL_EXAMPLES: &str = "\
Examples:
  scaledapp-sidecar ctl status
  scaledapp-sidecar ctl scale 4
  scaledapp-sidecar ctl --admin 127.0.78.1:9377 reload
  scaledapp-sidecar ctl signal USR2

The command goes over a Unix socket named after the admin address; only the
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
    /// Supervise COMMAND: start the workers, share the port, keep them alive
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Ask or tell a running supervisor
    #[command(after_help = CTL_EXAMPLES)]
    Ctl(CtlArgs),
    /// Copy this binary into DIR (init container: puts the supervisor beside the app)
    #[command(after_help = "Example:\n  scaledapp-sidecar install /.scaledapp")]
    Install {
        /// Directory to copy into; the file is named `sidecar`
        dir: PathBuf,
    },
    /// Binds PORT once, so that the parent can try the hand-over
    #[command(hide = true)]
    SelfTest {
        /// The port that the parent answers for
        port: u16,
    },
    /// Kills the process groups named on stdin when stdin ends
    #[command(hide = true)]
    Watchdog,
}

/// How work reaches the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DispatchArg {
    /// HTTP, each request to the least busy worker
    Request,
    /// Any TCP protocol, each connection to an idle worker
    Connection,
}

/// How a worker gets its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MechanismArg {
    /// Notify where a self-test at start succeeds, else port
    Auto,
    /// The supervisor answers the app's bind call with its own socket
    Notify,
    /// Each worker gets a private port in PORT and must listen on it
    Port,
}

/// `run` as typed; `None` where neither flag nor environment said anything.
#[expect(
    clippy::doc_markdown,
    reason = "clap prints the fields' texts as they are"
)]
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Address to serve on [default: all addresses]
    #[arg(long, env = "SCALEDAPP_HOST", value_name = "IP")]
    pub host: Option<IpAddr>,
    /// The port the app listens on [default: 3000]
    #[arg(long, env = "SCALEDAPP_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// auto (one per core), N, max (one per CPU, quota ignored), -K (auto less K) or Nx (N per core) [default: auto]
    #[arg(
        long,
        env = "SCALEDAPP_WORKERS",
        value_name = "SPEC",
        allow_hyphen_values = true
    )]
    pub workers: Option<WorkerSpec>,
    /// What is handed out to workers [default: request]
    #[arg(long, env = "SCALEDAPP_DISPATCH")]
    pub dispatch: Option<DispatchArg>,
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
    /// A worker that is not ready by then is replaced [default: 60s]
    #[arg(long, env = "SCALEDAPP_BOOT_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub boot_timeout: Option<Duration>,
    /// How long running requests or connections may take to end [default: 30s]
    #[arg(long, env = "SCALEDAPP_DRAIN_TIMEOUT", value_parser = duration::parse, value_name = "TIME")]
    pub drain_timeout: Option<Duration>,
    /// On TERM, keep accepting until this long passed without a new connection [default: 2s]
    #[arg(long, env = "SCALEDAPP_DRAIN_QUIET", value_parser = duration::parse, value_name = "TIME")]
    pub drain_quiet: Option<Duration>,
    /// From the stop signal to SIGKILL [default: 10s]
    #[arg(long, env = "SCALEDAPP_STOP_GRACE", value_parser = duration::parse, value_name = "TIME")]
    pub stop_grace: Option<Duration>,
    /// Signal that asks a worker to end [default: TERM]
    #[arg(long, env = "SCALEDAPP_STOP_SIGNAL", value_name = "SIG")]
    pub stop_signal: Option<String>,
    /// Variable that holds the worker's slot number, 0 to N-1 [default: NODE_APP_INSTANCE]
    #[arg(long, env = "SCALEDAPP_INSTANCE_ENV", value_name = "NAME")]
    pub instance_env: Option<String>,
    /// JSON file {"workers": SPEC, "reload": TOKEN}, watched: a new SPEC scales, a new TOKEN reloads
    #[arg(long, env = "SCALEDAPP_DESIRED_FILE", value_name = "FILE")]
    pub desired_file: Option<PathBuf>,
    /// Threads of the request dispatcher [default: one per four cores]
    #[arg(long, env = "SCALEDAPP_DISPATCH_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub dispatch_threads: Option<u16>,
    /// What ONE worker runs; executed as it is, without a shell
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `ctl` as typed.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// Which supervisor: its --admin address
    #[arg(
        long,
        env = "SCALEDAPP_ADMIN",
        default_value = "127.0.0.1:9377",
        value_name = "ADDR"
    )]
    pub admin: SocketAddr,
    /// How long to wait for scale, reload and restart to be done
    #[arg(long, default_value = "300s", value_parser = duration::parse, value_name = "TIME", global = true)]
    pub timeout: Duration,
    /// What to ask or tell
    #[command(subcommand)]
    pub verb: CtlVerb,
}

/// Format of `ctl status`.
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
        /// How to print it
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Change the number of workers and wait until it is so
    Scale {
        /// N, or +K / -K relative to now
        #[arg(allow_hyphen_values = true)]
        workers: WorkerCount,
    },
    /// Replace all workers one after the other, losing no request
    Reload,
    /// Replace the worker of one slot, losing no request
    Restart {
        /// Slot number as `status` shows it
        slot: u32,
    },
    /// Send a signal to every worker
    Signal {
        /// Name or number, with or without SIG
        #[arg(value_parser = parse_signal)]
        signal: Signal,
    },
    /// Print the last stderr lines of each slot
    Logs,
}

/// `--admin`: an address, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminArg {
    /// No admin port and no control socket.
    Off,
    /// Where to listen.
    At(SocketAddr),
}

impl std::str::FromStr for AdminArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            format!("{text:?} is neither an address such as 127.0.0.1:9377 nor \"none\"")
        })
    }
}

/// The file of `--config`; unknown names are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FileSettings {
    host: Option<IpAddr>,
    port: Option<u16>,
    workers: Option<WorkerSpec>,
    dispatch: Option<DispatchArg>,
    admin: Option<String>,
    mechanism: Option<MechanismArg>,
    readiness_path: Option<String>,
    boot_timeout: Option<String>,
    drain_timeout: Option<String>,
    drain_quiet: Option<String>,
    stop_grace: Option<String>,
    stop_signal: Option<String>,
    instance_env: Option<String>,
    desired_file: Option<PathBuf>,
    dispatch_threads: Option<u16>,
}

/// Everything that `run` needs to know, complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to serve on; `None`: all.
    pub host: Option<IpAddr>,
    /// The shared port.
    pub port: u16,
    /// How many workers are wanted.
    pub workers: WorkerSpec,
    /// Requests or connections.
    pub dispatch: DispatchArg,
    /// The read-only HTTP port.
    pub admin: AdminArg,
    /// How workers get the port.
    pub mechanism: MechanismArg,
    /// Probe path of each worker.
    pub readiness_path: Option<String>,
    /// Deadline for a worker's readiness.
    pub boot_timeout: Duration,
    /// Deadline for what is in flight at a stop.
    pub drain_timeout: Duration,
    /// Silence after which a stopping listener closes.
    pub drain_quiet: Duration,
    /// From the stop signal to SIGKILL.
    pub stop_grace: Duration,
    /// Asks a worker to end.
    pub stop_signal: Signal,
    /// Name of the slot variable.
    pub instance_env: String,
    /// The watched desired state.
    pub desired_file: Option<PathBuf>,
    /// Dispatcher threads; `None`: by cores.
    pub dispatch_threads: Option<u16>,
    /// Program and arguments of one worker.
    pub command: Vec<String>,
}

impl Settings {
    /// Merges flags (and environment, which clap has put there) with the file.
    ///
    /// # Errors
    /// An unreadable file, a value of the wrong shape, or values that exclude
    /// each other; the message names the setting and the cure.
    pub fn resolve(args: RunArgs) -> anyhow::Result<Self> {
        let file = match &args.config {
            Some(path) => read_file(path)?,
            None => FileSettings::default(),
        };
        let time = |flag: Option<Duration>, text: Option<String>, default| match (flag, text) {
            (Some(flag), _) => Ok(flag),
            (None, Some(text)) => duration::parse(&text).map_err(anyhow::Error::from),
            (None, None) => Ok(default),
        };
        let admin = match (args.admin, file.admin) {
            (Some(flag), _) => flag,
            (None, Some(text)) => text.parse().map_err(anyhow::Error::msg)?,
            (None, None) => AdminArg::At(SocketAddr::from(([127, 0, 0, 1], 9377))),
        };
        let stop_signal = args.stop_signal.or(file.stop_signal);
        let settings = Self {
            host: args.host.or(file.host),
            port: args.port.or(file.port).unwrap_or(3000),
            workers: args.workers.or(file.workers).unwrap_or(WorkerSpec::Auto),
            dispatch: args
                .dispatch
                .or(file.dispatch)
                .unwrap_or(DispatchArg::Request),
            admin,
            mechanism: args
                .mechanism
                .or(file.mechanism)
                .unwrap_or(MechanismArg::Auto),
            readiness_path: args.readiness_path.or(file.readiness_path),
            boot_timeout: time(args.boot_timeout, file.boot_timeout, Duration::from_mins(1))?,
            drain_timeout: time(
                args.drain_timeout,
                file.drain_timeout,
                Duration::from_secs(30),
            )?,
            drain_quiet: time(args.drain_quiet, file.drain_quiet, Duration::from_secs(2))?,
            stop_grace: time(args.stop_grace, file.stop_grace, Duration::from_secs(10))?,
            stop_signal: stop_signal
                .as_deref()
                .map_or(Ok(Signal::TERM), parse_signal)?,
            instance_env: args
                .instance_env
                .or(file.instance_env)
                .unwrap_or_else(|| "NODE_APP_INSTANCE".to_owned()),
            desired_file: args.desired_file.or(file.desired_file),
            dispatch_threads: args.dispatch_threads.or(file.dispatch_threads),
            command: args.command,
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.port == 0 {
            bail!("port 0 is no port: name the one the app listens on, such as 3000");
        }
        if self.dispatch_threads == Some(0) {
            bail!("dispatchThreads 0 would dispatch nothing: give 1 or more, or leave it out");
        }
        let connection = self.dispatch == DispatchArg::Connection;
        if let Some(path) = &self.readiness_path {
            if connection {
                bail!(
                    "--readiness-path needs --dispatch request: with connection dispatch all \
                     workers share one queue, so no single worker can be asked"
                );
            }
            if !path.starts_with('/') || path.bytes().any(|b| b <= b' ' || b >= 0x7f) {
                bail!("--readiness-path {path:?} must start with / and hold no spaces");
            }
        }
        if connection && self.mechanism == MechanismArg::Port {
            bail!(
                "--mechanism port needs --dispatch request: connections can only be shared \
                 through a socket that the supervisor hands over"
            );
        }
        if self.instance_env.is_empty() || self.instance_env.contains(['=', '\0']) {
            bail!("--instance-env {:?} is no variable name", self.instance_env);
        }
        Ok(())
    }
}

fn read_file(path: &std::path::Path) -> anyhow::Result<FileSettings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the --config file {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("the --config file {} is not what run takes", path.display()))
}

/// Reads a signal by name (`TERM`, `SIGTERM`) or number.
///
/// # Errors
/// A name that is no signal of this system. Real-time signals (32 on) belong to
/// C libraries and are not sent.
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
                "{text:?} is no signal: use a number from 1 to 31 or one of {}",
                known.join(", ")
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(words: &[&str]) -> anyhow::Result<Settings> {
        let words = ["scaledapp-sidecar", "run"].iter().chain(words);
        match Cli::try_parse_from(words)?.command {
            Command::Run(args) => Settings::resolve(*args),
            other => bail!("parsed as {other:?}"),
        }
    }

    #[test]
    fn the_shortest_command_line_has_every_default() {
        let settings = resolve(&["--", "node", "server.js"]).unwrap();
        assert_eq!(settings.port, 3000);
        assert_eq!(settings.workers, WorkerSpec::Auto);
        assert_eq!(settings.dispatch, DispatchArg::Request);
        assert_eq!(settings.stop_signal, Signal::TERM);
        assert_eq!(settings.command, ["node", "server.js"]);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            &file,
            r#"{"port": 4000, "workers": 3, "drainTimeout": "5s"}"#,
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let settings = resolve(&["--config", path, "--port", "5000", "--", "app"]).unwrap();
        assert_eq!(settings.port, 5000);
        assert_eq!(settings.workers, WorkerSpec::Fixed(3));
        assert_eq!(settings.drain_timeout, Duration::from_secs(5));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_cure() {
        for (words, cure) in [
            (&["--port", "0", "--", "app"][..], "1..=65535"),
            (&["--workers", "many", "--", "app"], "auto"),
            (&["--workers", "2000", "--", "app"], "at most 1024"),
            (
                &[
                    "--dispatch",
                    "connection",
                    "--readiness-path",
                    "/h",
                    "--",
                    "app",
                ],
                "needs --dispatch request",
            ),
            (
                &[
                    "--dispatch",
                    "connection",
                    "--mechanism",
                    "port",
                    "--",
                    "app",
                ],
                "needs --dispatch request",
            ),
            (
                &["--readiness-path", "healthz", "--", "app"],
                "must start with /",
            ),
            (&["--stop-signal", "NOPE", "--", "app"], "is no signal"),
            (&["--stop-signal", "34", "--", "app"], "from 1 to 31"),
            (&["--drain-timeout", "30", "--", "app"], "such as 500ms"),
            (&["--admin", "9377", "--", "app"], "127.0.0.1:9377"),
            (&["--config", "/nonexistent", "--", "app"], "cannot read"),
            (&[], "COMMAND"),
        ] {
            let message = format!("{:#}", resolve(words).unwrap_err());
            assert!(message.contains(cure), "{words:?} said: {message}");
        }
    }

    #[test]
    fn an_unknown_name_in_the_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, r#"{"prot": 4000}"#).unwrap();
        let path = file.path().to_str().unwrap();
        let message = format!(
            "{:#}",
            resolve(&["--config", path, "--", "app"]).unwrap_err()
        );
        assert!(message.contains("`prot`"), "{message}");
    }
}
