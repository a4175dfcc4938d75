//! The language between `ctl` and a running supervisor, and its client side.
//!
//! One JSON line each way over an abstract Unix socket (unix(7)) whose name
//! holds the full admin address: no writable directory is needed, and two
//! supervisors on different addresses never collide. The peer's uid is checked
//! by the kernel's word (`SO_PEERCRED`), which is the whole authentication.

pub(crate) mod answers;
pub mod command;
pub(crate) mod server;
pub(crate) mod tables;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::cores::{TooMany, within_bounds};

/// What a supervisor can be asked or told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub(crate) enum Request {
    /// The JSON of /status.
    Status,
    /// Set the number of workers; answered when it is reached.
    Scale {
        /// How many.
        workers: WorkerCount,
    },
    /// Replace all workers; answered when done or failed.
    Reload,
    /// Replace one slot's worker; answered when done or failed.
    Restart {
        /// Which slot.
        slot: u32,
    },
    /// Send a signal to the workers' process groups.
    Signal {
        /// Its number.
        number: i32,
        /// Only to that slot's; `None`: to all.
        #[serde(default)]
        slot: Option<u32>,
    },
    /// The last stderr lines of each slot.
    Logs {
        /// Only that slot's.
        #[serde(default)]
        slot: Option<u32>,
    },
    /// All that is known of each slot.
    Describe {
        /// Only that one.
        #[serde(default)]
        slot: Option<u32>,
    },
    /// What happened lately.
    Events,
}

/// `N`, `+K` or `-K`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerCount {
    /// Exactly so many.
    To(u32),
    /// So many more than wanted now.
    More(u32),
    /// So many fewer than wanted now, at least 0.
    Fewer(u32),
}

impl std::str::FromStr for WorkerCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (make, digits): (fn(u32) -> Self, &str) = match text.as_bytes().first() {
            Some(b'+') => (Self::More, &text[1..]),
            Some(b'-') => (Self::Fewer, &text[1..]),
            _ => (Self::To, text),
        };
        // `parse` would take a second sign.
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| plain);
        number
            .map(make)
            .ok_or_else(|| format!("{text:?} is no worker count: give N, +K or -K"))
    }
}

impl WorkerCount {
    /// The count meant, when `now` are wanted now.
    ///
    /// # Errors
    /// They are more than `MAX_WORKERS` of `cores`.
    pub fn resolve(self, now: u32) -> Result<u32, TooMany> {
        within_bounds(match self {
            Self::To(n) => n,
            Self::More(k) => now.saturating_add(k),
            Self::Fewer(k) => now.saturating_sub(k),
        })
    }
}

/// The supervisor's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reply {
    /// Done; what was asked for, or null.
    Ok(serde_json::Value),
    /// Not done, and why.
    Error(String),
}

/// The control socket's address for the supervisor with this admin address.
pub(crate) fn socket_address(admin: SocketAddr) -> std::io::Result<net::SocketAddr> {
    net::SocketAddr::from_abstract_name(format!("scaledapp-sidecar/{admin}"))
}

/// A supervisor whose admin port is on all addresses answers for each of them.
fn connect(admin: SocketAddr) -> std::io::Result<UnixStream> {
    let all = [
        IpAddr::from(Ipv6Addr::UNSPECIFIED),
        Ipv4Addr::UNSPECIFIED.into(),
    ];
    let all = all.map(|ip| SocketAddr::new(ip, admin.port()));
    let to = |admin| UnixStream::connect_addr(&socket_address(admin)?);
    to(admin).or_else(|error| all.into_iter().find_map(|all| to(all).ok()).ok_or(error))
}

/// Sends one request and waits for its answer.
///
/// # Errors
/// Nobody is there, it refused us, it answered with a failure, or `timeout` passed.
pub(crate) fn call(
    admin: SocketAddr,
    request: &Request,
    timeout: Duration,
) -> anyhow::Result<serde_json::Value> {
    const HUNG_UP: &str = "the supervisor hung up: only its own user and root may control it, \
                           and only while it runs";
    let stream = connect(admin).with_context(|| {
        format!("no supervisor with --admin {admin} runs in this network namespace")
    })?;
    stream.set_read_timeout(Some(timeout.max(Duration::from_millis(1))))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    (&stream).write_all(&line).context(HUNG_UP)?;
    let mut answer = String::new();
    if let Err(error) = BufReader::new(&stream).read_line(&mut answer) {
        if matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ) {
            bail!("not done after {timeout:?}; it goes on in the supervisor (see `ctl status`)");
        }
        return Err(error).context(HUNG_UP);
    }
    if answer.is_empty() {
        bail!(HUNG_UP);
    }
    match serde_json::from_str(&answer).context("the supervisor answered in another language")? {
        Reply::Ok(value) => Ok(value),
        Reply::Error(reason) => bail!("{reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cores::MAX_WORKERS;

    #[test]
    fn worker_counts_are_absolute_or_relative() {
        for (text, now, then) in [
            ("4", 2, 4),
            ("+2", 2, 4),
            ("-1", 2, 1),
            ("-9", 2, 0),
            ("0", 2, 0),
        ] {
            let count: WorkerCount = text.parse().unwrap();
            assert_eq!(count.resolve(now), Ok(then), "{text}");
        }
        for text in ["+1", "1025"] {
            let count: WorkerCount = text.parse().unwrap();
            assert!(count.resolve(MAX_WORKERS).is_err(), "{text}");
        }
        for text in ["", "x", "+", "--1", "++1", "1.5", "5000000000"] {
            assert!(text.parse::<WorkerCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn requests_survive_the_wire() {
        for request in [
            Request::Status,
            Request::Scale {
                workers: WorkerCount::Fewer(2),
            },
            Request::Restart { slot: 3 },
            Request::Describe { slot: Some(1) },
            Request::Events,
        ] {
            let line = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
        // As an older `ctl` says it.
        let request: Request = serde_json::from_str(r#"{"verb":"logs"}"#).unwrap();
        assert_eq!(request, Request::Logs { slot: None });
    }
}
