//! Chooses the loopback addresses and ports of a run.
//!
//! A port of an address is tested by binding a socket to it. As long as a run exists, an abstract
//! socket (unix(7)) reserves the run's addresses, so that two runs that start at the same time do
//! not choose the same ones.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use anyhow::{Context, bail};
use scaledapp_plan::local::{ADMIN_PORT, Addresses, Demand, HOLDER_ADMIN_PORT, numbered};

/// Third octets of the blocks of addresses (127.0.OCTET.0/24), which are tried in pairs: first 77
/// for balancers and 78 for pods, then 79 and 80.
const BLOCKS: std::ops::Range<u8> = 77..250;
/// Ports to try for balancers.
const BALANCER_PORTS: std::ops::Range<u16> = 8080..8180;
/// Ports to try for balancers with TLS.
const TLS_PORTS: std::ops::Range<u16> = 8443..8543;
/// Ports to try for DNS; 5353 is commonly used for DNS besides 53.
const DNS_PORTS: std::ops::Range<u16> = 5353..5453;

/// A reserved name. No other process can reserve it until this value is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    _name: UnixListener,
}

/// Reserves a name. Returns `None` if another process has it.
///
/// # Errors
/// The socket of the reservation cannot be made.
pub(crate) fn reserve(name: &str) -> io::Result<Option<Reservation>> {
    let address = UnixAddr::from_abstract_name(format!("scaledapp-local/{name}"))?;
    match UnixListener::bind_addr(&address) {
        Ok(name) => Ok(Some(Reservation { _name: name })),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

/// The addresses of an app, and the reservation that keeps other runs away from them.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) addresses: Addresses,
    _reservation: Reservation,
}

/// The address of a DNS server, and the reservation that keeps other runs away from it.
#[derive(Debug)]
pub(crate) struct TakenDns {
    pub(crate) listen: SocketAddr,
    _reservation: Reservation,
}

/// Finds free addresses for an app with this demand, whose DNS server is at `dns`.
///
/// # Errors
/// No pair of blocks is free (the message says what is in the way), or a reservation fails.
pub(crate) fn take(demand: Demand, dns: SocketAddr) -> anyhow::Result<Taken> {
    let mut obstacle = None;
    for octet in BLOCKS.step_by(2) {
        let [balancers, pods] = [octet, octet + 1].map(|octet| Ipv4Addr::new(127, 0, octet, 0));
        let Some(reserved) = reserve(&balancers.to_string())? else {
            continue;
        };
        match fits(demand, balancers, pods) {
            Ok((balancer_port, tls_port)) => {
                let addresses = Addresses {
                    balancers,
                    balancer_port,
                    tls_port,
                    pods,
                    dns,
                };
                return Ok(Taken {
                    addresses,
                    _reservation: reserved,
                });
            }
            Err(reason) => obstacle = Some(reason),
        }
    }
    match obstacle {
        Some(obstacle) => bail!("{obstacle}"),
        None => {
            bail!("other runs have taken every block of loopback addresses: stop one of them")
        }
    }
}

/// Why a block cannot be used.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error(
        "port {0} needs root: run as root, or let the app listen on a port from 1024 on and change spec.port"
    )]
    Privileged(u16),
    #[error(
        "port {0} is taken on every loopback address, by a program that listens on all addresses: stop it (`ss -ltnp 'sport = :{0}'` shows it){1}"
    )]
    Taken(u16, &'static str),
    #[error("no port from {0} to {1} is free for balancers: stop what listens there")]
    NoBalancerPort(u16, u16),
    #[error("cannot test whether {0} is free: {1}")]
    Io(SocketAddr, io::Error),
}

/// Returns the balancers' port and their port for TLS, if all addresses that the app needs are free
/// in this pair of blocks.
fn fits(
    demand: Demand,
    balancers: Ipv4Addr,
    pods: Ipv4Addr,
) -> Result<(u16, Option<u16>), Obstacle> {
    let port = demand.port.get();
    for ip in members(pods, demand.pods) {
        free(
            ip,
            port,
            ", or let the app listen on another port and change spec.port",
        )?;
        let admin = demand.admin_port.get();
        free(ip, admin, ", or set spec.adminPort to another one")?;
    }
    for ip in members(balancers, demand.slots) {
        free(ip, ADMIN_PORT.get(), "")?;
        free(ip, HOLDER_ADMIN_PORT, "")?;
    }
    let all_free =
        |port: &u16| members(balancers, demand.slots).all(|ip| free(ip, *port, "").is_ok());
    let first = |mut ports: std::ops::Range<u16>| {
        let obstacle = Obstacle::NoBalancerPort(ports.start, ports.end - 1);
        ports.find(all_free).ok_or(obstacle)
    };
    let tls = demand.has_tls.then(|| first(TLS_PORTS)).transpose()?;
    let port = match demand.balancer_port {
        None => first(BALANCER_PORTS)?,
        Some(port) => {
            for ip in members(balancers, demand.slots) {
                free(ip, port.get(), "")?;
            }
            port.get()
        }
    };
    Ok((port, tls))
}

fn members(block: Ipv4Addr, count: u32) -> impl Iterator<Item = IpAddr> {
    (0..count).map(move |index| numbered(block, index))
}

fn free(ip: IpAddr, port: u16, or: &'static str) -> Result<(), Obstacle> {
    let at = SocketAddr::new(ip, port);
    match TcpListener::bind(at) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(Obstacle::Privileged(port))
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Obstacle::Taken(port, or)),
        Err(error) => Err(Obstacle::Io(at, error)),
    }
}

/// Finds a free address for a DNS server.
///
/// # Errors
/// No port is free, or a reservation fails.
pub(crate) fn take_dns() -> anyhow::Result<TakenDns> {
    for port in DNS_PORTS {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Some(reserved) = reserve(&at.to_string())? else {
            continue;
        };
        if UdpSocket::bind(at).is_ok() && TcpListener::bind(at).is_ok() {
            return Ok(TakenDns {
                listen: at,
                _reservation: reserved,
            });
        }
    }
    None.with_context(|| {
        format!(
            "no port from {} to {} on 127.0.0.1 is free for DNS: stop what listens there",
            DNS_PORTS.start,
            DNS_PORTS.end - 1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DNS: &str = "127.0.0.1:5353";

    fn demand(port: u16) -> Demand {
        Demand {
            pods: 2,
            running: 2,
            most_workers: None,
            workers: 1,
            slots: 2,
            balancer_port: None,
            has_tls: true,
            port: port.try_into().unwrap(),
            admin_port: 9377.try_into().unwrap(),
        }
    }

    #[test]
    fn two_runs_at_once_get_different_blocks_and_dns_ports() {
        let port = 21_987;
        let dns = [take_dns().unwrap(), take_dns().unwrap()];
        assert_ne!(dns[0].listen, dns[1].listen);
        let [first, second] = dns
            .each_ref()
            .map(|dns| take(demand(port), dns.listen).unwrap());
        assert_ne!(first.addresses.balancers, second.addresses.balancers);
        assert_ne!(first.addresses.pods, second.addresses.pods);
    }

    #[test]
    fn a_taken_address_moves_the_run_to_the_next_block() {
        let port = 21_986;
        let pods = take(demand(port), DNS.parse().unwrap())
            .unwrap()
            .addresses
            .pods;
        let _other = TcpListener::bind(SocketAddr::new(numbered(pods, 1), port)).unwrap();
        assert_ne!(
            take(demand(port), DNS.parse().unwrap())
                .unwrap()
                .addresses
                .pods,
            pods
        );
    }

    #[test]
    fn a_port_that_is_taken_everywhere_is_named() {
        let port = 21_985;
        let _other = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let error = take(demand(port), DNS.parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("port 21985 is taken"), "{error}");
        assert!(error.contains("change spec.port"), "{error}");
    }
}
