//! A descriptor that tokio's reactor tells of once it is readable, where tokio has no type
//! of its own for it: an epoll set.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `descriptor`, registered with the reactor of the current runtime.
///
/// # Errors
/// The reactor takes no more descriptors, or cannot watch one of this kind.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same descriptor at every call, and it is open as
    // long as it is, which the `AsyncFd` owns.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
