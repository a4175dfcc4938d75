//! Waits for a descriptor to hang up (poll(2)), and for nothing else: data that becomes
//! readable or space that becomes writable does not wake the task.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Resolves when `descriptor` has hung up, immediately if it already has. A listening
/// socket hangs up when it is shut down, a connection when it is over.
///
/// # Errors
/// The reactor of the current runtime takes no more descriptors.
pub async fn hung_up(descriptor: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` returns the same descriptor at every call and stays open for as
    // long as it exists, and the `AsyncFd` owns it and never gives it away.
    let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::PRIORITY) }?;
    loop {
        let mut ready = descriptor.ready(Interest::PRIORITY).await?;
        if ready.ready().is_read_closed() {
            return Ok(());
        }
        // The event was urgent data of a connection.
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    #[tokio::test]
    async fn a_listener_hangs_up_when_it_is_shut_down_and_not_before() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = socket2::Socket::from(listener.try_clone().unwrap());
        let hung_up = || hung_up(listener.try_clone().unwrap().into());
        let moment = Duration::from_millis(50);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(tokio::time::timeout(moment, hung_up()).await.is_err());
        for _ in 0..2 {
            socket.shutdown(Shutdown::Both).unwrap();
            hung_up().await.unwrap();
            socket.listen(9).unwrap();
            assert!(tokio::time::timeout(moment, hung_up()).await.is_err());
        }
    }
}
