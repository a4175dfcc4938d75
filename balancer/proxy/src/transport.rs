//! The bytes of a connection to a client or to an endpoint, whatever carries them.
//!
//! All operations on sockets are here, so that an exchange knows no socket. Each operation
//! matches the variant in place: nothing is boxed, and with only one variant nothing is
//! decided at run time. Where a connection comes from is decided in `accept` and `connect`;
//! the meaning of its bytes, by its protocol.

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

/// See the module documentation.
#[derive(Debug)]
pub(crate) enum Transport {
    /// TCP without encryption.
    Plain(TcpStream),
}

/// What the reactor knows of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The peer has closed its side.
    pub(crate) is_read_closed: bool,
    /// The connection is broken.
    pub(crate) is_broken: bool,
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
        }
    }

    /// Ready when there is something to read, including the end.
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

    /// Writes bytes that are followed immediately by the end of our side. The kernel holds
    /// the last segment back (`MSG_MORE`, send(2)) and sends it together with the FIN,
    /// which saves a packet for each connection on both hosts.
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

    /// Writes as much as a new connection accepts immediately. It does not wait for the
    /// reactor to report room, because the send buffer is empty.
    pub(crate) fn send_now(&self, bytes: &[u8]) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match self {
            Self::Plain(stream) => {
                let _unheard = send(stream, bytes, flags);
            }
        }
    }

    /// Closes our side with an orderly close, at the pace of the peer.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
        })
        .await
    }

    /// Closes our side immediately. If the peer has sent something that was not read,
    /// merely dropping the connection would send a reset instead of the bytes that the
    /// kernel holds back.
    pub(crate) fn finish(&self) {
        match self {
            Self::Plain(stream) => drop(SockRef::from(stream).shutdown(Shutdown::Write)),
        }
    }

    /// Sets whether the connection ends with a reset from now on, for whatever reason it
    /// ends (a linger time of zero).
    pub(crate) fn set_resets(&self, resets: bool) {
        let linger = resets.then_some(Duration::ZERO);
        match self {
            Self::Plain(stream) => drop(SockRef::from(stream).set_linger(linger)),
        }
    }

    /// Limits the kernel's memory for what the peer sends.
    pub(crate) fn set_receive_bytes(&self, bytes: usize) {
        match self {
            Self::Plain(stream) => {
                // This fails only for a connection that is already over.
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

    /// Its socket, if the bytes that the kernel counts there are those that we read and
    /// write.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "an encrypted connection will have none: the kernel counts other bytes there"
    )]
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Plain(stream) => Some(stream.as_fd()),
        }
    }

    /// What the reactor knows of the connection (`EPOLLRDHUP`). It costs no system call and
    /// wakes nothing.
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

    /// Whether there are bytes to read. The end of the peer's side does not count.
    pub(crate) fn has_bytes(&self) -> bool {
        match self {
            Self::Plain(stream) => has_bytes(stream.as_fd()),
        }
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
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same by a system call, so that the answer is the kernel's.
    pub(crate) fn is_silent(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let heard = match self {
            Self::Plain(stream) => recv(stream, &mut [0; 1][..], flags),
        };
        heard.is_err_and(|error| error == rustix::io::Errno::WOULDBLOCK)
    }

    /// Both directions, to be used independently.
    pub(crate) fn split(&mut self) -> (Reading<'_>, Writing<'_>) {
        match self {
            Self::Plain(stream) => {
                let (reading, writing) = stream.split();
                (Reading::Plain(reading), Writing::Plain(writing))
            }
        }
    }

    /// Takes the connection out of the reactor, so that it can be parked.
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

/// A connection that no reactor watches. Only a variant without further state can be
/// detached: what remains is a descriptor and nothing else.
#[derive(Debug)]
pub(crate) struct Detached(std::net::TcpStream);

impl Detached {
    /// As [`Transport::has_bytes`].
    pub(crate) fn has_bytes(&self) -> bool {
        has_bytes(self.0.as_fd())
    }

    /// Puts the connection back into the reactor.
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

/// The direction from the peer.
#[derive(Debug)]
pub(crate) enum Reading<'a> {
    Plain(tcp::ReadHalf<'a>),
}

impl Reading<'_> {
    /// Resolves when there may be something to read, including the end.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(half) => half.readable().await,
        }
    }

    /// Reads what has arrived; 0 is the end.
    pub(crate) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.try_read(into),
        }
    }
}

/// The direction to the peer.
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
