//! The listening socket, and the limit of open files that bounds the number of connections.

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The variable that the ScaledApp supervisor sets for each of its workers.
const SLOT: &str = "SCALEDAPP_SLOT";

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({flag}): {source}; {}", cure(.source))]
pub(crate) struct ListenError {
    address: SocketAddr,
    flag: &'static str,
    source: io::Error,
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there: stop it or choose another address"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: give one that it has, or 0.0.0.0 for all"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one"
        }
        _ => "choose another address (0.0.0.0 if IPv6 is off)",
    }
}

/// Listens on `address`. `[::]` accepts IPv4 as well, and port 0 means any free port.
pub(crate) fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ListenError> {
    scaledapp_proxy::listen(address).map_err(|source| ListenError {
        address,
        flag,
        source,
    })
}

/// Whether a ScaledApp supervisor keeps the socket open, so that the socket outlives this
/// process.
pub(crate) fn is_held() -> bool {
    std::env::var_os(SLOT).is_some()
}

/// Raises the limit of open files to the hard limit. The usual soft limit is 1024, kept low
/// for `select`, which is not used here. Each client connection needs one file, and one
/// more upstream. If the limit is too low for a number of connections that the user has
/// given, the log says so; a default number has been lowered to fit.
pub(crate) fn raise_file_limit(connections: u32, fits: bool) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    let needed = 2 * u64::from(connections);
    if let Some(limit) = limit.filter(|limit| !fits && *limit < needed) {
        tracing::info!(
            limit,
            needed,
            "the limit of open files is lower than --connections needs: raise the limit (ulimit -Hn) or lower --connections"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_named_with_the_cure() {
        let taken = listen("127.0.0.1:0".parse().unwrap(), "--listen").unwrap();
        let address = taken.local_addr().unwrap();
        let message = listen(address, "--listen").unwrap_err().to_string();
        assert!(message.contains(&address.to_string()), "{message}");
        assert!(message.contains("another process"), "{message}");
        let elsewhere = listen("192.0.2.1:8080".parse().unwrap(), "--listen").unwrap_err();
        assert!(elsewhere.to_string().contains("no such address"));
    }
}
