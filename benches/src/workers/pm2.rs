//! PM2 with a daemon and a home directory of its own; the daemon ends when the value is
//! dropped. PM2 only runs as a peer, from the directory in which `cargo xtask bench` has
//! installed it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use scaledapp_tests::process::{self, Ended};
use scaledapp_tests::{binaries, proc, wait};

/// Time-out of a command. Commands take seconds, but a reload may wait for one
/// `listen_timeout` after the other.
const COMMAND: Duration = Duration::from_mins(1);
const NAME: &str = "app";

/// One app under a daemon.
#[derive(Debug)]
pub(crate) struct Pm2 {
    home: PathBuf,
    daemon: u32,
}

fn program() -> PathBuf {
    binaries::workspace().join("target/bench/pm2/node_modules/pm2/bin/pm2")
}

/// Whether PM2 is installed.
pub(crate) fn is_there() -> bool {
    program().is_file()
}

impl Pm2 {
    /// Starts the daemon, and the app in cluster mode.
    ///
    /// # Errors
    /// The daemon does not start, or `pm2 start` fails.
    pub(crate) fn start(home: &Path, app: &Path, workers: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(home)?;
        let mut pm2 = Self {
            home: home.to_owned(),
            daemon: 0,
        };
        let workers = workers.to_string();
        let app = app.to_string_lossy();
        let ended = pm2.run(&["start", &app, "-i", &workers, "--name", NAME])?;
        let pid = fs::read_to_string(home.join("pm2.pid")).unwrap_or_default();
        pm2.daemon = pid.trim().parse().unwrap_or(0);
        ensure!(
            ended.code == 0 && pm2.daemon != 0,
            "pm2 start ended with {}: {}{}",
            ended.code,
            ended.stdout,
            ended.stderr
        );
        Ok(pm2)
    }

    /// The process id of the daemon, which is the parent of the workers.
    pub(crate) fn daemon(&self) -> u32 {
        self.daemon
    }

    /// Runs `pm2 reload app` to its end.
    ///
    /// # Errors
    /// The command cannot be started or does not end.
    pub(crate) fn reload(&self) -> anyhow::Result<Ended> {
        self.run(&["reload", NAME])
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<Ended> {
        let mut command = Command::new("node");
        command.arg(program()).args(words);
        command.env("PM2_HOME", &self.home);
        // Keeps PM2 from asking its registry for a newer version.
        command.env("PM2_DISABLE_VERSION_CHECK", "true");
        command.current_dir(&self.home);
        process::run(command, COMMAND).with_context(|| format!("pm2 {}", words.join(" ")))
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        let below = proc::descendants(self.daemon.max(1));
        let asked = self.run(&["kill"]);
        if self.daemon == 0 {
            return;
        }
        let gone = wait::until_true(Duration::from_secs(5), "the PM2 daemon is gone", || {
            !proc::is_running(self.daemon)
        });
        if asked.is_err() || gone.is_err() {
            let rest = below.into_iter().chain([self.daemon]);
            for pid in rest.filter(|pid| proc::command_line(*pid).contains("PM2")) {
                let _gone = process::send(pid, Signal::KILL);
            }
        }
    }
}
