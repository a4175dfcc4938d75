//! A balancer under test, used only through its command line and admin port.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::process::Process;
use crate::{binaries, http, ports, wait};

/// How to start a balancer.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The address to serve on.
    pub listen: SocketAddr,
    /// The admin address.
    pub admin: SocketAddr,
    /// Further flags of `run`.
    pub options: Vec<String>,
    /// Words before the command, such as [`crate::memory_limit::Limited::wrapper`].
    pub wrapper: Vec<String>,
}

/// A running balancer.
#[derive(Debug)]
pub struct Balancer {
    /// The balancer's process.
    pub process: Process,
    /// How it was started.
    pub launch: Launch,
}

impl Launch {
    /// A balancer on free ports.
    ///
    /// # Errors
    /// No port is free.
    pub fn new(options: &[&str]) -> anyhow::Result<Self> {
        let options = options.iter().map(|&word| word.to_owned()).collect();
        Ok(Self {
            listen: ports::local()?,
            admin: ports::local()?,
            options,
            wrapper: Vec::new(),
        })
    }

    /// A balancer in front of these upstreams.
    ///
    /// # Errors
    /// No port is free.
    pub fn to(upstreams: &[SocketAddr]) -> anyhow::Result<Self> {
        let mut launch = Self::new(&[])?;
        for upstream in upstreams {
            launch
                .options
                .extend(["--upstream".to_owned(), upstream.to_string()]);
        }
        Ok(launch)
    }

    /// Adds flags.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|&word| word.to_owned()));
        self
    }

    /// The words of the command.
    ///
    /// # Errors
    /// The binary has not been built.
    pub fn words(&self) -> anyhow::Result<Vec<String>> {
        let program = binaries::path("scaledapp-balancer")?
            .to_string_lossy()
            .into_owned();
        let listen = self.listen.to_string();
        let mut words = vec![program, "run".to_owned(), "--listen".to_owned(), listen];
        words.extend(["--admin".to_owned(), self.admin.to_string()]);
        words.extend(self.options.iter().cloned());
        Ok(words)
    }

    /// Starts the balancer without waiting until it is ready.
    ///
    /// # Errors
    /// The balancer cannot be started.
    pub fn start(self) -> anyhow::Result<Balancer> {
        let mut words = self.wrapper.clone();
        words.extend(self.words()?);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        Ok(Balancer {
            process: Process::spawn(command)?,
            launch: self,
        })
    }

    /// Starts the balancer and waits until it is ready.
    ///
    /// # Errors
    /// The balancer cannot be started or is not ready in time.
    pub fn ready(self) -> anyhow::Result<Balancer> {
        let balancer = self.start()?;
        let admin = balancer.launch.admin;
        wait::until(
            Duration::from_secs(10),
            "the balancer is ready",
            || match http::get(admin, "/readyz") {
                Ok(response) if response.status == 200 => Ok(()),
                Ok(response) => Err(response.text()),
                Err(failure) => Err(format!("{failure}; {}", balancer.process.stderr())),
            },
        )?;
        Ok(balancer)
    }
}

impl Balancer {
    /// The address on which the balancer serves.
    pub fn address(&self) -> SocketAddr {
        self.launch.listen
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let response = http::get(self.launch.admin, "/metrics").context("metrics")?;
        Ok(response.text())
    }
}
