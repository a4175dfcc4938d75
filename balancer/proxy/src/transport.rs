//! The bytes of a connection to a client or to an endpoint, whatever carries them.
//!
//! The operations on the sockets of connections are here, so that an exchange knows no socket.
//! Each operation matches the variant in place; plain TCP is not boxed. Where a connection
//! comes from is decided in `accept` and `connect`; the meaning of its bytes, by its protocol.

mod heard;
mod secured;
mod side;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use scaledapp_sys::unacknowledged;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp;

use self::heard::{Heard, heard};
pub(crate) use self::secured::Secured;
pub(crate) use self::side::Side;
use crate::http2::as_connection::AsConnection;
use crate::security::Session;

/// A connection, or a stream in the form of one.
#[derive(Debug)]
pub(crate) enum Transport {
    /// TCP without encryption.
    Plain(TcpStream),
    /// TCP with TLS on it.
    Secured(Box<Secured>),
    /// One stream of an HTTP/2 connection.
    Stream(Box<dyn AsConnection>),
}

impl Transport {
    /// Reads once; no bytes mean the end of the peer's side.
    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Secured(secured) => secured.poll_read(context, into),
            Self::Stream(stream) => {
                ready!(stream.poll_readable(context))?;
                let read = stream.try_read(into.initialize_unfilled())?;
                into.advance(read);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Ready when there is something to read, including the end.
    #[inline]
    pub(crate) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(context),
            // The bytes in the session have already been read from the socket, so only the
            // socket counts.
            Self::Secured(secured) => secured.socket.poll_read_ready(context),
            // A stream never rests.
            Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }

    /// Writes some of `bytes`. After `Pending` the next call must pass them again: a
    /// session may have taken them already.
    #[inline]
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secured(secured) => secured.poll_write(context, bytes, false),
            Self::Stream(stream) => stream.poll_write(context, bytes),
        }
    }

    /// As [`Self::poll_write`], from several pieces.
    pub(crate) fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Secured(secured) => secured.poll_write_vectored(context, pieces),
            Self::Stream(_) => {
                let first = pieces.iter().find(|piece| !piece.is_empty());
                self.poll_write(context, first.map_or(&[], |piece| &**piece))
            }
        }
    }

    /// Writes bytes that are followed immediately by the end of the proxy's side. The
    /// kernel holds the last segment back (`MSG_MORE`, send(2)) and sends it together with
    /// the FIN, which saves a packet for each connection on both hosts.
    #[inline]
    pub(crate) fn poll_write_last(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => loop {
                ready!(stream.poll_write_ready(context))?;
                let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
                let send = || Ok(send(&*stream, bytes, flags)?);
                match stream.try_io(Interest::WRITABLE, send) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    sent => return Poll::Ready(sent),
                }
            },
            Self::Secured(secured) => secured.poll_write(context, bytes, true),
            Self::Stream(stream) => stream.poll_write(context, bytes),
        }
    }

    /// Writes as much as a new connection accepts immediately. It does not wait for the
    /// reactor to report room, because the send buffer is empty. Nothing is written if the
    /// connection needs a TLS handshake first.
    pub(crate) fn send_now(&self, bytes: &[u8]) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match self {
            Self::Plain(stream) => {
                let _unheard = send(stream, bytes, flags);
            }
            Self::Secured(_) | Self::Stream(_) => {}
        }
    }

    /// Closes the proxy's side with an orderly close, at the pace of the peer.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_shutdown(context)).await
    }

    /// As [`Self::shutdown`].
    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secured(secured) => secured.poll_shutdown(context),
            Self::Stream(stream) => {
                stream.finish();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Closes the proxy's side immediately. If the peer has sent something that was not
    /// read, merely dropping the connection would send a reset instead of the bytes that
    /// the kernel holds back.
    pub(crate) fn finish(&mut self) {
        match self {
            Self::Plain(stream) => drop(SockRef::from(&*stream).shutdown(Shutdown::Write)),
            Self::Secured(secured) => secured.finish(),
            Self::Stream(stream) => stream.finish(),
        }
    }

    /// Sets whether the connection ends with a reset from now on, for whatever reason it
    /// ends (a linger time of zero).
    pub(crate) fn set_resets(&self, resets: bool) {
        let linger = resets.then_some(Duration::ZERO);
        if let Some(tcp) = self.tcp() {
            drop(SockRef::from(tcp).set_linger(linger));
        }
    }

    /// Limits the kernel's memory for what the peer sends.
    pub(crate) fn set_receive_bytes(&self, bytes: usize) {
        if let Some(tcp) = self.tcp() {
            // This fails only for a connection that is already over.
            let _ended = SockRef::from(tcp).set_recv_buffer_size(bytes);
        }
    }

    /// # Errors
    /// The connection is broken.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.local_addr(),
            Self::Secured(secured) => secured.socket.local_addr(),
            Self::Stream(stream) => match stream.about().map(|about| &about.local) {
                Some(Ok(address)) => Ok(*address),
                Some(Err(error)) => Err(error.kind().into()),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        }
    }

    /// # Errors
    /// The connection is broken.
    pub(crate) fn peer_address(&self) -> io::Result<SocketAddr> {
        self.tcp().map_or_else(
            || Err(io::ErrorKind::NotConnected.into()),
            TcpStream::peer_addr,
        )
    }

    /// Its socket, if the bytes that the kernel counts there are those that are read and
    /// written here.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Plain(stream) => Some(stream.as_fd()),
            Self::Secured(_) | Self::Stream(_) => None,
        }
    }

    /// What the reactor knows of the connection (`EPOLLRDHUP`). It costs no system call and
    /// wakes nothing.
    pub(crate) fn heard(&self) -> Heard {
        match self {
            Self::Plain(stream) => heard(stream),
            Self::Secured(secured) => heard(&secured.socket),
            Self::Stream(stream) => Heard {
                is_read_closed: false,
                is_broken: stream.is_broken(),
            },
        }
    }

    /// Whether there are bytes to read. The end of the peer's side does not count.
    pub(crate) fn has_bytes(&self) -> bool {
        self.tcp().is_some_and(|tcp| has_bytes(tcp.as_fd()))
    }

    /// Whether nothing has arrived, not even the end, as far as the reactor knows. The
    /// check is free, but its answer may be outdated.
    pub(crate) fn seems_silent(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        if self.poll_read_ready(&mut context).is_pending() {
            return true;
        }
        let read = match self {
            Self::Plain(stream) => stream.try_read(&mut [0]),
            Self::Secured(_) | Self::Stream(_) => return self.is_silent(),
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// As [`Self::seems_silent`], but by a system call, so that the answer is up to date.
    pub(crate) fn is_silent(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        self.tcp().is_some_and(|tcp| {
            let heard = recv(tcp, &mut [0; 1][..], flags);
            heard.is_err_and(|error| error == rustix::io::Errno::WOULDBLOCK)
        })
    }

    /// Both directions, to be used independently.
    pub(crate) fn split(&mut self) -> (Reading<'_>, Writing<'_>) {
        match self {
            Self::Plain(stream) => {
                let (reading, writing) = stream.split();
                (Reading::Plain(reading), Writing::Plain(writing))
            }
            Self::Secured(secured) => {
                let shared = Rc::new(RefCell::new(&mut **secured));
                (
                    Reading::Secured(Rc::clone(&shared)),
                    Writing::Secured(shared),
                )
            }
            Self::Stream(stream) => {
                let shared: Rc<RefCell<&mut dyn AsConnection>> =
                    Rc::new(RefCell::new(&mut **stream));
                (Reading::Stream(Rc::clone(&shared)), Writing::Stream(shared))
            }
        }
    }

    /// Whether its peer has not acknowledged all bytes that were written, so that a reset would
    /// destroy some of them.
    pub(crate) fn owes_bytes(&self) -> bool {
        let bytes = |tcp| unacknowledged::bytes(tcp).is_ok_and(|bytes| bytes > 0);
        self.tcp().is_some_and(bytes)
    }

    /// A shared handle; `None` for a stream of HTTP/2.
    pub(crate) fn side(&mut self) -> Option<Side<'_>> {
        match self {
            Self::Plain(stream) => Some(Side::Plain(stream)),
            Self::Secured(secured) => Some(Side::Secured(Rc::new(RefCell::new(secured)))),
            Self::Stream(_) => None,
        }
    }

    /// Takes the connection out of the reactor, so that it can be parked.
    ///
    /// # Errors
    /// The reactor does not know the connection.
    pub(crate) fn detach(self) -> io::Result<Detached> {
        match self {
            Self::Plain(stream) => Ok(Detached {
                socket: stream.into_std()?,
                session: None,
            }),
            Self::Secured(secured) => {
                let (socket, session) = secured.into_parts();
                Ok(Detached {
                    socket: socket.into_std()?,
                    session: Some(Box::new(Kept(session))),
                })
            }
            Self::Stream(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The TCP connection, if it belongs to this transport alone.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Secured(secured) => Some(&secured.socket),
            Self::Stream(_) => None,
        }
    }

    /// As [`Session::client_certificate`].
    pub(crate) fn client_certificate(&self) -> Option<&str> {
        match self {
            Self::Plain(_) => None,
            Self::Secured(secured) => secured.client_certificate(),
            Self::Stream(stream) => stream.about()?.client_certificate.as_deref(),
        }
    }

    /// The version of TLS, such as `TLSv1.3`; `None` without TLS or before its handshake.
    pub(crate) fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => None,
            Self::Secured(secured) => secured.settled().map(|settled| settled.version),
            Self::Stream(stream) => stream.about()?.tls_version,
        }
    }

    /// Whether it is a stream of an HTTP/2 connection.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// The answer is incomplete because a time-out has passed.
    pub(crate) fn is_late(&mut self) {
        if let Self::Stream(stream) = self {
            stream.is_late();
        }
    }

    /// Whether the peer has certainly not begun to execute the request on it, according to the
    /// peer itself.
    pub(crate) fn is_unprocessed(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Secured(_) => false,
            Self::Stream(stream) => stream.is_unprocessed(),
        }
    }

    /// Whether its bytes are encrypted.
    pub(crate) fn is_secured(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secured(_) => true,
            Self::Stream(stream) => stream.about().is_some_and(|about| about.is_secured),
        }
    }
}

fn has_bytes(socket: BorrowedFd<'_>) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(socket, &mut [0; 1][..], flags).is_ok_and(|(count, _)| count > 0)
}

/// A connection that no reactor watches: a descriptor and, if it is encrypted, its session.
/// A stream cannot be detached.
#[derive(Debug)]
pub(crate) struct Detached {
    socket: std::net::TcpStream,
    /// Boxed twice, so that a connection without a session takes less memory.
    session: Option<Box<Kept>>,
}

/// The session of a connection at rest.
#[derive(Debug)]
struct Kept(Box<dyn Session>);

impl Detached {
    /// As [`Transport::has_bytes`].
    pub(crate) fn has_bytes(&self) -> bool {
        has_bytes(self.socket.as_fd())
    }

    /// Puts the connection back into the reactor.
    ///
    /// # Errors
    /// There is no memory or descriptor for it.
    pub(crate) fn attach(self) -> io::Result<Transport> {
        let socket = TcpStream::from_std(self.socket)?;
        Ok(match self.session {
            None => Transport::Plain(socket),
            Some(kept) => Transport::Secured(Box::new(Secured::new(socket, kept.0))),
        })
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The direction from the peer.
#[derive(Debug)]
pub(crate) enum Reading<'a> {
    Plain(tcp::ReadHalf<'a>),
    Secured(Rc<RefCell<&'a mut Secured>>),
    Stream(Rc<RefCell<&'a mut dyn AsConnection>>),
}

impl Reading<'_> {
    /// Resolves when there may be something to read, including the end.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(half) => half.readable().await,
            Self::Secured(secured) => {
                poll_fn(|context| secured.borrow_mut().poll_readable(context)).await
            }
            Self::Stream(stream) => {
                poll_fn(|context| stream.borrow_mut().poll_readable(context)).await
            }
        }
    }

    /// Reads what has arrived; 0 is the end.
    pub(crate) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.try_read(into),
            Self::Secured(secured) => secured.borrow_mut().read(into),
            Self::Stream(stream) => stream.borrow_mut().try_read(into),
        }
    }
}

/// The direction to the peer.
#[derive(Debug)]
pub(crate) enum Writing<'a> {
    Plain(tcp::WriteHalf<'a>),
    Secured(Rc<RefCell<&'a mut Secured>>),
    Stream(Rc<RefCell<&'a mut dyn AsConnection>>),
}

impl AsyncWrite for Writing<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write(context, bytes),
            Self::Secured(secured) => secured.borrow_mut().poll_write(context, bytes, false),
            Self::Stream(stream) => stream.borrow_mut().poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_flush(context),
            Self::Secured(secured) => secured.borrow_mut().poll_flush(context),
            Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_shutdown(context),
            Self::Secured(secured) => secured.borrow_mut().poll_shutdown(context),
            Self::Stream(stream) => {
                stream.borrow_mut().finish();
                Poll::Ready(Ok(()))
            }
        }
    }
}
