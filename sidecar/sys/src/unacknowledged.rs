//! How many bytes of a TCP connection the peer has not acknowledged.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The bytes that were written to `socket` and that its peer has not acknowledged, whether they
/// were sent or not (`SIOCOUTQ`, tcp(7)). A reset would destroy them.
///
/// # Errors
/// `socket` is not a connected TCP socket.
pub fn bytes(socket: impl AsFd) -> io::Result<u32> {
    let mut count: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes one int to `count`, which is live and exclusively borrowed; the
    // descriptor is open while `socket` is borrowed.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, std::ptr::from_mut(&mut count)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn bytes_count_until_the_peer_has_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        assert_eq!(bytes(&client).unwrap(), 0);
        client.set_nonblocking(true).unwrap();
        while client.write(&vec![0; 64 << 10]).is_ok() {}
        assert!(bytes(&client).unwrap() > 0);
        drop(client.shutdown(std::net::Shutdown::Write));
        server.read_to_end(&mut Vec::new()).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // The FIN counts as well, until it is acknowledged.
        while bytes(&client).unwrap() > 0 {
            assert!(std::time::Instant::now() < end);
        }
    }
}
