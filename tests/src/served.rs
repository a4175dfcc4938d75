//! A server under test that logs its addresses, used only through its log and its admin port.
//!
//! This module is for tests in a server's own package, which run the binary that cargo has just
//! built. [`crate::balancer`] and [`crate::sidecar`] start release binaries.

use std::cell::Cell;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::http::{self, Response};
use crate::process::Process;
use crate::wait;

/// Time-out for an operation that takes a moment if the machine is not busy.
pub const SOON: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug)]
pub struct Served {
    /// The server's process.
    pub process: Process,
    /// The address on which the server serves.
    pub address: SocketAddr,
    /// The server's admin address.
    pub admin: SocketAddr,
    /// The position in the log, in bytes, after the line that was waited for last. The position
    /// stays valid because no server logs more lines in a test than [`Process`] keeps.
    read: Cell<usize>,
}

impl Served {
    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    /// The server cannot be started, or does not log in time that it listens.
    pub fn start(command: Command) -> anyhow::Result<Self> {
        let process = Process::spawn(command)?;
        let read = Cell::new(0);
        let line = next_line(&process, &read, "listening")?;
        Ok(Self {
            address: field(&line, "address=")?,
            admin: field(&line, "admin=\"")?,
            process,
            read,
        })
    }

    /// Waits for a line of the log that contains `text`, after the line that was waited for last.
    ///
    /// # Errors
    /// There is no such line in time.
    pub fn wait_log(&self, text: &str) -> anyhow::Result<()> {
        next_line(&self.process, &self.read, text).map(drop)
    }

    /// Waits until `/readyz` answers with 200.
    ///
    /// # Errors
    /// There is no such answer in time.
    pub fn wait_ready(&self) -> anyhow::Result<()> {
        wait::until(SOON, "it is ready", || match self.get("/readyz") {
            Ok(response) if response.status == 200 => Ok(()),
            Ok(response) => Err(response.text()),
            Err(error) => Err(format!("{error:#}")),
        })
    }

    /// Sends a GET to the admin port.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub fn get(&self, path: &str) -> anyhow::Result<Response> {
        http::get(self.admin, path).with_context(|| path.to_owned())
    }
}

/// Waits for a line with `text` after the first `read` bytes of the log.
fn next_line(process: &Process, read: &Cell<usize>, text: &str) -> anyhow::Result<String> {
    wait::until(SOON, &format!("it logs {text:?}"), || {
        let log = process.stderr();
        let news = log.get(read.get()..).unwrap_or("");
        let mut end = read.get();
        for line in news.lines() {
            end += line.len() + 1;
            if line.contains(text) {
                read.set(end);
                return Ok(line.to_owned());
            }
        }
        Err(news.to_owned())
    })
}

/// The address after `key`.
fn field(line: &str, key: &str) -> anyhow::Result<SocketAddr> {
    let (_, rest) = line
        .split_once(key)
        .with_context(|| format!("no {key} in {line}"))?;
    let end = rest.find([' ', '"']).unwrap_or(rest.len());
    rest[..end]
        .parse()
        .with_context(|| format!("no address after {key} in {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_waited_for_once_and_addresses_are_read() {
        let mut command = Command::new("sh");
        let script =
            "echo 'a listening address=127.0.0.1:1 admin=\"[::1]:2\"' >&2; echo b again >&2";
        command.args(["-c", script]);
        let process = Process::spawn(command).unwrap();
        let read = Cell::new(0);
        let line = next_line(&process, &read, "listening").unwrap();
        assert_eq!(field(&line, "address=").unwrap().port(), 1);
        assert_eq!(field(&line, "admin=\"").unwrap().port(), 2);
        assert!(field(&line, "no=").is_err());
        assert_eq!(next_line(&process, &read, "a").unwrap(), "b again");
    }
}
