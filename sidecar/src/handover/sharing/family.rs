//! The address family of a socket.

/// The address family of the app's socket. The socket that replaces it must have the same family,
/// because otherwise the app would read addresses in the wrong layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}
