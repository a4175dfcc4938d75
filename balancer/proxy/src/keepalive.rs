//! Finds peers that have vanished without closing their connection. While a stream only waits for
//! events, the proxy sends nothing whose loss it could notice.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// After this much silence the kernel probes whether the peer is still there. The probes
/// also keep proxies and NAT boxes from forgetting the connection, which they do after some
/// minutes.
const PROBE_IDLE: Duration = Duration::from_mins(1);
/// How often an unanswered probe is repeated.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// The shortest timeout: one or two retransmissions must fit into it.
const MIN_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest timeout: about as long as the kernel itself waits for an acknowledgement
/// (`tcp_retries2`).
const MAX_TIMEOUT: Duration = Duration::from_mins(15);

/// Enables probes for a connection, or for all connections that a listener accepts:
/// accepted connections inherit the options, which saves the system calls for each of them.
///
/// `TCP_USER_TIMEOUT` (tcp(7)) also ends connections whose peer keeps its window closed for
/// that long. So it is at least `stall_time`, which allows such a pause. It is not set if
/// `stall_time` is longer than [`MAX_TIMEOUT`].
///
/// # Errors
/// As setsockopt(2).
pub(crate) fn set(socket: &SockRef<'_>, stall_time: Duration) -> io::Result<()> {
    let keep_alive = TcpKeepalive::new()
        .with_time(PROBE_IDLE)
        .with_interval(PROBE_INTERVAL);
    socket.set_tcp_keepalive(&keep_alive)?;
    if stall_time <= MAX_TIMEOUT {
        socket.set_tcp_user_timeout(Some(stall_time.max(MIN_TIMEOUT)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn accepted_connections_inherit_the_options() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set(&SockRef::from(&listener), Duration::from_mins(5)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), PROBE_IDLE);
        let timeout = accepted.tcp_user_timeout().unwrap();
        assert_eq!(timeout, Some(Duration::from_mins(5)));
    }

    #[test]
    fn a_short_stall_time_does_not_give_up_connections_over_a_lossy_network() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = SockRef::from(&listener);
        set(&SockRef::from(&listener), Duration::from_millis(1)).unwrap();
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(MIN_TIMEOUT));
        let long = TcpListener::bind("127.0.0.1:0").unwrap();
        set(&SockRef::from(&long), Duration::from_hours(1)).unwrap();
        let timeout = SockRef::from(&long).tcp_user_timeout().unwrap();
        assert!(timeout.is_none_or(|timeout| timeout.is_zero()));
    }
}
