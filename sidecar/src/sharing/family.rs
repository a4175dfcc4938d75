//! The address family of a socket.

/// Address family of the socket that the app made; ours must be the same, or
/// the app reads addresses with the wrong layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}
