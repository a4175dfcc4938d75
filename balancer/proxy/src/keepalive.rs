//! Finds peers that have vanished without closing: a stream that waits for events sends
//! nothing whose loss could be noticed.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// After so much silence the kernel asks a peer whether it is there. The question also
/// keeps proxies and NAT boxes from forgetting the connection, as they do after minutes.
const PROBE_IDLE: Duration = Duration::from_mins(1);
/// How often a question without an answer is repeated.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// The shortest time-out: a retransmission or two must fit in.
const MIN_TIMEOUT: Duration = Duration::from_mins(1);
/// About as long as the kernel waits for an acknowledgement by itself (`tcp_retries2`).
const MAX_TIMEOUT: Duration = Duration::from_mins(15);

/// Sets it for a connection, or for all that a listener accepts: those inherit it, so it
/// costs no system call for each.
///
/// `TCP_USER_TIMEOUT` (tcp(7)) also ends connections whose peer keeps its window shut
/// for so long, so it is not less than `stall_time`, which allows that.
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
    fn accepted_connections_inherit_it() {
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
    fn a_short_stall_is_no_reason_to_give_up_a_lossy_network() {
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
