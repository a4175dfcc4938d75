//! Notices immediately when a worker has shut down a socket that all workers share: polling
//! a listening socket then reports a hang-up (`tcp_poll`). `group` decides what is done
//! about it.

use std::io;
use std::rc::Rc;

use scaledapp_sys::hangup::hung_up;
use socket2::Socket;

/// A shared socket that is not watched yet.
#[derive(Debug)]
pub(super) struct Unwatched {
    pub(super) inode: u64,
    pub(super) socket: Rc<Socket>,
}

impl Unwatched {
    /// Calls `mend` with the socket's inode each time the socket was shut down, until `mend`
    /// returns that the socket is no longer shared.
    pub(super) async fn watch(self, mend: impl Fn(u64) -> bool) {
        loop {
            if let Err(error) = self.hung_up().await {
                // The supervisor also checks all shared sockets whenever it measures workers.
                tracing::debug!(%error, "a shared socket cannot be watched");
                return;
            }
            if !mend(self.inode) {
                return;
            }
        }
    }

    async fn hung_up(&self) -> io::Result<()> {
        hung_up(self.socket.try_clone()?.into()).await
    }
}
