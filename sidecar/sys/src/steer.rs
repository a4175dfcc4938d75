//! Steering of a `SO_REUSEPORT` group, and the length of an accept queue.
//!
//! The caller decides which socket gets the connections. The kernel numbers the sockets of a group
//! in the order of their `listen` calls. When a socket leaves the group, the last one takes its
//! number (`net/core/sock_reuseport.c`).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// Sends every new connection of the group of `socket` to its member `index`.
///
/// This is a classic BPF program of one instruction (`SO_ATTACH_REUSEPORT_CBPF`,
/// socket(7)). It needs no privilege and atomically replaces the previous program.
pub fn steer_group(socket: impl AsFd, index: u32) -> io::Result<()> {
    let mut instruction = libc::sock_filter {
        code: 0x06, // BPF_RET | BPF_K
        jt: 0,
        jf: 0,
        k: index,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut instruction,
    };
    // SAFETY: `program` and the instruction live until the call has returned;
    // the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many connections wait to be accepted on a listening socket. `tcpi_unacked` of a
/// listener is the length of its accept queue (net/ipv4/tcp.c `tcp_get_info`).
pub fn accept_queue(socket: impl AsFd) -> io::Result<u32> {
    // The start of struct tcp_info: 8 one-byte fields, then u32 fields of which the fifth
    // is tcpi_unacked. The struct only ever grows at its end.
    let mut info = [0_u32; 16];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(info[2 + 4])
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_accept_queue_counts_connections_that_are_not_accepted_yet() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(accept_queue(&listener).unwrap(), 0);
        let _first = TcpStream::connect(address).unwrap();
        let _second = TcpStream::connect(address).unwrap();
        assert_eq!(accept_queue(&listener).unwrap(), 2);
        listener.accept().unwrap();
        assert_eq!(accept_queue(&listener).unwrap(), 1);
    }

    #[test]
    fn a_group_sends_every_connection_to_the_chosen_member() {
        let make = |port: u16| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            socket.bind(&address.into()).unwrap();
            socket.listen(64).unwrap();
            TcpListener::from(socket)
        };
        let first = make(0);
        let address = first.local_addr().unwrap();
        let second = make(address.port());
        for (index, chosen, other) in [(0, &first, &second), (1, &second, &first)] {
            steer_group(&first, index).unwrap();
            let before = accept_queue(other).unwrap();
            let held: Vec<_> = (0..20)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            assert_eq!(accept_queue(other).unwrap(), before);
            assert_eq!(accept_queue(chosen).unwrap() as usize, held.len());
        }
    }
}
