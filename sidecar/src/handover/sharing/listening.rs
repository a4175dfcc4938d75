//! Creates sockets, binds them, and keeps new connections from them. `sharing` decides which
//! worker gets which socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use super::family::Family;

/// The length of a listening socket's accept queue; the kernel lowers it to
/// net.core.somaxconn (4096 by default since Linux 5.4).
pub(super) const BACKLOG: i32 = 4096;

/// Tests whether the port is available.
pub(super) fn try_out(host: Option<IpAddr>, port: u16) -> io::Result<()> {
    let family = match host {
        Some(IpAddr::V6(_)) => Family::V6,
        _ => Family::V4,
    };
    let trial = new_socket(family)?;
    trial.set_reuse_address(true)?;
    trial.bind(&address_for(family, host, port)?)?;
    trial.listen(1)
}

/// Drops SYNs, so that clients repeat them and are refused once the socket is closed. Closing the
/// socket immediately would reset connections that arrived since the last `accept`.
///
/// A classic BPF program sees a segment from its TCP header on (`tcp_filter`,
/// `net/ipv4/tcp_ipv4.c`); `SO_ATTACH_FILTER` needs no privilege (socket(7)).
pub(super) fn refuse_new(listener: &Socket) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const FLAGS: u32 = 13; // RFC 9293 section 3.1
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    listener.attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// A stream socket that is closed on exec.
pub(super) fn new_socket(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if family == Family::V6 {
        // One socket for both families, as an app that binds `::` expects.
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

pub(super) fn group_socket(family: Family, address: &SockAddr) -> io::Result<Socket> {
    let socket = new_socket(family)?;
    socket.set_reuse_port(true)?;
    // Connections of an earlier supervisor may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// `host:port` as an address of `family`; IPv4 is mapped for an IPv6 socket.
pub(super) fn address_for(family: Family, host: Option<IpAddr>, port: u16) -> io::Result<SockAddr> {
    let ip = match (family, host) {
        (Family::V4, None) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (Family::V6, None) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        (Family::V4, Some(IpAddr::V4(ip))) => IpAddr::V4(ip),
        (Family::V6, Some(IpAddr::V4(ip))) => IpAddr::V6(ip.to_ipv6_mapped()),
        (Family::V6, Some(IpAddr::V6(ip))) => IpAddr::V6(ip),
        (Family::V4, Some(IpAddr::V6(_))) => {
            return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        }
    };
    Ok(SocketAddr::new(ip, port).into())
}

/// The address that the dispatcher connects to. A mapped address becomes an IPv4 address.
pub(super) fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    let address = address.ok_or_else(|| io::Error::other("a TCP socket without an IP address"))?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

pub(super) fn inode(socket: &Socket) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}
