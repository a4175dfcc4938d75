//! The bytes of a connection, to a client or to an endpoint, whatever carries them.
//!
//! All that the proxy does with a socket stands here, so that an exchange knows no
//! socket. Each operation matches the variant in place: nothing is boxed, and with one
//! variant nothing is decided at run time. Where a connection comes from is decided in
//! `accept` and `connect`; what its bytes mean, by its protocol.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp;

/// See the module.
#[derive(Debug)]
pub(crate) enum Transport {
    /// TCP without encryption.
    Plain(TcpStream),
}

/// What the reactor has heard of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The peer has closed its side.
    pub(crate) is_read_closed: bool,
    /// The connection is broken.
    pub(crate) is_broken: bool,
}

impl Transport {
    /// Reads once; nothing is the end of the peer's side.
    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
        }
    }

    /// Ready when there is something to read, be it the end.
    #[inline]
    pub(crate) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(context),
        }
    }

    /// Writes some of `bytes`.
    #[inline]
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    /// Writes what the end of our side follows at once: the kernel holds the last segment
    /// back (`MSG_MORE`, send(2)) and sends it together with the FIN. That saves both
    /// hosts a packet for each connection.
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
        }
    }

    /// Writes what a new connection takes at once, and does not wait to hear that there
    /// is room: its send buffer is empty.
    pub(crate) fn send_now(&self, bytes: &[u8]) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match self {
            Self::Plain(stream) => {
                let _unheard = send(stream, bytes, flags);
            }
        }
    }

    /// Closes our side in order, at the pace of the peer.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
        })
        .await
    }

    /// Closes our side at once. Dropping the connection alone would send a reset instead
    /// of what the kernel holds back, if the peer has sent something that was not read.
    pub(crate) fn finish(&self) {
        match self {
            Self::Plain(stream) => drop(SockRef::from(stream).shutdown(Shutdown::Write)),
        }
    }

    /// Whether the end of the connection is a reset from now on, whatever ends it (a
    /// linger time of zero).
    pub(crate) fn set_resets(&self, resets: bool) {
        let linger = resets.then_some(Duration::ZERO);
        match self {
            Self::Plain(stream) => drop(SockRef::from(stream).set_linger(linger)),
        }
    }

    /// Bounds the kernel's memory for what the peer sends.
    pub(crate) fn set_receive_bytes(&self, bytes: usize) {
        match self {
            Self::Plain(stream) => {
                // Only a connection that is over already refuses.
                let _ended = SockRef::from(stream).set_recv_buffer_size(bytes);
            }
        }
    }

    /// # Errors
    /// The connection is broken.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.local_addr(),
        }
    }

    /// # Errors
    /// The connection is broken.
    pub(crate) fn peer_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.peer_addr(),
        }
    }

    /// Its socket, if what the kernel counts there are the bytes that we read and write.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "an encrypted connection will have none: the kernel counts other bytes there"
    )]
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Plain(stream) => Some(stream.as_fd()),
        }
    }

    /// What the reactor has heard of the connection (`EPOLLRDHUP`). Costs no system call
    /// and wakes nothing.
    pub(crate) fn heard(&self) -> Heard {
        let interest = Interest::READABLE | Interest::ERROR;
        let heard = match self {
            Self::Plain(stream) => {
                let heard = pin!(stream.ready(interest));
                heard.poll(&mut Context::from_waker(Waker::noop()))
            }
        };
        match heard {
            Poll::Ready(Ok(ready)) => Heard {
                is_read_closed: ready.is_read_closed(),
                is_broken: ready.is_error(),
            },
            Poll::Ready(Err(_)) => Heard {
                is_read_closed: false,
                is_broken: true,
            },
            Poll::Pending => Heard {
                is_read_closed: false,
                is_broken: false,
            },
        }
    }

    /// Whether there is something to read. The end of the peer's side does not count.
    pub(crate) fn has_bytes(&self) -> bool {
        match self {
            Self::Plain(stream) => has_bytes(stream.as_fd()),
        }
    }

    /// Whether nothing has come, not even the end, by what the reactor was told last. That
    /// is free, and may be older than what the peer has sent.
    pub(crate) fn seems_silent(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        if self.poll_read_ready(&mut context).is_pending() {
            return true;
        }
        let read = match self {
            Self::Plain(stream) => stream.try_read(&mut [0]),
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same by a system call, so that the answer is that of the kernel.
    pub(crate) fn is_silent(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let heard = match self {
            Self::Plain(stream) => recv(stream, &mut [0; 1][..], flags),
        };
        heard.is_err_and(|error| error == rustix::io::Errno::WOULDBLOCK)
    }

    /// Both directions, each for itself.
    pub(crate) fn split(&mut self) -> (Reading<'_>, Writing<'_>) {
        match self {
            Self::Plain(stream) => {
                let (reading, writing) = stream.split();
                (Reading::Plain(reading), Writing::Plain(writing))
            }
        }
    }

    /// Takes it out of the reactor, so that it can be parked.
    ///
    /// # Errors
    /// The reactor does not know the connection.
    pub(crate) fn detach(self) -> io::Result<Detached> {
        match self {
            Self::Plain(stream) => stream.into_std().map(Detached),
        }
    }
}

fn has_bytes(socket: BorrowedFd<'_>) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(socket, &mut [0; 1][..], flags).is_ok_and(|(count, _)| count > 0)
}

/// A connection that no reactor watches. Only a variant without state of its own can be
/// one: it is a descriptor and nothing else.
#[derive(Debug)]
pub(crate) struct Detached(std::net::TcpStream);

impl Detached {
    /// As [`Transport::has_bytes`].
    pub(crate) fn has_bytes(&self) -> bool {
        has_bytes(self.0.as_fd())
    }

    /// Back into the reactor.
    ///
    /// # Errors
    /// There is no memory or descriptor for it.
    pub(crate) fn attach(self) -> io::Result<Transport> {
        TcpStream::from_std(self.0).map(Transport::Plain)
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the peer of a connection sends.
#[derive(Debug)]
pub(crate) enum Reading<'a> {
    Plain(tcp::ReadHalf<'a>),
}

impl Reading<'_> {
    /// Resolves when there may be something to read, be it the end.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(half) => half.readable().await,
        }
    }

    /// Reads what is there; 0 is the end.
    pub(crate) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.try_read(into),
        }
    }
}

/// What the peer of a connection is sent.
#[derive(Debug)]
pub(crate) enum Writing<'a> {
    Plain(tcp::WriteHalf<'a>),
}

impl AsyncWrite for Writing<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_shutdown(context),
        }
    }
}
