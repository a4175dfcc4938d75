//! The language between `ctl` and a running supervisor, and its client side.
//!
//! One JSON line each way over an abstract Unix socket (unix(7)) whose name
//! holds the full admin address: no writable directory is needed, and two
//! supervisors on different addresses never collide. Each side checks the other's
//! uid by the kernel's word (`SO_PEERCRED`), which is the whole authentication:
//! such a name can be taken by anybody in the network namespace.

pub(crate) mod answers;
pub mod command;
pub(crate) mod server;
pub(crate) mod tables;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Uid, geteuid};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

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
    net::SocketAddr::from_abstract_name(socket_name(admin))
}

fn socket_name(admin: SocketAddr) -> String {
    format!("scaledapp-sidecar/{admin}")
}

/// A supervisor whose admin port is on all addresses answers for each of them.
fn connect(admin: SocketAddr, timeout: Duration) -> anyhow::Result<UnixStream> {
    let all = [
        IpAddr::from(Ipv6Addr::UNSPECIFIED),
        Ipv4Addr::UNSPECIFIED.into(),
    ];
    let all = all.map(|ip| SocketAddr::new(ip, admin.port()));
    let mut failed = None;
    for name in [admin].into_iter().chain(all) {
        match connect_to(name, timeout) {
            Ok(stream) => {
                let server = socket_peercred(&stream)?;
                let Err(reason) = may_serve(server.uid, geteuid(), || is_this_program(server.pid))
                else {
                    return Ok(stream);
                };
                let text = format!("did not ask the supervisor with --admin {name}: {reason}");
                failed = Some(anyhow::Error::msg(text));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                failed = Some(anyhow::anyhow!(
                    "the supervisor with --admin {name} takes no command within {timeout:?}"
                ));
            }
            Err(error) if failed.is_none() => {
                let text = format!(
                    "no supervisor with --admin {admin} runs in this network namespace; if \
                     yours runs with another --admin, give ctl that one"
                );
                failed = Some(anyhow::Error::from(error).context(text));
            }
            Err(_) => {}
        }
    }
    Err(failed.unwrap_or_else(|| anyhow::anyhow!("no name to ask at")))
}

fn connect_to(admin: SocketAddr, timeout: Duration) -> std::io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose queue is full would hold us up for as long as it likes.
    socket.set_write_timeout(Some(timeout))?;
    // A leading zero byte makes the name an abstract one (unix(7)).
    socket.connect(&SockAddr::unix(format!("\0{}", socket_name(admin)))?)?;
    Ok(OwnedFd::from(socket).into())
}

/// Whether a command of `ours` may go to a server of that user. Anybody in the network
/// namespace can take the name of a supervisor that does not run. Root may ask another
/// user's supervisor if that `is_this_program`.
fn may_serve(server: Uid, ours: Uid, is_this_program: impl FnOnce() -> bool) -> Result<(), String> {
    if server == ours || server.is_root() || (ours.is_root() && is_this_program()) {
        return Ok(());
    }
    let (server, ours) = (server.as_raw(), ours.as_raw());
    Err(format!(
        "it runs as user {server}, not as root or as you (user {ours}). If it is yours, run this \
         command as that user (`setpriv --reuid {server} --clear-groups …`)"
    ))
}

/// Whether a process runs the file that this one runs.
fn is_this_program(pid: Pid) -> bool {
    let file = |process: &str| {
        let file = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let ours = file("self");
    ours.is_some() && ours == file(&pid.as_raw_nonzero().to_string())
}

/// Sends one request and waits for its answer.
///
/// # Errors
/// Nobody is there, it refused us, it is somebody else's, it answered with a failure,
/// or `timeout` passed.
pub(crate) fn call(
    admin: SocketAddr,
    request: &Request,
    timeout: Duration,
) -> anyhow::Result<serde_json::Value> {
    const HUNG_UP: &str = "the supervisor hung up: only its own user and root may control it, \
                           and only while it runs";
    let timeout = timeout.max(Duration::from_millis(1));
    let stream = connect(admin, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
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
    fn a_command_goes_to_a_supervisor_of_our_own_or_of_root_only() {
        let [root, us, other] = [0, 1000, 1001].map(Uid::from_raw);
        let unknown = || -> bool { panic!("only root may look") };
        for (server, ours) in [(us, us), (root, us), (root, root)] {
            assert_eq!(may_serve(server, ours, unknown), Ok(()));
        }
        let reason = may_serve(other, us, unknown).unwrap_err();
        assert!(reason.contains("user 1001") && reason.contains("setpriv --reuid 1001"));
        assert_eq!(may_serve(us, root, || true), Ok(()));
        assert!(may_serve(us, root, || false).is_err());
        assert!(is_this_program(rustix::process::getpid()));
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
