//! Asks the kernel for TCP sockets by local port (`sock_diag(7)`): it sends those
//! that were asked for, where /proc/net/tcp has to be read as a whole, those in
//! `TIME_WAIT` included. No privilege is needed for sockets of one's own network
//! namespace. Where netlink is refused, the file is read after all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// States of a TCP socket (`include/net/tcp_states.h`), as bits.
pub(crate) const ESTABLISHED: u32 = 1 << 1;
/// The peer has closed its side.
pub(crate) const CLOSE_WAIT: u32 = 1 << 8;
/// It accepts.
pub(crate) const LISTEN: u32 = 1 << 10;
/// All others, those that are over and not forgotten yet included.
pub(crate) const ALL_BUT_LISTEN: u32 = 0x0fff & !LISTEN;

/// A socket as the kernel describes it (`struct inet_diag_msg`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) peer: SocketAddr,
    /// Of one that accepts: what waits to be accepted.
    pub(crate) queue: u32,
    /// 0 where nobody has accepted the connection yet, or nobody holds it any more.
    pub(crate) inode: u64,
}

/// `SOCK_DIAG_BY_FAMILY` (`linux/sock_diag.h`).
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP` (netlink(7)).
const REQUEST_DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// Of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
const TCP: u8 = 6;

/// Sockets of both families in one of `states` at local `port`.
///
/// # Errors
/// The kernel or a sandbox refuses to tell.
pub(crate) fn at_port(port: u16, states: u32) -> io::Result<Vec<Found>> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(SOCK_DIAG),
    )?;
    let mut found = Vec::new();
    // AF_INET, AF_INET6.
    for family in [2, 10] {
        dump(&socket, family, port, states, &mut found)?;
    }
    Ok(found)
}

/// The same from `/proc/net/tcp` and `tcp6` (`proc_pid_net(5)`); nothing if they
/// cannot be read.
pub(crate) fn listed(port: u16, states: u32) -> Vec<Found> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let texts = tables.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let lines = texts.iter().flat_map(|text| text.lines().skip(1));
    lines
        .filter_map(|line| listed_in(line, port, states))
        .collect()
}

/// `sl local rem st tx:rx tr:when retrnsmt uid timeout inode`, numbers in hex.
fn listed_in(line: &str, port: u16, states: u32) -> Option<Found> {
    let mut fields = line.split_ascii_whitespace();
    let (_, local) = fields.nth(1)?.rsplit_once(':')?;
    let (peer, peer_port) = fields.next()?.rsplit_once(':')?;
    let state = u32::from_str_radix(fields.next()?, 16).ok()?;
    let (_, queue) = fields.next()?.split_once(':')?;
    let hex = |text| u16::from_str_radix(text, 16).ok();
    if hex(local)? != port || states & 1_u32.checked_shl(state)? == 0 {
        return None;
    }
    // Words of four bytes, as the machine has them in memory.
    let word = |at: usize| u32::from_str_radix(peer.get(at * 8..at * 8 + 8)?, 16).ok();
    let ip = if peer.len() == 8 {
        IpAddr::from(word(0)?.to_ne_bytes())
    } else {
        let mut bytes = [0; 16];
        for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
            part.copy_from_slice(&word(at)?.to_ne_bytes());
        }
        IpAddr::from(bytes)
    };
    Some(Found {
        peer: SocketAddr::new(ip, hex(peer_port)?),
        queue: u32::from_str_radix(queue, 16).ok()?,
        inode: fields.nth(4)?.parse().ok()?,
    })
}

fn dump(
    socket: &OwnedFd,
    family: u8,
    port: u16,
    states: u32,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(
        socket,
        &request(family, port, states),
        SendFlags::empty(),
        &kernel,
    )?;
    let mut buffer = vec![0_u8; 32 << 10];
    loop {
        let (length, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if read(&buffer[..length], port, found)? {
            return Ok(());
        }
    }
}

fn request(family: u8, port: u16, states: u32) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &REQUEST_DUMP.to_ne_bytes());
    put(16, &[family, TCP]);
    put(20, &states.to_ne_bytes());
    // The first field of `struct inet_diag_sockid`; others of 0 mean any.
    put(24, &port.to_be_bytes());
    bytes
}

/// Takes the messages of one datagram; whether they were the last.
fn read(mut bytes: &[u8], port: u16, found: &mut Vec<Found>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (number(bytes, 0), bytes.get(4..6)) {
        let length = length as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        match u16::from_ne_bytes([kind[0], kind[1]]) {
            DONE => return Ok(true),
            ERROR => {
                let error = number(bytes, HEADER).unwrap_or(0).cast_signed();
                return Err(io::Error::from_raw_os_error(-error));
            }
            BY_FAMILY => found.extend(socket_of(&bytes[HEADER..length], port)),
            _ => {}
        }
        // Messages begin at multiples of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// `family state timer retrans | sport dport src dst if cookie | expires rqueue
/// wqueue uid inode`.
fn socket_of(bytes: &[u8], port: u16) -> Option<Found> {
    let bytes = bytes.get(..MESSAGE)?;
    let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    if half(4) != port {
        return None;
    }
    let to: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
    let ip = match bytes[0] {
        2 => IpAddr::V4(Ipv4Addr::new(to[0], to[1], to[2], to[3])),
        _ => IpAddr::V6(Ipv6Addr::from(to)),
    };
    Some(Found {
        peer: SocketAddr::new(ip, half(6)),
        queue: number(bytes, 56)?,
        inode: u64::from(number(bytes, 68)?),
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn sockets_of_a_port_are_told_with_their_state() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let listening = at_port(port, LISTEN).unwrap();
            assert_eq!((listening.len(), listening[0].queue), (1, 1));
            let accepted = |states| -> Vec<Found> {
                let all = at_port(port, states).unwrap();
                assert_eq!(all, listed(port, states), "both ways tell the same");
                all.into_iter().filter(|socket| socket.inode != 0).collect()
            };
            assert!(accepted(ESTABLISHED).is_empty());
            let server = listener.accept().unwrap().0;
            let found = accepted(ESTABLISHED | CLOSE_WAIT);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].peer, client.local_addr().unwrap());
            assert_eq!(at_port(port, LISTEN).unwrap()[0].queue, 0);
            drop(client);
            assert_eq!(accepted(CLOSE_WAIT).len(), 1);
            drop(server);
            assert!(accepted(ESTABLISHED | CLOSE_WAIT).is_empty());
        }
    }

    #[test]
    fn a_port_that_nobody_uses_has_none() {
        let port = {
            let probe = TcpListener::bind("127.0.0.1:0").unwrap();
            probe.local_addr().unwrap().port()
        };
        assert!(at_port(port, ALL_BUT_LISTEN | LISTEN).unwrap().is_empty());
    }

    #[test]
    fn what_is_cut_short_is_passed_over() {
        let mut found = Vec::new();
        for bytes in [&[][..], &[1, 0, 0, 0], &[255; 40]] {
            assert!(!read(bytes, 1, &mut found).unwrap());
        }
        assert!(found.is_empty());
    }
}
