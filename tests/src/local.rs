//! A running `scaledapp local`, used only through its state file and `scaledapp` commands.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;

use crate::process::{Ended, Process};
use crate::{binaries, dns, proc, process, sidecar, wait};

/// How long all workers, balancers and DNS may take to boot, on two busy cores.
const BOOT: Duration = Duration::from_mins(1);

/// The content of the state file. Its keys are a contract.
#[derive(Debug, Clone, Deserialize)]
pub struct State {
    /// The DNS server.
    pub dns: SocketAddr,
    /// The app's host name.
    pub hostname: String,
    /// The balancers' addresses.
    pub balancers: Vec<SocketAddr>,
    /// The simulated pods.
    pub pods: Vec<Pod>,
}

/// One simulated pod.
#[derive(Debug, Clone, Deserialize)]
pub struct Pod {
    /// `NAME-INDEX`.
    pub name: String,
    /// The address on which the app is served.
    pub address: SocketAddr,
    /// The admin address of the pod's supervisor.
    pub admin: SocketAddr,
}

/// The running `scaledapp local`.
#[derive(Debug)]
pub struct Local {
    /// The `scaledapp` process, which started all others.
    pub process: Process,
    /// The state file, written once everything was ready.
    pub state: State,
    /// The directory of the run's files.
    pub workdir: PathBuf,
    /// The time from the start until the state file existed.
    pub took: Duration,
    state_file: PathBuf,
}

impl Local {
    /// Starts `scaledapp local FILE` and waits until everything is ready. The state file and the
    /// work directory are put into `directory`.
    ///
    /// # Errors
    /// The program cannot be started, ends, or is not ready in time.
    pub fn start(file: &Path, directory: &Path) -> anyhow::Result<Self> {
        Self::start_with(file, directory, &[])
    }

    /// As [`Local::start`], with these additional environment variables.
    ///
    /// # Errors
    /// As [`Local::start`].
    pub fn start_with(
        file: &Path,
        directory: &Path,
        environment: &[(&str, OsString)],
    ) -> anyhow::Result<Self> {
        let (state_file, workdir) = (directory.join("state.json"), directory.join("work"));
        let mut command = Command::new(binaries::path("scaledapp")?);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.arg("local").arg(file);
        command
            .arg("--state-file")
            .arg(&state_file)
            .arg("--workdir")
            .arg(&workdir);
        let start = Instant::now();
        let mut process = Process::spawn(command)?;
        let mut ended = false;
        wait::until(BOOT, "the state file exists", || {
            ended = !process.is_running();
            if ended || state_file.exists() {
                Ok(())
            } else {
                Err(process.stderr())
            }
        })?;
        anyhow::ensure!(
            !ended,
            "scaledapp local ended; its output:\n{}",
            process.stderr()
        );
        let took = start.elapsed();
        let text = std::fs::read_to_string(&state_file)?;
        let state = serde_json::from_str(&text).with_context(|| format!("state file {text}"))?;
        Ok(Self {
            process,
            state,
            workdir,
            took,
            state_file,
        })
    }

    /// The balancers as a client finds them: the addresses from DNS, with the port from the state
    /// file.
    ///
    /// # Errors
    /// The name does not resolve.
    pub fn resolve(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let port = self
            .state
            .balancers
            .first()
            .context("no balancer in the state file")?
            .port();
        let addresses = dns::addresses(self.state.dns, &self.state.hostname)?;
        Ok(addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }

    /// The balancer process that serves this address now, not its supervisor.
    pub fn balancer(&self, address: SocketAddr) -> Option<u32> {
        let mark = format!("--listen {address}");
        proc::descendants(self.process.pid())
            .into_iter()
            .find(|pid| {
                let words = proc::command_line(*pid);
                words.contains("scaledapp-balancer run")
                    && words.contains(&mark)
                    && !words.contains("scaledapp-sidecar")
            })
    }

    /// Workers of all pods.
    ///
    /// # Errors
    /// A pod does not answer.
    pub fn workers(&self) -> anyhow::Result<Vec<sidecar::Worker>> {
        let mut workers = Vec::new();
        for pod in &self.state.pods {
            workers.extend(sidecar::workers(pod.admin)?);
        }
        Ok(workers)
    }

    /// Waits until every pod has exactly `workers` workers, all of them ready.
    ///
    /// # Errors
    /// A pod does not have them in time.
    pub fn wait_ready(&self, workers: u64) -> anyhow::Result<()> {
        wait::until(
            sidecar::BOOT,
            &format!("{workers} workers in each pod"),
            || {
                for pod in &self.state.pods {
                    let status =
                        sidecar::status(pod.admin).map_err(|error| format!("{error:#}"))?;
                    let listed = status["workers"].as_array().map_or(0, Vec::len) as u64;
                    if status["ready"] != workers
                        || status["desired"] != workers
                        || listed != workers
                    {
                        return Err(format!("{}: {status}", pod.name));
                    }
                }
                Ok(())
            },
        )
    }

    /// Runs `ctl` against every pod, one after the other.
    ///
    /// # Errors
    /// A `ctl` command ended with another code than 0.
    pub fn ctl_all(&self, words: &[&str]) -> anyhow::Result<()> {
        for pod in &self.state.pods {
            let ended = sidecar::ctl(pod.admin, words)?;
            anyhow::ensure!(
                ended.code == 0,
                "{}: ctl {words:?}: {}",
                pod.name,
                ended.stderr
            );
        }
        Ok(())
    }

    /// Runs another `scaledapp` command for this run.
    ///
    /// # Errors
    /// The command cannot be started or does not end.
    pub fn command(&self, words: &[&str]) -> anyhow::Result<Ended> {
        let mut command = Command::new(binaries::path("scaledapp")?);
        command
            .args(words)
            .arg("--state-file")
            .arg(&self.state_file);
        process::run(command, Duration::from_mins(1))
    }
}
