//! Creates the socket on which a proxy accepts.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections may wait to be accepted. The kernel takes the smaller of this and
/// `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;

/// Listens on `address`. `[::]` accepts IPv4 as well, and port 0 means any free port.
///
/// # Errors
/// The port is taken or may not be used, or this machine does not have the address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // This matters only for `[::]`, which must not depend on `net.ipv6.bindv6only`.
        socket.set_only_v6(false)?;
    }
    // Lingering connections of a predecessor must not prevent the start.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_unspecified_ipv6_address_accepts_ipv4() {
        let Ok(listener) = listen("[::]:0".parse().unwrap()) else {
            // This machine has no IPv6.
            return;
        };
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}
