//! Reports TCP sockets that the kernel has just destroyed, with the numbers of bytes that were not
//! read and not acknowledged (`sock_diag(7)`, the group `SKNLGRP_INET_TCP_DESTROY`, Linux 4.3).
//! After `close` there is no other source: a reset says that something was left unread, but not how
//! much. No privilege is needed within one's own network namespace.
//!
//! While a [`Watch`] exists, the end of each TCP socket of the namespace costs the kernel a message
//! (a few microseconds on one of its own threads). So a `Watch` should exist only while its reports
//! are needed.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use socket2::{SockFilter, SockRef};

use crate::sockets::{BY_FAMILY, HEADER, MESSAGE, REQUEST, TCP, counted, number, read};

/// A destroyed socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destroyed {
    /// The kernel's identifier of the socket, never used twice.
    pub cookie: u64,
    /// Whether the socket had been disconnected before: either it had not been accepted
    /// when its listener closed, or its process resets its connections (`SO_LINGER` with a
    /// time of 0). In both cases all counts are 0.
    pub is_disconnected: bool,
    /// Bytes that its process had read.
    pub read: u64,
    /// Bytes that had arrived and were not read.
    pub unread: u32,
    /// Bytes that its process had sent and that the peer's kernel had not acknowledged.
    pub unacknowledged: u32,
}

/// Receives reports about sockets that were destroyed with unread or unacknowledged bytes, and
/// about disconnected sockets. The kernel filters out all other reports, including those with a
/// count of one, which usually is a FIN.
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
    /// The reports of the last datagram that have not been returned yet.
    heard: VecDeque<Destroyed>,
}

/// The groups for destroyed TCP sockets over IPv4 (group 1) and IPv6 (group 3), one bit each, with
/// group 1 in bit 0 (`linux/sock_diag.h`).
const TCP_DESTROYED: u32 = 1 << 0 | 1 << 2;

impl Watch {
    /// Subscribes to the kernel's reports.
    ///
    /// # Errors
    /// The kernel or a sandbox does not allow it.
    pub fn begin() -> io::Result<Self> {
        let socket = open()?;
        SockRef::from(&socket).attach_filter(&filter())?;
        bind(&socket, &SocketAddrNetlink::new(0, TCP_DESTROYED))?;
        Ok(Self {
            socket,
            heard: VecDeque::new(),
        })
    }
}

impl Iterator for Watch {
    type Item = Destroyed;

    /// The next report, if there is one; never blocks.
    fn next(&mut self) -> Option<Destroyed> {
        let mut buffer = [0_u8; 4096];
        while self.heard.is_empty() {
            let length = match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                // The socket's buffer overflowed: some messages are lost, but others are
                // still there.
                Err(Errno::NOBUFS | Errno::INTR) => continue,
                Err(_) => return None,
            };
            let mut take = |message: &[u8]| self.heard.extend(destroyed(message));
            // An error message would answer a request, and none was sent.
            let _nobodys = read(&buffer[..length], &mut take);
        }
        self.heard.pop_front()
    }
}

/// Asks the kernel for the cookies of sockets.
#[derive(Debug)]
pub struct Cookies(OwnedFd);

impl Cookies {
    /// Opens the netlink socket.
    ///
    /// # Errors
    /// The kernel or a sandbox does not allow it.
    pub fn open() -> io::Result<Self> {
        Ok(Self(open()?))
    }

    /// The cookie of the connected socket at `local` whose peer is `peer`, in this network
    /// namespace, whether it was accepted or not.
    ///
    /// # Errors
    /// There is no such socket, or the kernel does not answer.
    pub fn of(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<u64> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.0, &one(local, peer), SendFlags::empty(), &kernel)?;
        let mut buffer = [0_u8; 4096];
        let (length, _) = recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT)?;
        let mut found = None;
        // If there is no such connection, the kernel answers with the socket that listens
        // there.
        let mut take = |message: &[u8]| {
            found = (peer_port(message) == Some(peer.port()))
                .then(|| cookie(message))
                .flatten();
        };
        read(&buffer[..length], &mut take)?;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn open() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(family, kind, flags, Some(SOCK_DIAG))?)
}

/// The cookie of a socket of this process. Its peer's socket has another cookie.
///
/// # Errors
/// The descriptor is not a socket.
pub fn own_cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::net::sockopt::socket_cookie(socket)?)
}

/// A `struct inet_diag_req_v2` that asks for one socket (see `sockets`).
fn one(local: SocketAddr, peer: SocketAddr) -> [u8; HEADER + REQUEST] {
    /// `NLM_F_REQUEST`
    const REQUEST_ONE: u16 = 0x1;
    let mut bytes = [0; HEADER + REQUEST];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    let family = if local.is_ipv4() { 2 } else { 10 };
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &REQUEST_ONE.to_ne_bytes());
    put(16, &[family, TCP]);
    put(20, &u32::MAX.to_ne_bytes());
    put(24, &local.port().to_be_bytes());
    put(26, &peer.port().to_be_bytes());
    for (at, address) in [(28, local), (44, peer)] {
        match address.ip() {
            IpAddr::V4(ip) => put(at, &ip.octets()),
            IpAddr::V6(ip) => put(at, &ip.octets()),
        }
    }
    // `INET_DIAG_NOCOOKIE`. The interface before it remains 0, which means any.
    put(64, &[0xff; 8]);
    bytes
}

fn peer_port(message: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(6..8)?.try_into().ok()?))
}

fn cookie(message: &[u8]) -> Option<u64> {
    // The cookie consists of two words, the lower one first.
    let [low, high] = [44, 48].map(|at| number(message, at).map(u64::from));
    Some(low? | high? << 32)
}

/// Reads a `struct inet_diag_msg`, whose layout is described in `sockets`.
fn destroyed(message: &[u8]) -> Option<Destroyed> {
    let (unread, unacknowledged) = (number(message, 56)?, number(message, 60)?);
    let is_disconnected = peer_port(message)? == 0;
    let received = counted(message.get(MESSAGE..)?)?.received;
    Some(Destroyed {
        cookie: cookie(message)?,
        is_disconnected,
        read: received.saturating_sub(u64::from(unread)),
        unread,
        unacknowledged,
    })
}

/// Accepts messages with unread or unacknowledged bytes, or without a peer. A FIN counts as
/// one byte, so a count of one means none.
fn filter() -> [SockFilter; 10] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let at = |offset: usize| (HEADER + offset) as u32;
    // BPF loads read the bytes as big-endian numbers.
    let one = 1_u32.to_be();
    [
        SockFilter::new(LOAD_WORD, 0, 0, at(56)),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, 0),
        SockFilter::new(JUMP_IF_EQUAL, 0, 6, one),
        SockFilter::new(LOAD_WORD, 0, 0, at(60)),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, 0),
        SockFilter::new(JUMP_IF_EQUAL, 0, 3, one),
        SockFilter::new(LOAD_HALF, 0, 0, at(6)),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, 0),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    struct Pair {
        listener: TcpListener,
        client: TcpStream,
        /// The cookies of the client's and the server's socket.
        ours: u64,
        theirs: u64,
    }

    fn pair(host: &str) -> Option<Pair> {
        let listener = TcpListener::bind((host, 0)).ok()?;
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let cookies = Cookies::open().unwrap();
        let [local, peer] = [client.peer_addr(), client.local_addr()].map(Result::unwrap);
        let theirs = cookies.of(local, peer).unwrap();
        Some(Pair {
            ours: own_cookie(&client).unwrap(),
            theirs,
            listener,
            client,
        })
    }

    /// The report about a socket; `None` if there is none within two seconds.
    fn report_of(watch: &mut Watch, cookie: u64) -> Option<Destroyed> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            if let Some(told) = watch.find(|told| told.cookie == cookie) {
                return Some(told);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    #[test]
    fn unread_bytes_are_reported_exactly() {
        for host in ["127.0.0.1", "::1"] {
            let Some(mut pair) = pair(host) else {
                continue;
            };
            let mut watch = Watch::begin().unwrap();
            let (mut server, _) = pair.listener.accept().unwrap();
            pair.client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            server.read_exact(&mut [0; 4]).unwrap();
            drop(server);
            let told = report_of(&mut watch, pair.theirs).unwrap();
            assert_eq!((told.read, told.unread), (4, 12));
            assert!(!told.is_disconnected);
        }
    }

    #[test]
    fn a_connection_that_was_not_accepted_counts_as_disconnected() {
        let Pair {
            listener,
            mut client,
            theirs,
            ..
        } = pair("127.0.0.1").unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let mut watch = Watch::begin().unwrap();
        drop(listener);
        let told = report_of(&mut watch, theirs).unwrap();
        assert!(told.is_disconnected);
        assert_eq!((told.read, told.unread), (0, 0));
    }

    /// This case is the reason why the supervisor has to know about `SO_LINGER`.
    #[test]
    fn a_connection_that_its_process_resets_also_counts_as_disconnected() {
        let mut pair = pair("127.0.0.1").unwrap();
        let mut watch = Watch::begin().unwrap();
        let (mut server, _) = pair.listener.accept().unwrap();
        SockRef::from(&server)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        pair.client.write_all(b"GET").unwrap();
        server.read_exact(&mut [0; 3]).unwrap();
        drop(server);
        let told = report_of(&mut watch, pair.theirs).unwrap();
        assert!(told.is_disconnected);
    }

    #[test]
    fn bytes_after_an_orderly_close_are_never_acknowledged() {
        let mut pair = pair("127.0.0.1").unwrap();
        let mut watch = Watch::begin().unwrap();
        drop(pair.listener.accept().unwrap());
        pair.client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(pair.client.read(&mut [0; 9]).unwrap(), 0);
        drop(pair.client);
        assert_eq!(report_of(&mut watch, pair.ours).unwrap().unacknowledged, 16);
    }

    #[test]
    fn orderly_ends_of_connections_are_not_reported() {
        let mut pair = pair("127.0.0.1").unwrap();
        let watch = Watch::begin().unwrap();
        let (mut server, _) = pair.listener.accept().unwrap();
        pair.client.write_all(b"GET").unwrap();
        pair.client.shutdown(Shutdown::Write).unwrap();
        server.read_to_end(&mut Vec::new()).unwrap();
        server.write_all(b"answer").unwrap();
        drop(server);
        pair.client.read_to_end(&mut Vec::new()).unwrap();
        drop(pair.client);
        std::thread::sleep(Duration::from_millis(100));
        let mut all = watch.filter(|told| [pair.ours, pair.theirs].contains(&told.cookie));
        assert_eq!(all.next(), None);
    }

    #[test]
    fn a_connection_that_does_not_exist_has_no_cookie() {
        let pair = pair("127.0.0.1").unwrap();
        let listens = pair.listener.local_addr().unwrap();
        let cookies = Cookies::open().unwrap();
        let nobody = SocketAddr::new(listens.ip(), 1);
        assert!(cookies.of(listens, nobody).is_err(), "the listener's own");
        assert!(cookies.of(nobody, listens).is_err());
        let client = pair.client.local_addr().unwrap();
        assert_eq!(cookies.of(listens, client).unwrap(), pair.theirs);
    }
}
