//! Merges flags, environment and file into one [`Settings`]: flags take precedence over
//! `SCALEDAPP_*` variables, those over the file, and the file over the defaults here.
//! Settings that cannot work together are refused, with the cure.

mod counting;
mod file;
mod portless;
mod scaling;
mod times;
mod trust;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use rustix::process::Signal;
use scaledapp_runtime::cli::AdminArg;
use scaledapp_units::Size;
use scaledapp_units::duration;
use scaledapp_wire::Dispatch;

use crate::cli::{
    DispatchArg, HangTimeout, LimitArgs, LogsArg, LogsFullArg, MechanismArg, MetricsFrom,
    MetricsMergeArg, PortArg, ProtocolArg, RunArgs, StickyArg, parse_signal,
};
use crate::directory;
use crate::limits::Limits;
use crate::range::{Rules, WorkerRange};
use crate::readiness::RequiredChecks;

use file::FileSettings;

pub use counting::Counting;
pub(crate) use times::Times;
pub(crate) use trust::Believed;

/// The default of `--hang-timeout`. It is longer than the pauses of ordinary event loops, but
/// shorter than the time for which balancers wait for an answer, so that another worker can still
/// answer a request that may be repeated.
const HANG_TIMEOUT: Duration = Duration::from_mins(1);

/// The settings of `run`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address to serve on; `None` means all.
    pub host: Option<IpAddr>,
    /// The app's port; `None` if it never listens.
    pub port: Option<u16>,
    /// Further ports that workers share.
    pub share: Vec<u16>,
    /// The desired number of workers, or the range of it.
    pub workers: WorkerRange,
    /// How the number within a range is chosen.
    pub(crate) scaling: Rules,
    /// The unit that is distributed: requests or connections.
    pub dispatch: DispatchArg,
    /// What workers speak on the app's port.
    pub(crate) protocol: ProtocolArg,
    /// How a client comes back to the same worker.
    pub(crate) sticky: Option<StickyArg>,
    /// The read-only HTTP port.
    pub admin: AdminArg,
    /// How workers get the port.
    pub mechanism: MechanismArg,
    /// The checks that a worker must pass before it counts as ready.
    pub(crate) wanted: RequiredChecks,
    /// Whether a worker is asked to end by a message instead of the signal.
    pub shutdown_message: bool,
    /// How long a worker may take to become ready.
    pub boot_timeout: Duration,
    /// How long requests in flight may take when a worker or the whole supervisor drains.
    pub drain_timeout: Duration,
    /// A stopping listener closes after this time without a new connection.
    pub drain_quiet: Duration,
    /// Time between the stop signal and SIGKILL.
    pub stop_grace: Duration,
    /// The signal that asks a worker to end.
    pub stop_signal: Signal,
    /// The name of the variable that contains the slot.
    pub instance_env: String,
    /// Another variable, which grows with the slot number.
    pub increment: Option<Counting>,
    /// The working directory of workers; `None` means the supervisor's own.
    pub cwd: Option<PathBuf>,
    /// The path of the desired-state file.
    pub desired_file: Option<PathBuf>,
    /// The number of dispatcher threads; `None` derives it from the cores.
    pub dispatch_threads: Option<u16>,
    /// How many requests one worker gets at the same time.
    pub max_in_flight: Option<NonZeroU32>,
    /// How many requests may wait for a worker.
    pub queue_length: u32,
    /// How long a request may wait for a worker.
    pub queue_timeout: Duration,
    /// The timeouts of a request, its answer and its client.
    pub(crate) times: Times,
    /// Which statements about a client are believed.
    pub(crate) believed: Believed,
    /// The limits at which a worker is replaced.
    pub(crate) limits: Limits,
    /// What happens to the workers' output.
    pub logs: LogsArg,
    /// What happens if the reader of the output is too slow.
    pub logs_full: LogsFullArg,
    /// Where each worker's metrics are, if they are collected.
    pub metrics_from: Option<MetricsFrom>,
    /// How the workers' metrics become one page.
    pub metrics_merge: MetricsMergeArg,
    /// The program and arguments of one worker.
    pub command: Vec<String>,
}

/// The address of the admin port: the given one, or the usual one.
fn admin(given: Option<AdminArg>) -> anyhow::Result<AdminArg> {
    let admin = given.unwrap_or(AdminArg(Some(SocketAddr::from(([127, 0, 0, 1], 9377)))));
    if let Some(address) = admin.0.filter(|address| address.port() == 0) {
        bail!(
            "--admin {address}: `ctl` finds the supervisor by this address: give a port, such \
             as 9377, or none"
        );
    }
    Ok(admin)
}

impl Settings {
    /// Merges the flags (into which clap has put the environment) with the file.
    ///
    /// # Errors
    /// An unreadable file, a value of the wrong shape, or values that cannot be combined;
    /// the message names the setting and the cure.
    pub fn resolve(args: RunArgs) -> anyhow::Result<Self> {
        let file = match &args.config {
            Some(path) => file::read(path)?,
            None => FileSettings::default(),
        };
        let port = port(&args, &file)?;
        let wanted = wanted(port, &args, &file)?;
        let increment = increment(port, &args, &file)?;
        let limits = limits(&args.limits, &file)?;
        let scaling = scaling::resolve(&args.scaling, &file)?;
        let times = Times::resolve(&args.times, &file)?;
        let dispatch = args.dispatch.or(file.dispatch).unwrap_or_default();
        let believed = Believed::resolve(&args.trust, &file, dispatch)?;
        times::check_dispatch(&args, &file, dispatch)?;
        let time = |flag: Option<Duration>, text: Option<String>, default| match (flag, text) {
            (Some(flag), _) => Ok(flag),
            (None, Some(text)) => duration::parse(&text).map_err(anyhow::Error::from),
            (None, None) => Ok(default),
        };
        let admin = admin(word(args.admin, file.admin.as_deref())?)?;
        let stop_signal = args.stop_signal.or(file.stop_signal);
        let settings = Self {
            host: args.host.or(file.host),
            port,
            share: args.share.or(file.share).unwrap_or_default(),
            workers: scaling::workers(args.workers.or(file.workers)),
            scaling,
            dispatch,
            protocol: wanted.protocol,
            sticky: word(args.sticky, file.sticky.as_deref())?,
            admin,
            mechanism: args
                .mechanism
                .or(file.mechanism)
                .unwrap_or(MechanismArg::Auto),
            wanted,
            shutdown_message: args.ready.shutdown_message
                || file.shutdown_message.unwrap_or_default(),
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
            cwd: cwd(args.cwd.or(file.cwd))?,
            instance_env: args
                .instance_env
                .or(file.instance_env)
                .unwrap_or_else(|| "NODE_APP_INSTANCE".to_owned()),
            increment,
            desired_file: args.desired_file.or(file.desired_file),
            dispatch_threads: args.dispatch_threads.or(file.dispatch_threads),
            max_in_flight: args.max_in_flight.or(file.max_in_flight),
            queue_length: args.queue_length.or(file.queue_length).unwrap_or(1024),
            // Long enough for a worker's boot; a balancer in front of the pod waits less.
            queue_timeout: time(
                args.queue_timeout,
                file.queue_timeout,
                Duration::from_secs(30),
            )?,
            times,
            believed,
            limits,
            logs: args.logs.or(file.logs).unwrap_or(LogsArg::Inherit),
            logs_full: args
                .logs_full
                .or(file.logs_full)
                .unwrap_or(LogsFullArg::Block),
            metrics_from: word(args.metrics_from, file.metrics_from.as_deref())?,
            metrics_merge: args
                .metrics_merge
                .or(file.metrics_merge)
                .unwrap_or(MetricsMergeArg::Label),
            command: args.command,
        };
        settings.check().map(|()| settings)
    }

    /// All ports that workers share, the app's own first.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let further = self.share.iter().copied();
        self.port.into_iter().chain(further).collect()
    }

    /// The dispatch as it is shown in status.
    pub(crate) fn dispatch_shown(&self) -> Dispatch {
        match self.dispatch {
            _ if self.port.is_none() => Dispatch::None,
            DispatchArg::Request => Dispatch::Request,
            DispatchArg::Connection => Dispatch::Connection,
        }
    }

    /// Whether workers get a message channel.
    pub(crate) fn opens_channel(&self) -> bool {
        self.wanted.message || self.shutdown_message
    }

    /// The ports for which workers are given sockets. A port from which only metrics are
    /// collected is private to each worker.
    pub(crate) fn given_ports(&self) -> Vec<u16> {
        let mut ports = self.ports();
        let metrics = self.metrics_from.as_ref().and_then(|from| from.port);
        ports.extend(metrics.filter(|port| !ports.contains(port)));
        ports
    }

    fn check(&self) -> anyhow::Result<()> {
        for (index, port) in self.share.iter().enumerate() {
            if *port == 0 || Some(*port) == self.port || self.share[..index].contains(port) {
                bail!(
                    "--share {port}: name each further port once, and leave the port of --port out"
                );
            }
        }
        if !self.share.is_empty() && self.mechanism == MechanismArg::Port {
            bail!(
                "--share needs sockets to be handed over: leave out --mechanism port, or have the \
                 app listen on one port"
            );
        }
        if self.dispatch_threads == Some(0) {
            bail!("dispatchThreads 0 would dispatch nothing: give 1 or more, or leave it out");
        }
        let connection = self.dispatch == DispatchArg::Connection;
        if connection && self.max_in_flight.is_some() {
            bail!(
                "--max-in-flight needs --dispatch request: with connection dispatch workers decide for \
                 themselves how much they accept"
            );
        }
        if connection && self.limits.requests.is_some() {
            bail!(
                "--max-requests needs --dispatch request: connections that workers accept for \
                 themselves are not counted; --max-age and --max-memory work with both"
            );
        }
        if self.limits.requests == Some(0) || self.limits.age == Some(Duration::ZERO) {
            bail!(
                "--max-requests and --max-age of 0 would replace workers endlessly: give a larger number, or leave it out"
            );
        }
        if let Some(path) = &self.wanted.path {
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
        if let Some(from) = &self.metrics_from {
            if connection && from.port.is_none_or(|port| Some(port) == self.port) {
                bail!(
                    "--metrics-from {} needs --dispatch request: with connection dispatch all \
                     workers share the port, so no single one can be asked there; let the app \
                     serve its metrics on another port and give PORT{}",
                    from.path,
                    from.path
                );
            }
            if self.admin.0.is_none() {
                bail!(
                    "--metrics-from needs the admin port, which serves them at /metrics/app: \
                     leave --admin none out"
                );
            }
        }
        scaling::check_range(self.workers, self.dispatch_shown())?;
        self.check_workers()
    }

    /// Checks the settings of one worker.
    fn check_workers(&self) -> anyhow::Result<()> {
        if self.instance_env.is_empty() || self.instance_env.contains(['=', '\0']) {
            bail!(
                "--instance-env {:?} is not the name of a variable: give a name such as NODE_APP_INSTANCE",
                self.instance_env
            );
        }
        if self.increment.as_ref().map(|counting| &counting.name) == Some(&self.instance_env) {
            bail!(
                "--increment-env {} is already the variable of the slot number: leave it out, or \
                 give the slot number another variable with --instance-env",
                self.instance_env
            );
        }
        if let Some(life) = self.wanted.life.filter(|life| *life >= self.boot_timeout) {
            bail!(
                "no worker would ever be ready: --ready-after {} must be less than --boot-timeout {}",
                duration::format(life),
                duration::format(self.boot_timeout)
            );
        }
        Ok(())
    }
}

/// The app's port; `None` if it never listens.
fn port(args: &RunArgs, file: &FileSettings) -> anyhow::Result<Option<u16>> {
    match args.port.or(file.port) {
        None => Ok(Some(3000)),
        Some(PortArg::At(port)) => Ok(Some(port)),
        Some(PortArg::Nothing) => {
            portless::check(args, file)?;
            Ok(None)
        }
    }
}

/// The variable that grows with the slot number, besides the variable of the number itself.
fn increment(
    port: Option<u16>,
    args: &RunArgs,
    file: &FileSettings,
) -> anyhow::Result<Option<Counting>> {
    let name = args.ready.increment_env.as_ref();
    let name = name.or(file.increment_env.as_ref()).cloned();
    let read = |name| Counting::read(name, port, |name| std::env::var(name).ok());
    name.map(read).transpose()
}

/// How long an app without a port must have run before it counts as ready, by default. The value is
/// that of PM2's `min_uptime`: a process that ends earlier has not started successfully.
const READY_AFTER: Duration = Duration::from_secs(1);

/// The checks that a worker must pass before it counts as ready.
fn wanted(
    port: Option<u16>,
    args: &RunArgs,
    file: &FileSettings,
) -> anyhow::Result<RequiredChecks> {
    let life = match (args.ready.ready_after, &file.ready_after) {
        (None, Some(text)) => Some(duration::parse(text)?),
        (flag, _) => flag,
    };
    if life.is_some() && port.is_some() {
        bail!(
            "--ready-after needs --port none: an app with a port is ready when it listens; if \
             that is too early, give --readiness-path or --wait-ready"
        );
    }
    let message = args.ready.wait_ready || file.wait_ready.unwrap_or_default();
    let by_life = port.is_none() && !message;
    Ok(RequiredChecks {
        port,
        path: args
            .readiness_path
            .clone()
            .or_else(|| file.readiness_path.clone()),
        protocol: protocol(args, file),
        life: life.or(by_life.then_some(READY_AFTER)),
        message,
    })
}

fn protocol(args: &RunArgs, file: &FileSettings) -> ProtocolArg {
    let given = args.protocol.or(file.protocol);
    given.unwrap_or_default()
}

/// The limits at which a worker is replaced.
fn limits(words: &LimitArgs, file: &FileSettings) -> anyhow::Result<Limits> {
    let hang_timeout = word(words.hang_timeout, file.hang_timeout.as_deref())?;
    let max_age = match (words.max_age, &file.max_age) {
        (None, Some(text)) => Some(duration::parse(text)?),
        (flag, _) => flag,
    };
    Ok(Limits {
        memory: word(words.max_memory, file.max_memory.as_deref())?.map(|Size(bytes)| bytes),
        requests: words.max_requests.or(file.max_requests),
        age: max_age,
        silence: hang_timeout.map_or(Some(HANG_TIMEOUT), |HangTimeout(time)| time),
        jitter_percent: words.recycle_jitter.or(file.recycle_jitter).unwrap_or(10),
    })
}

/// The value of the flag, otherwise the parsed text of the file.
fn word<T>(flag: Option<T>, file: Option<&str>) -> anyhow::Result<Option<T>>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    match (flag, file) {
        (None, Some(text)) => text.parse().map(Some).map_err(|error| anyhow!("{error}")),
        (flag, _) => Ok(flag),
    }
}

fn cwd(given: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    given
        .map(|given| directory::absolute(&given, std::env::var_os("PWD")))
        .transpose()
}

#[cfg(test)]
mod tests;
