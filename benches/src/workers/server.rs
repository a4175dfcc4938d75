//! The supervisor and its peers behind one interface, which starts an app with a number of
//! workers, lists their processes and reloads them. A server ends when it is dropped.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use scaledapp_benches::cpu;
use scaledapp_tests::process::{Ended, Process};
use scaledapp_tests::sidecar::{self, Sidecar};
use scaledapp_tests::{binaries, http, ports, proc, wait};

use crate::app::{self, App, Does, Language, Listens};
use crate::pm2::{self, Pm2};

/// Time-out for the start of sixteen workers on two busy cores.
const BOOT: Duration = Duration::from_mins(1);
/// Time-out for replacing all workers, each of which starts and finishes three-second requests.
const RELOAD: Duration = Duration::from_mins(1);

/// The supervisor of the workers, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `scaledapp-sidecar` with Request dispatch.
    Request,
    /// `scaledapp-sidecar` with Connection dispatch.
    Connection,
    /// No supervisor: one process on its own port.
    Bare,
    /// No supervisor: processes that accept from one inherited socket.
    Shared,
    /// Node's `cluster`; the primary distributes connections in turn.
    ClusterRr,
    /// Node's `cluster`; the workers share the socket.
    ClusterNone,
    Pm2,
    Gunicorn,
    Puma,
}

impl Kind {
    /// The name in a row of the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Request => "Request",
            Self::Connection => "Connection",
            Self::Bare => "one bare node",
            Self::Shared => "bare shared listener",
            Self::ClusterRr => "cluster RR",
            Self::ClusterNone => "cluster NONE",
            Self::Pm2 => "PM2",
            Self::Gunicorn => "gunicorn",
            Self::Puma => "puma",
        }
    }

    /// Why this kind cannot be measured on this machine, and the cure; `None` if it can be
    /// measured.
    pub(crate) fn missing(self) -> Option<&'static str> {
        let there = |program| binaries::on_path(program).is_ok();
        match self {
            Self::Pm2 if !pm2::is_there() => {
                Some("PM2 is not in target/bench/pm2: cargo xtask bench workers installs it")
            }
            Self::Gunicorn if !there("gunicorn") || !app::has_python() => {
                Some("gunicorn is not installed: apt-get install -y gunicorn")
            }
            Self::Puma if !there("puma") => Some("puma is not installed: apt-get install -y puma"),
            _ => None,
        }
    }
}

/// Whether a kind is `scaledapp-sidecar`, not a peer.
pub(crate) fn is_ours(kind: Kind) -> bool {
    matches!(kind, Kind::Request | Kind::Connection)
}

#[derive(Debug)]
enum Running {
    Ours(Sidecar),
    Plain(Process),
    Pm2(Pm2),
}

/// A supervised app that serves.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) app: App,
    /// The number of workers.
    pub(crate) count: usize,
    running: Running,
}

impl Server {
    /// Starts a server in `directory` and waits until all workers have booted.
    ///
    /// # Errors
    /// Something is not installed, does not start or does not serve.
    pub(crate) fn start(
        directory: &Path,
        kind: Kind,
        language: Language,
        does: Does,
        count: usize,
    ) -> anyhow::Result<Self> {
        let count = if kind == Kind::Bare { 1 } else { count };
        let listens = if kind == Kind::Shared {
            Listens::Stdin
        } else {
            Listens::Port
        };
        let address = ports::local()?;
        let app = App::write(directory, language, does, listens, address.port())?;
        let running = match kind {
            Kind::Request => ours(&app, "request", address, count)?,
            Kind::Connection => ours(&app, "connection", address, count)?,
            Kind::Bare => Running::Plain(Process::spawn(words(&app.command()))?),
            Kind::Shared => shared(&app, address, count)?,
            Kind::ClusterRr => cluster(&app, "SCHED_RR", count)?,
            Kind::ClusterNone => cluster(&app, "SCHED_NONE", count)?,
            Kind::Pm2 => Running::Pm2(Pm2::start(&directory.join("pm2"), &app.file, count)?),
            Kind::Gunicorn => gunicorn(&app, address, count)?,
            Kind::Puma => puma(&app, address, count)?,
        };
        let mut server = Self {
            kind,
            address,
            app,
            count,
            running,
        };
        server
            .wait_booted()
            .with_context(|| format!("{} with {} workers", kind.name(), count))?;
        Ok(server)
    }

    /// Waits until the server answers, has all its workers, and these have started. If the
    /// workers share a listener, it is not visible which of them accepts. Therefore they
    /// count as started when none of them uses CPU.
    fn wait_booted(&mut self) -> anyhow::Result<()> {
        let address = self.address;
        wait::until(BOOT, &format!("{address} serves"), || {
            if let Running::Plain(process) = &mut self.running
                && !process.is_running()
            {
                return Ok(Err(anyhow::anyhow!("it ended: {}", process.stderr())));
            }
            http::get(address, "/").map(Ok)
        })??;
        let mut before = (Instant::now(), Duration::MAX);
        wait::until(BOOT, "all workers have booted", || {
            let workers = self.workers();
            if workers.len() < self.count {
                return Err(format!("{} of {}", workers.len(), self.count));
            }
            if before.0.elapsed() < Duration::from_millis(200) {
                return Err("they may be booting".to_owned());
            }
            let now = cpu::run_time_of(&workers).map_err(|error| error.to_string())?;
            let used = now.saturating_sub(before.1);
            let quiet = before.1 != Duration::MAX && used < Duration::from_millis(6);
            before = (Instant::now(), now);
            if quiet {
                Ok(())
            } else {
                Err("they use CPU".to_owned())
            }
        })
    }

    /// The process that was started (for PM2 the daemon), from which all others descend.
    pub(crate) fn root(&self) -> u32 {
        match &self.running {
            Running::Ours(sidecar) => sidecar.process.pid(),
            Running::Plain(process) => process.pid(),
            Running::Pm2(pm2) => pm2.daemon(),
        }
    }

    /// All processes of the server.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = proc::descendants(self.root()).into_iter().collect();
        pids.push(self.root());
        pids.retain(|pid| proc::is_running(*pid));
        pids
    }

    /// Processes that run the app.
    pub(crate) fn workers(&self) -> Vec<u32> {
        if self.kind == Kind::Bare {
            return vec![self.root()];
        }
        let children = proc::children(self.root());
        let runs = |pid: &u32| proc::is_running(*pid) && self.is_worker(*pid);
        children.into_iter().filter(runs).collect()
    }

    /// Whether a child runs the app. Until it executes the app, a child of
    /// `scaledapp-sidecar` runs the supervisor's own binary, as the watchdog always does, and
    /// a peer's child has its parent's arguments. If workers are forks of the loaded app,
    /// every child is a worker.
    pub(crate) fn is_worker(&self, pid: u32) -> bool {
        let binary = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let words = proc::command_line;
        match self.kind {
            Kind::Gunicorn | Kind::Puma => true,
            kind if is_ours(kind) => {
                let child = binary(pid);
                child.is_some() && child != binary(self.root())
            }
            _ => !words(pid).is_empty() && words(pid) != words(self.root()),
        }
    }

    /// All processes that do not run the app: supervisor and watchdog, daemon, primary, master.
    pub(crate) fn supervisors(&self) -> Vec<u32> {
        let workers: BTreeSet<u32> = self.workers().into_iter().collect();
        let mut pids = self.pids();
        pids.retain(|pid| !workers.contains(pid));
        pids
    }

    /// Replaces all workers. Waits for the end of the command, or, if the reload is a signal, until
    /// no old worker runs.
    ///
    /// # Errors
    /// The command cannot be started or does not end, or old workers keep running.
    pub(crate) fn reload(&self) -> anyhow::Result<Ended> {
        match &self.running {
            Running::Ours(sidecar) => sidecar.ctl(&["reload"]),
            Running::Pm2(pm2) => pm2.reload(),
            Running::Plain(process) => {
                let signal = match self.kind {
                    Kind::Gunicorn => Signal::HUP,
                    Kind::Puma => Signal::USR1,
                    _ => bail!("{} has no reload", self.kind.name()),
                };
                let old = self.workers();
                process.signal(signal)?;
                wait::until_true(RELOAD, "all workers are new", || {
                    let now = self.workers();
                    now.len() >= self.count && old.iter().all(|pid| !now.contains(pid))
                })?;
                Ok(Ended {
                    code: 0,
                    stdout: String::new(),
                    stderr: String::new(),
                })
            }
        }
    }
}

fn words(words: &[String]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().map_or("", String::as_str));
    command.args(words);
    command
}

fn ours(app: &App, dispatch: &str, address: SocketAddr, count: usize) -> anyhow::Result<Running> {
    let launch = sidecar::Launch {
        wrapper: Vec::new(),
        host: Some(Ipv4Addr::LOCALHOST),
        port: address.port(),
        admin: ports::local()?,
        options: Vec::new(),
        command: app.command(),
        environment: Vec::new(),
    };
    let workers = count.to_string();
    let launch = launch.with(&["--dispatch", dispatch, "--workers", &workers]);
    Ok(Running::Ours(launch.ready(count as u64)?))
}

/// Starts several servers on one socket, as a shell would. They share one pipe for their
/// output, as workers of `scaledapp-sidecar` do.
fn shared(app: &App, address: SocketAddr, count: usize) -> anyhow::Result<Running> {
    let socket = OwnedFd::from(TcpListener::bind(address)?);
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "exec 3<&0; n=$1; shift; while [ $n -gt 0 ]; do \"$@\" <&3 3<&- & n=$((n-1)); done; wait",
    ]);
    command.args(["sh", &count.to_string()]).args(app.command());
    Ok(Running::Plain(Process::spawn_with(
        command,
        Stdio::from(socket),
    )?))
}

/// A primary as in Node's manual, which forks a new worker for each one that ends.
fn cluster(app: &App, policy: &str, count: usize) -> anyhow::Result<Running> {
    let primary = app.directory.join("primary.js");
    let text = format!(
        "const cluster = require('cluster');\n\
         cluster.schedulingPolicy = cluster.{policy};\n\
         cluster.setupPrimary({{ exec: '{}' }});\n\
         for (let n = 0; n < {count}; n++) cluster.fork();\n\
         cluster.on('exit', () => cluster.fork());\n",
        app.file.display()
    );
    fs::write(&primary, text)?;
    let mut command = Command::new("node");
    command.arg(primary);
    Ok(Running::Plain(Process::spawn(command)?))
}

fn gunicorn(app: &App, address: SocketAddr, count: usize) -> anyhow::Result<Running> {
    let mut command = Command::new("gunicorn");
    command.args([
        "--workers",
        &count.to_string(),
        "--bind",
        &address.to_string(),
    ]);
    command.arg("--chdir").arg(&app.directory).arg("app:app");
    Ok(Running::Plain(Process::spawn(command)?))
}

fn puma(app: &App, address: SocketAddr, count: usize) -> anyhow::Result<Running> {
    ensure!(app.file.is_file(), "{} is not written", app.file.display());
    let mut command = Command::new("puma");
    command.current_dir(&app.directory);
    command.args(["--workers", &count.to_string(), "--threads", "4:4"]);
    command.args(["--config", "-", "--bind", &format!("tcp://{address}")]);
    command.arg(&app.file);
    Ok(Running::Plain(Process::spawn(command)?))
}
