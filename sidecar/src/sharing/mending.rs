//! Notices at once that a worker has shut down a socket that all share: a poll of a
//! listening socket tells of that as of a hang-up (`tcp_poll`). What is done about it is in `group`.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use scaledapp_sys::hangup::hung_up;
use socket2::Socket;

use super::Sharing;

/// A shared socket that nobody watches yet.
#[derive(Debug)]
pub(super) struct Unwatched {
    pub(super) inode: u64,
    pub(super) socket: Rc<Socket>,
}

/// Watches shared sockets that are new, each until it is given up.
pub(crate) fn watch_new(sharing: &Rc<RefCell<Sharing>>) {
    let new = std::mem::take(&mut sharing.borrow_mut().unwatched);
    for Unwatched { inode, socket } in new {
        let sharing = Rc::clone(sharing);
        tokio::task::spawn_local(async move {
            if let Err(error) = watch(inode, &socket, &sharing).await {
                // It is looked at now and then, too.
                tracing::debug!(%error, "a shared socket cannot be watched");
            }
        });
    }
}

async fn watch(inode: u64, socket: &Socket, sharing: &RefCell<Sharing>) -> io::Result<()> {
    loop {
        hung_up(socket.try_clone()?.into()).await?;
        let mut sharing = sharing.borrow_mut();
        sharing.mend();
        if !sharing.has(inode) {
            return Ok(());
        }
    }
}
