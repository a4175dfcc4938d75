//! A server that requests can go to, and the check that a server can have a given address.

use std::net::SocketAddr;

/// A server that requests can go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// The admin port of its supervisor, which reports whether it serves.
    pub(crate) admin: Option<SocketAddr>,
    /// It was found by its labels and not named by the user. Until a supervisor answers on
    /// its admin port, it may belong to another app.
    pub(crate) selected: bool,
    /// The zone in which it runs, if it is known.
    pub(crate) zone: Option<String>,
    /// The node on which it runs, if it is known.
    pub(crate) node: Option<String>,
}

impl Backend {
    /// A backend of which only the address is known.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self {
            name: address.to_string(),
            address,
            admin: None,
            selected: false,
            zone: None,
            node: None,
        }
    }
}

/// Refuses an address at which there can be no server.
pub(crate) fn check_target(address: SocketAddr) -> Result<(), &'static str> {
    if address.port() == 0 {
        Err("no server can listen on port 0: give the server's port")
    } else if address.ip().is_unspecified() {
        Err("this stands for all addresses of a machine: give a single one, such as 127.0.0.1")
    } else if address.ip().is_multicast() {
        Err("this is a multicast address: give the address of one server")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_server_are_refused() {
        for (address, part) in [
            ("10.0.0.1:0", "port 0"),
            ("0.0.0.0:80", "all addresses"),
            ("[::]:80", "all addresses"),
            ("224.0.0.1:80", "multicast"),
        ] {
            let reason = check_target(address.parse().unwrap()).unwrap_err();
            assert!(reason.contains(part), "{address}: {reason}");
        }
        assert_eq!(check_target("[fd00::1]:80".parse().unwrap()), Ok(()));
    }
}
