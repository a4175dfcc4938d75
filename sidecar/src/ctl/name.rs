//! The name of a supervisor's control socket, derived from its admin address.

use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net;

/// The control socket's address for the supervisor with this admin address.
pub(crate) fn socket_address(admin: SocketAddr) -> std::io::Result<net::SocketAddr> {
    net::SocketAddr::from_abstract_name(socket_name(admin))
}

pub(super) fn socket_name(admin: SocketAddr) -> String {
    format!("scaledapp-sidecar/{admin}")
}
