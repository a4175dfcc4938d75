//! What the proxy needs from a TLS library: sessions that own no sockets.
//!
//! The owner of a listener decides which library, certificates and versions of TLS are used.
//! So the supervisor, which links this crate, links no TLS library.

use std::fmt;
use std::io;

/// The TLS of a listener.
pub trait Security: fmt::Debug + Send + Sync {
    /// A session for a connection that was just accepted.
    ///
    /// # Errors
    /// There is no certificate, or no memory.
    fn session(&self) -> io::Result<Box<dyn Session>>;
}

/// Why a session has ended although its peer has not announced an end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The first bytes are not TLS. Nothing has been answered.
    #[error("the client does not speak TLS")]
    NotTls,
    /// Any other error, as the library describes it. An alert waits to be written.
    #[error("{0}")]
    Failed(String),
}

/// How a handshake went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// Keys were exchanged, and certificates presented.
    Full,
    /// As [`Self::Full`], but the client had to send another key share first, which takes a
    /// round trip.
    Retried,
    /// An earlier session continues.
    Resumed,
}

/// What a handshake has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// How it went.
    pub handshake: Handshake,
    /// HTTP/2 was negotiated (ALPN `h2`, RFC 9113 section 3.2).
    pub is_http2: bool,
    /// The version, as nginx names it: `TLSv1.3`.
    pub version: &'static str,
}

/// The server's side of one session. Its owner moves its bytes from and to the socket.
pub trait Session: fmt::Debug {
    /// Reads once what the peer has sent; 0 is the end of its side.
    ///
    /// # Errors
    /// Those of `socket`. Also an error if bytes that were read before must be used first.
    fn read_tls(&mut self, socket: &mut dyn io::Read) -> io::Result<usize>;

    /// Processes what was read. A step of the handshake takes a fraction of a millisecond.
    ///
    /// # Errors
    /// The session is over.
    fn process(&mut self) -> Result<(), SessionError>;

    /// Whether something waits to be written to the socket.
    fn wants_write(&self) -> bool;

    /// Writes once a part of what waits.
    ///
    /// # Errors
    /// Those of `socket`.
    fn write_tls(&mut self, socket: &mut dyn io::Write) -> io::Result<usize>;

    /// How many plain bytes of the peer can be read now; 0 means that the peer has
    /// announced its end.
    ///
    /// # Errors
    /// As [`Session::read`].
    fn available(&mut self) -> io::Result<usize>;

    /// Reads plain bytes of the peer; 0 means that the peer has announced its end.
    ///
    /// # Errors
    /// `WouldBlock`: there are none now. `UnexpectedEof`: the connection has ended without
    /// an announcement by the peer, so it may have been cut.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Takes plain bytes, as many as it has room for.
    ///
    /// # Errors
    /// The session is over.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Announces the end of the server's side (`close_notify`).
    fn send_end(&mut self);

    /// What the handshake has settled; `None` while it goes on.
    fn settled(&self) -> Option<Settled>;

    /// The certificate that the client has presented and that was accepted, as the value of
    /// `Client-Cert` (RFC 9440 section 2.2).
    fn client_certificate(&self) -> Option<&str>;
}
