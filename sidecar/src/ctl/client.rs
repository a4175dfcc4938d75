//! The client side of `ctl`: finds the supervisor's socket, checks its owner, sends one
//! request and waits for the reply.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Uid, geteuid};
use scaledapp_wire::{Reply, Request};
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use super::name::socket_name;

/// Connects to a supervisor. If its admin port listens on all addresses, `admin` may be any of
/// them.
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
                let text = format!(
                    "the command was not sent to the supervisor with --admin {name}: {reason}"
                );
                failed = Some(anyhow::Error::msg(text));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                failed = Some(anyhow::anyhow!(
                    "the supervisor with --admin {name} has accepted no command within {timeout:?}"
                ));
            }
            Err(error) if failed.is_none() => {
                let text = format!(
                    "no supervisor with --admin {admin} runs in this network namespace; if \
                     it runs with another --admin, give ctl the same address"
                );
                failed = Some(anyhow::Error::from(error).context(text));
            }
            Err(_) => {}
        }
    }
    Err(failed.unwrap_or_else(|| anyhow::anyhow!("the admin address has no name to connect to")))
}

fn connect_to(admin: SocketAddr, timeout: Duration) -> std::io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose queue is full could block this process without limit.
    socket.set_write_timeout(Some(timeout))?;
    // A leading zero byte makes the name an abstract one (unix(7)).
    socket.connect(&SockAddr::unix(format!("\0{}", socket_name(admin)))?)?;
    Ok(OwnedFd::from(socket).into())
}

/// Whether a command of user `ours` may be sent to a server of user `server`. Any process
/// in the network namespace can bind the name of a supervisor that does not run. Root may send
/// to a server of any user that runs the same executable (`is_this_program`).
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

/// Whether a process runs the same executable as this one.
fn is_this_program(pid: Pid) -> bool {
    let file = |process: &str| {
        let file = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let ours = file("self");
    ours.is_some() && ours == file(&pid.as_raw_nonzero().to_string())
}

/// Sends one request and waits for its answer, parsed as `T`.
///
/// # Errors
/// There is no supervisor, it refused the request, it belongs to another user, it answered
/// with a failure or with something other than `T`, or `timeout` passed.
pub(crate) fn call<T: DeserializeOwned>(
    admin: SocketAddr,
    request: &Request,
    timeout: Duration,
) -> anyhow::Result<T> {
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
            bail!(
                "the command has not finished after {timeout:?}; the supervisor continues with it \
                 (see `ctl status`)"
            );
        }
        return Err(error).context(HUNG_UP);
    }
    if answer.is_empty() {
        bail!(HUNG_UP);
    }
    let reply = serde_json::from_str(&answer);
    match reply.context("the supervisor's answer cannot be understood: use a `scaledapp-sidecar` of the same version")? {
        Reply::Ok(value) => Ok(value),
        Reply::Error(reason) => bail!("{reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_goes_only_to_a_supervisor_of_our_own_user_or_of_root() {
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
}
