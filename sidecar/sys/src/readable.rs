//! Readiness of a descriptor for which tokio has no type of its own: an epoll set.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `descriptor` with the reactor of the current runtime.
///
/// # Errors
/// The reactor takes no more descriptors, or cannot watch one of this kind.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` returns the same descriptor at every call and stays open for as
    // long as it exists, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
