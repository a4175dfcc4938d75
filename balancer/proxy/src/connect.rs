//! Opens a new connection to an endpoint, or returns why there is none.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;

use tokio::net::TcpStream;

use crate::clock::Deadline;
use crate::config::Limits;
use crate::keepalive;
use crate::transport::Transport;

/// Connects within [`Limits::connect_time`].
///
/// # Errors
/// As connect(2); `TimedOut` if the time has passed.
pub(crate) async fn connect(
    address: SocketAddr,
    deadline: &Deadline,
    limits: &Limits,
) -> io::Result<Transport> {
    deadline.set(limits.connect_time);
    let mut connecting = pin!(TcpStream::connect(address));
    let stream = poll_fn(|context| {
        if let Poll::Ready(result) = connecting.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        deadline
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    })
    .await?;
    stream.set_nodelay(true)?;
    // A process on this machine does not vanish without closing its connections.
    if !address.ip().is_loopback() {
        keepalive::set(&socket2::SockRef::from(&stream), limits.stall_time)?;
    }
    Ok(Transport::Plain(stream))
}

/// Whether an error comes from this machine and says nothing about the endpoint.
pub(crate) fn is_ours(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || matches!(
            error
                .raw_os_error()
                .map(rustix::io::Errno::from_raw_os_error),
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOBUFS)
        )
}
