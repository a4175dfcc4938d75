//! An encrypted connection: its socket and the TLS session on it.
//!
//! Decides when bytes move between the two. What they mean is decided by the session; how
//! long anything may take, by the caller.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use rustix::net::{SendFlags, send};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::security::{Session, SessionError, Settled};

/// How many plain bytes are encrypted and written at a time: two records.
const WRITE_BYTES: usize = 32 << 10;

/// A socket with a TLS session on it.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(super) socket: TcpStream,
    session: Box<dyn Session>,
    /// Plain bytes of the current write that the session has taken. They count as written
    /// once the kernel has all that the session made of them.
    taken: usize,
    /// The end of the server's side has been announced.
    has_ended: bool,
}

/// The socket in the form that a session reads and writes: an operation that would have to
/// wait is an error.
struct Direct<'a, 'b> {
    socket: &'a mut TcpStream,
    context: &'a mut Context<'b>,
}

fn or_would_block<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl io::Read for Direct<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut into = ReadBuf::new(into);
        let read = Pin::new(&mut *self.socket).poll_read(self.context, &mut into);
        or_would_block(read).map(|()| into.filled().len())
    }
}

impl io::Write for Direct<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.socket).poll_write(self.context, bytes))
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.socket).poll_write_vectored(self.context, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Secured {
    pub(crate) fn new(socket: TcpStream, session: Box<dyn Session>) -> Self {
        Self {
            socket,
            session,
            taken: 0,
            has_ended: false,
        }
    }

    /// The socket and the session.
    pub(super) fn into_parts(self) -> (TcpStream, Box<dyn Session>) {
        (self.socket, self.session)
    }

    /// What the handshake has settled; `None` while it goes on.
    pub(crate) fn settled(&self) -> Option<Settled> {
        self.session.settled()
    }

    /// As [`Session::client_certificate`].
    pub(crate) fn client_certificate(&self) -> Option<&str> {
        self.session.client_certificate()
    }

    /// Writes to a client that does not speak TLS, as much as the socket takes immediately.
    pub(crate) fn send_in_clear(&mut self, bytes: &[u8]) {
        self.has_ended = true;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _unheard = send(&self.socket, bytes, flags);
    }

    /// Reads once what the peer has sent, for [`Self::process`]; 0 is the end of the peer's
    /// side.
    pub(crate) fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut direct = Direct {
            socket: &mut self.socket,
            context,
        };
        match self.session.read_tls(&mut direct) {
            Err(error) if would_block(&error) => Poll::Pending,
            read => Poll::Ready(read),
        }
    }

    /// Processes what was read.
    pub(crate) fn process(&mut self) -> Result<(), SessionError> {
        self.session.process()
    }

    /// Writes everything that waits to be sent.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut direct = Direct {
                socket: &mut self.socket,
                context,
            };
            match self.session.write_tls(&mut direct) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if would_block(&error) => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when [`Self::read`] has something to return.
    pub(super) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.session.available() {
            Err(error) if would_block(&error) => {}
            _ => return Poll::Ready(Ok(())),
        }
        self.poll_more(context)
    }

    /// Reads once from the socket. Afterwards there may be plain bytes, or the end.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An answer to a handshake message, such as a change of keys, may have to be
        // written.
        if let Poll::Ready(Err(error)) = self.poll_flush(context) {
            return Poll::Ready(Err(error));
        }
        ready!(self.poll_take(context))?;
        if let Err(error) = self.session.process() {
            // The alert tells the peer why. It makes no difference whether the peer
            // receives it.
            let _told = self.poll_flush(context);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads plain bytes that have been decrypted; 0 is the end of the peer's side.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.session.read(into)
    }

    /// As [`super::Transport::poll_read`]. An end that the peer did not announce counts as
    /// an end, too: an HTTP message itself says where it ends.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.session.read(into.initialize_unfilled()) {
                Ok(read) => {
                    into.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(()));
                }
                Err(error) if !would_block(&error) => return Poll::Ready(Err(error)),
                Err(_) => ready!(self.poll_more(context))?,
            }
        }
    }

    /// As [`super::Transport::poll_write`]. After `Pending` the next call must pass the
    /// same bytes again, and may append more.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        is_last: bool,
    ) -> Poll<io::Result<usize>> {
        if self.taken == 0 && !bytes.is_empty() {
            let piece = &bytes[..bytes.len().min(WRITE_BYTES)];
            self.taken = self.session.write(piece)?;
            if is_last && self.taken == bytes.len() {
                self.end();
            }
        }
        ready!(self.poll_flush(context))?;
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    /// As [`super::Transport::poll_write_vectored`].
    pub(super) fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.taken == 0 {
            for piece in pieces {
                let room = WRITE_BYTES - self.taken;
                let piece = &piece[..piece.len().min(room)];
                self.taken += self.session.write(piece)?;
            }
        }
        ready!(self.poll_flush(context))?;
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    /// As [`super::Transport::shutdown`].
    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        ready!(self.poll_flush(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    /// As [`super::Transport::finish`].
    pub(super) fn finish(&mut self) {
        self.end();
        let _told = self.poll_flush(&mut Context::from_waker(Waker::noop()));
        drop(SockRef::from(&self.socket).shutdown(std::net::Shutdown::Write));
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.session.send_end();
        }
    }
}
