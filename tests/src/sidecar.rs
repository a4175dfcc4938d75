//! A supervisor under test, used only through its command line, admin port and `ctl`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::process::{Ended, Process};
use crate::{binaries, http, ports, process, wait};

/// Time-out for the boot of workers, which takes much less even on two busy cores.
pub const BOOT: Duration = Duration::from_secs(20);

/// How to start a supervisor.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Command words before those of the supervisor (`setpriv …`).
    pub wrapper: Vec<String>,
    /// Address to serve on; `None`: all.
    pub host: Option<Ipv4Addr>,
    /// The app's port.
    pub port: u16,
    /// The supervisor's admin address.
    pub admin: SocketAddr,
    /// Further flags of `run`.
    pub options: Vec<String>,
    /// What one worker runs.
    pub command: Vec<String>,
    /// Environment on top of the test's own.
    pub environment: Vec<(String, String)>,
}

impl Launch {
    /// A supervisor on free ports; `command` gets the app's port.
    ///
    /// # Errors
    /// No port is free.
    pub fn of(command: impl FnOnce(u16) -> Vec<String>) -> anyhow::Result<Self> {
        let port = ports::free(IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
        Ok(Self {
            wrapper: Vec::new(),
            host: None,
            port,
            admin: ports::local()?,
            options: Vec::new(),
            command: command(port),
            environment: Vec::new(),
        })
    }

    /// Adds flags.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|&word| word.to_owned()));
        self
    }

    /// The whole command.
    ///
    /// # Errors
    /// The binary has not been built.
    pub fn command(&self) -> anyhow::Result<Command> {
        let mut words = self.wrapper.clone();
        words.push(
            binaries::path("scaledapp-sidecar")?
                .to_string_lossy()
                .into_owned(),
        );
        words.push("run".to_owned());
        if let Some(host) = self.host {
            words.extend(["--host".to_owned(), host.to_string()]);
        }
        // For an app that never listens, the options contain `--port none`.
        if !self.options.iter().any(|word| word == "--port") {
            words.extend(["--port".to_owned(), self.port.to_string()]);
        }
        words.extend(["--admin".to_owned(), self.admin.to_string()]);
        words.extend(self.options.iter().cloned());
        words.push("--".to_owned());
        words.extend(self.command.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Starts the supervisor without waiting until it is ready.
    ///
    /// # Errors
    /// The supervisor cannot be started.
    pub fn start(self) -> anyhow::Result<Sidecar> {
        let process = Process::spawn(self.command()?)?;
        Ok(Sidecar {
            process,
            launch: self,
        })
    }

    /// Starts the supervisor and waits until `workers` workers are ready.
    ///
    /// # Errors
    /// The supervisor cannot be started, or the workers are not ready in time.
    pub fn ready(self, workers: u64) -> anyhow::Result<Sidecar> {
        let mut sidecar = self.start()?;
        sidecar.wait_ready(workers)?;
        Ok(sidecar)
    }

    /// Runs the supervisor to its end.
    ///
    /// # Errors
    /// The supervisor cannot be started or does not end within `deadline`.
    pub fn run(self, deadline: Duration) -> anyhow::Result<Ended> {
        process::run(self.command()?, deadline)
    }
}

/// One worker as status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// The slot's number, which a replacement keeps.
    pub slot: u64,
    /// Process id.
    pub pid: u32,
    /// `Ready`, `Draining` and so on.
    pub state: String,
    /// The generation, counted up by each reload.
    pub generation: u64,
    /// How often workers of this slot ended unexpectedly.
    pub restarts: u64,
}

/// A running supervisor.
#[derive(Debug)]
pub struct Sidecar {
    /// The process of the supervisor, or of the wrapper if the wrapper does not exec the
    /// supervisor.
    pub process: Process,
    /// How it was started.
    pub launch: Launch,
}

impl Sidecar {
    /// The address on which the app is served.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((
            self.launch.host.unwrap_or(Ipv4Addr::LOCALHOST),
            self.launch.port,
        ))
    }

    /// The content of `/status`.
    ///
    /// # Errors
    /// The admin port does not answer with 200.
    pub fn status(&self) -> anyhow::Result<Value> {
        status(self.launch.admin)
    }

    /// The workers by slot, including those that are being stopped.
    ///
    /// # Errors
    /// As [`Sidecar::status`].
    pub fn workers(&self) -> anyhow::Result<Vec<Worker>> {
        workers(self.launch.admin)
    }

    /// Process ids of the workers.
    ///
    /// # Errors
    /// As [`Sidecar::status`].
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        Ok(self
            .workers()?
            .into_iter()
            .map(|worker| worker.pid)
            .collect())
    }

    /// Waits until exactly `workers` workers are ready and no other worker exists.
    ///
    /// # Errors
    /// The workers are not ready in time, or the supervisor ended.
    pub fn wait_ready(&mut self, workers: u64) -> anyhow::Result<()> {
        let admin = self.launch.admin;
        let mut ended = None;
        wait::until(BOOT, &format!("{workers} workers ready"), || {
            if !self.process.is_running() {
                ended = Some(format!("it ended; it said:\n{}", self.process.stderr()));
                return Ok(());
            }
            let status = status(admin).map_err(|error| format!("{error:#}"))?;
            let listed = status["workers"].as_array().map_or(0, Vec::len) as u64;
            if status["ready"] == workers && status["desired"] == workers && listed == workers {
                Ok(())
            } else {
                Err(format!("{status}\n{}", self.process.stderr()))
            }
        })?;
        match ended {
            Some(reason) => anyhow::bail!(reason),
            None => Ok(()),
        }
    }

    /// Runs `ctl` with these words.
    ///
    /// # Errors
    /// `ctl` cannot be started or does not end.
    pub fn ctl(&self, words: &[&str]) -> anyhow::Result<Ended> {
        ctl(self.launch.admin, words)
    }

    /// As [`Sidecar::ctl`], but requires exit code 0 and returns the standard output.
    ///
    /// # Errors
    /// `ctl` exited with another code.
    pub fn ctl_done(&self, words: &[&str]) -> anyhow::Result<String> {
        let ended = self.ctl(words)?;
        ensure!(
            ended.code == 0,
            "ctl {words:?} exited with {}: {}",
            ended.code,
            ended.stderr
        );
        Ok(ended.stdout)
    }
}

/// Runs `scaledapp-sidecar ctl` for the supervisor at an admin address.
///
/// # Errors
/// `ctl` cannot be started or does not end.
pub fn ctl(admin: SocketAddr, words: &[&str]) -> anyhow::Result<Ended> {
    let mut command = Command::new(binaries::path("scaledapp-sidecar")?);
    command
        .args(["ctl", "--admin", &admin.to_string()])
        .args(words);
    process::run(command, Duration::from_mins(1))
}

/// The content of a supervisor's `/status`.
///
/// # Errors
/// The supervisor does not answer with 200.
pub fn status(admin: SocketAddr) -> anyhow::Result<Value> {
    let response = http::get(admin, "/status").with_context(|| format!("status of {admin}"))?;
    ensure!(
        response.status == 200,
        "status of {admin}: {}",
        response.status
    );
    Ok(response.json())
}

/// The workers that a supervisor's status shows, by slot.
///
/// # Errors
/// As [`status`], or a required key is missing.
pub fn workers(admin: SocketAddr) -> anyhow::Result<Vec<Worker>> {
    let status = status(admin)?;
    let listed = status["workers"].as_array().context("workers is a list")?;
    let mut workers = Vec::new();
    for worker in listed {
        let number = |key: &str| {
            worker[key]
                .as_u64()
                .with_context(|| format!("{key} in {worker}"))
        };
        workers.push(Worker {
            slot: number("slot")?,
            pid: number("pid")? as u32,
            state: worker["state"].as_str().context("state")?.to_owned(),
            generation: number("generation")?,
            restarts: number("restarts")?,
        });
    }
    workers.sort_by_key(|worker| (worker.slot, worker.generation));
    Ok(workers)
}
