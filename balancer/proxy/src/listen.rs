//! Creates the socket on which a proxy accepts.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::security::Security;
use crate::transport::{Secured, Transport};

/// How many connections may wait to be accepted. The kernel takes the smaller of this and
/// `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;

/// The protocol between a listener and its clients.
#[derive(Debug, Clone)]
pub enum Scheme {
    /// HTTP without encryption.
    Http,
    /// As [`Self::Http`], but each request is redirected (308) to `https` at the same host,
    /// except those for `/.well-known/acme-challenge/` (RFC 8555 section 8.3).
    Redirected {
        /// The port of `https` as clients know it.
        port: u16,
    },
    /// HTTP with TLS.
    Https(Arc<dyn Security>),
}

impl Scheme {
    /// The transport of an accepted connection, and the port to which its requests are redirected.
    ///
    /// # Errors
    /// As [`Security::session`].
    pub(crate) fn open(&self, stream: TcpStream) -> io::Result<(Transport, Option<u16>)> {
        Ok(match self {
            Self::Http => (Transport::Plain(stream), None),
            Self::Redirected { port } => (Transport::Plain(stream), Some(*port)),
            Self::Https(security) => {
                let secured = Secured::new(stream, security.session()?);
                (Transport::Secured(Box::new(secured)), None)
            }
        })
    }
}

/// A socket that a proxy accepts from.
#[derive(Debug)]
pub struct Listener {
    /// The socket, which is already listening.
    pub socket: TcpListener,
    /// The protocol of its clients.
    pub scheme: Scheme,
}

impl From<TcpListener> for Listener {
    /// HTTP without encryption.
    fn from(socket: TcpListener) -> Self {
        Self {
            socket,
            scheme: Scheme::Http,
        }
    }
}

impl Listener {
    /// Another handle of the same socket.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            scheme: self.scheme.clone(),
        })
    }
}

/// Listens on `address`. `[::]` accepts IPv4 as well, and port 0 means any free port.
///
/// # Errors
/// The port is in use or may not be used, or this machine does not have the address.
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
    use super::*;

    #[test]
    fn the_unspecified_ipv6_address_accepts_ipv4() {
        let Ok(listener) = listen("[::]:0".parse().unwrap()) else {
            // This machine has no IPv6.
            return;
        };
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}
