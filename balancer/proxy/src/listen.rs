//! Makes the socket that a proxy accepts from.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted. The kernel takes the smaller of this and
/// `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;

/// Listens; `[::]` takes IPv4, too. Port 0 takes a free one.
///
/// # Errors
/// The port is taken or may not be used, or the address is not this machine's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // This matters for `[::]` only, which must not depend on `net.ipv6.bindv6only`.
        socket.set_only_v6(false)?;
    }
    // Connections of a predecessor that linger must not keep us from starting.
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
    fn all_addresses_of_ipv6_include_those_of_ipv4() {
        let Ok(listener) = listen("[::]:0".parse().unwrap()) else {
            // No IPv6 on this machine.
            return;
        };
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}
