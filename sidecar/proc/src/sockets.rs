//! Asks the kernel for TCP sockets by local port (`sock_diag(7)`). The kernel sends only the
//! matching ones, whereas /proc/net/tcp has to be read as a whole, including sockets in
//! `TIME_WAIT`. No privilege is needed for sockets of one's own network namespace. [`listed`] reads
//! the file and is meant for systems where netlink is not allowed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// A connected socket. This constant and the following ones are states of a TCP socket
/// (`include/net/tcp_states.h`) as bits.
pub const ESTABLISHED: u32 = 1 << 1;
/// The peer has closed its side.
pub const CLOSE_WAIT: u32 = 1 << 8;
/// A listening socket.
pub const LISTEN: u32 = 1 << 10;
/// All states except [`LISTEN`], including those of closed sockets that the kernel still tracks.
pub const ALL_BUT_LISTEN: u32 = 0x0fff & !LISTEN;

/// A socket as the kernel describes it (`struct inet_diag_msg`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The remote address.
    pub peer: SocketAddr,
    /// For a listening socket: the number of connections that wait to be accepted. For a
    /// connection: the number of bytes that have arrived and have not been read.
    pub queue: u32,
    /// The inode of the socket; 0 if no process has accepted the connection yet, or every process
    /// has closed it.
    pub inode: u64,
}

/// The progress of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The inode of the connection's socket.
    pub inode: u64,
    /// Bytes that have arrived and have not been read; a FIN counts as one.
    pub unread: u32,
    /// Bytes that were read since the connection began.
    pub read: u64,
    /// Bytes that were sent and acknowledged.
    pub answered: u64,
}

/// `SOCK_DIAG_BY_FAMILY` (`linux/sock_diag.h`).
pub(crate) const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP` (netlink(7)).
const REQUEST_DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// The length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// The length of `struct inet_diag_req_v2`.
pub(crate) const REQUEST: usize = 56;
/// The length of `struct inet_diag_msg`.
pub(crate) const MESSAGE: usize = 72;
pub(crate) const TCP: u8 = 6;
/// `INET_DIAG_INFO` (`linux/inet_diag.h`): the attribute, and the bit that asks for it.
const INFO: u16 = 2;
const ASK_INFO: u8 = 1 << (INFO - 1);
/// The offsets of `tcpi_bytes_acked` and `tcpi_bytes_received` in `struct tcp_info`
/// (`linux/tcp.h`), which exist since Linux 4.1.
const ACKED: usize = 120;
const RECEIVED: usize = 128;

/// The sockets of both address families at local `port` that are in one of `states`.
///
/// # Errors
/// The kernel or a sandbox does not allow it.
pub fn at_port(port: u16, states: u32) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    ask(port, states, 0, &mut |bytes| {
        found.extend(socket_of(bytes, port));
    })?;
    Ok(found)
}

/// The progress of accepted connections at local `port`.
///
/// # Errors
/// The kernel or a sandbox does not allow it.
pub fn progress(port: u16) -> io::Result<Vec<Progress>> {
    let mut found = Vec::new();
    let states = ESTABLISHED | CLOSE_WAIT;
    ask(port, states, ASK_INFO, &mut |bytes| {
        found.extend(progress_of(bytes, port));
    })?;
    Ok(found)
}

fn ask(port: u16, states: u32, ask_for: u8, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(SOCK_DIAG),
    )?;
    // AF_INET, AF_INET6.
    for family in [2, 10] {
        dump(&socket, &request(family, port, states, ask_for), take)?;
    }
    Ok(())
}

/// Returns what [`at_port`] returns, but reads it from `/proc/net/tcp` and `tcp6`
/// (`proc_pid_net(5)`). The result is empty if these files cannot be read.
pub fn listed(port: u16, states: u32) -> Vec<Found> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let texts = tables.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let lines = texts.iter().flat_map(|text| text.lines().skip(1));
    lines
        .filter_map(|line| listed_in(line, port, states))
        .collect()
}

/// Parses a line of the table: `sl local rem st tx:rx tr:when retrnsmt uid timeout inode`.
/// Addresses, the state and the queues are in hex, and the inode is decimal.
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
    // The address consists of four-byte words in the machine's byte order.
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

fn dump(socket: &OwnedFd, request: &[u8], take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(socket, request, SendFlags::empty(), &kernel)?;
    let mut buffer = vec![0_u8; 32 << 10];
    loop {
        let (length, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if read(&buffer[..length], take)? {
            return Ok(());
        }
    }
}

fn request(family: u8, port: u16, states: u32, ask_for: u8) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &REQUEST_DUMP.to_ne_bytes());
    put(16, &[family, TCP, ask_for]);
    put(20, &states.to_ne_bytes());
    // The first field of `struct inet_diag_sockid`; the fields that are 0 match anything.
    put(24, &port.to_be_bytes());
    bytes
}

/// Passes each message of one datagram to `take`; returns whether the datagram ends the
/// answer.
pub(crate) fn read(mut bytes: &[u8], take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
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
            BY_FAMILY => take(&bytes[HEADER..length]),
            _ => {}
        }
        // Messages begin at multiples of four bytes.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads a `struct inet_diag_msg`: `family state timer retrans | sport dport src dst if cookie |
/// expires rqueue wqueue uid inode`.
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

/// Reads the progress of a connection from a message. `None` if the message is incomplete or no
/// process has the connection open.
fn progress_of(bytes: &[u8], port: u16) -> Option<Progress> {
    let found = socket_of(bytes, port).filter(|socket| socket.inode != 0)?;
    let counted = counted(bytes.get(MESSAGE..)?)?;
    Some(Progress {
        inode: found.inode,
        unread: found.queue,
        read: counted.received.saturating_sub(u64::from(found.queue)),
        answered: counted.acknowledged,
    })
}

/// Bytes that a connection has carried since it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) acknowledged: u64,
    pub(crate) received: u64,
}

/// Reads the attributes that follow the message: two bytes of length, two of type, then the
/// value (netlink(7)).
pub(crate) fn counted(mut attributes: &[u8]) -> Option<Counted> {
    loop {
        let half = |at: usize| {
            Some(u16::from_ne_bytes(
                attributes.get(at..at + 2)?.try_into().ok()?,
            ))
        };
        let (length, kind) = (usize::from(half(0)?), half(2)?);
        if kind == INFO {
            let info = attributes.get(4..length)?;
            let long = |at: usize| {
                let bytes = info.get(at..at + 8)?.try_into().ok()?;
                Some(u64::from_ne_bytes(bytes))
            };
            return Some(Counted {
                received: long(RECEIVED)?,
                acknowledged: long(ACKED)?,
            });
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    #[test]
    fn sockets_of_a_port_are_returned_with_their_state() {
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
                assert_eq!(all, listed(port, states), "both ways agree");
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
    fn the_progress_of_a_connection_is_returned() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET").unwrap();
        assert_eq!(
            progress(address.port()).unwrap(),
            [],
            "it has not been accepted yet"
        );
        let mut server = listener.accept().unwrap().0;
        let inode = rustix::fs::fstat(&server).unwrap().st_ino;
        let until = |unread, read, answered| {
            let wanted = Progress {
                inode,
                unread,
                read,
                answered,
            };
            let start = Instant::now();
            while progress(address.port()).unwrap() != [wanted] {
                assert!(start.elapsed() < Duration::from_secs(10), "{wanted:?}");
            }
        };
        until(3, 0, 0);
        server.read_exact(&mut [0; 2]).unwrap();
        until(1, 2, 0);
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        until(1, 2, 6);
    }

    #[test]
    fn an_unused_port_has_no_sockets() {
        let port = {
            let probe = TcpListener::bind("127.0.0.1:0").unwrap();
            probe.local_addr().unwrap().port()
        };
        assert!(at_port(port, ALL_BUT_LISTEN | LISTEN).unwrap().is_empty());
    }

    #[test]
    fn truncated_messages_are_skipped() {
        let mut found = Vec::new();
        for bytes in [&[][..], &[1, 0, 0, 0], &[255; 40]] {
            let mut take = |message: &[u8]| found.extend(socket_of(message, 1));
            assert!(!read(bytes, &mut take).unwrap());
        }
        assert!(found.is_empty());
        assert_eq!(progress_of(&[0; MESSAGE + 3], 0), None);
    }
}
