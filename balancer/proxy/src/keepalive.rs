//! Finds peers that have vanished without a word: a stream that waits for events sends
//! nothing whose loss could be noticed.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Silence after which the kernel asks a peer whether it is there. Proxies and NAT
/// boxes forget connections after some minutes; being asked they do not.
const IDLE: Duration = Duration::from_mins(1);
/// Between two questions without an answer.
const INTERVAL: Duration = Duration::from_secs(15);
/// A retransmission or two must fit in.
const LEAST: Duration = Duration::from_mins(1);
/// About what the kernel waits for an acknowledgement by itself (`tcp_retries2`).
const MOST: Duration = Duration::from_mins(15);

/// Sets it for a connection, or for all that a listener accepts: they inherit it, which
/// costs no system call for each.
///
/// `TCP_USER_TIMEOUT` (tcp(7)) also ends connections whose peer keeps its window shut
/// for so long, so it is not less than `stall_time`, which allows that.
///
/// # Errors
/// As setsockopt(2).
pub(crate) fn set(socket: &SockRef<'_>, stall_time: Duration) -> io::Result<()> {
    let keep_alive = TcpKeepalive::new().with_time(IDLE).with_interval(INTERVAL);
    socket.set_tcp_keepalive(&keep_alive)?;
    if stall_time <= MOST {
        socket.set_tcp_user_timeout(Some(stall_time.max(LEAST)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn accepted_connections_inherit_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set(&SockRef::from(&listener), Duration::from_mins(5)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), IDLE);
        let timeout = accepted.tcp_user_timeout().unwrap();
        assert_eq!(timeout, Some(Duration::from_mins(5)));
    }

    #[test]
    fn a_short_stall_is_no_reason_to_give_up_a_lossy_network() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = SockRef::from(&listener);
        set(&SockRef::from(&listener), Duration::from_millis(1)).unwrap();
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(LEAST));
        let long = TcpListener::bind("127.0.0.1:0").unwrap();
        set(&SockRef::from(&long), Duration::from_hours(1)).unwrap();
        let timeout = SockRef::from(&long).tcp_user_timeout().unwrap();
        assert!(timeout.is_none_or(|timeout| timeout.is_zero()));
    }
}
