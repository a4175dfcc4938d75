//! One connection of a relay, whose directions are used independently of each other.
//!
//! Unlike [`super::Reading`] and [`super::Writing`], both directions and the watch for a reset
//! share one handle, and a read says whether the end of an encrypted connection was announced: a
//! relay knows no other sign that nothing is missing.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::heard::heard;
use super::secured::Secured;

/// How often a TLS connection is checked, because the events of its socket cannot be waited for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A shared handle of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Side<'a> {
    Plain(&'a TcpStream),
    Secured(Rc<RefCell<&'a mut Secured>>),
}

impl<'a> Side<'a> {
    /// The socket, if its bytes are those that are read and written here.
    pub(crate) fn plain(&self) -> Option<&'a TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Secured(_) => None,
        }
    }

    /// Ready when there may be something to read, including the end.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(context),
            Self::Secured(secured) => secured.borrow_mut().poll_readable(context),
        }
    }

    /// Reads once; 0 is the end of the peer's side. Pending: nothing has arrived.
    ///
    /// # Errors
    /// The connection is broken, or its end was not announced although it is encrypted.
    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_readable(context))?;
            let read = match self {
                Self::Plain(stream) => {
                    let read = stream.try_read(into);
                    if read
                        .as_ref()
                        .is_ok_and(|read| (1..into.len()).contains(read))
                    {
                        is_drained(stream);
                    }
                    read
                }
                Self::Secured(secured) => secured.borrow_mut().read(into),
            };
            match read {
                Err(error) if is_early(&error) => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Writes some of `bytes`. After `Pending` the next call must pass them again.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn poll_write(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => loop {
                ready!(stream.poll_write_ready(context))?;
                match stream.try_write(bytes) {
                    Err(error) if is_early(&error) => {}
                    written => return Poll::Ready(written),
                }
            },
            Self::Secured(secured) => secured.borrow_mut().poll_write(context, bytes, false),
        }
    }

    /// Ends the proxy's side in order.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn finish(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => SockRef::from(*stream).shutdown(Shutdown::Write),
            Self::Secured(secured) => {
                poll_fn(|context| {
                    let mut secured = secured.borrow_mut();
                    secured.poll_shutdown(context)
                })
                .await
            }
        }
    }

    /// Resolves when the connection is broken, by a reset or a time-out of the kernel. It reads
    /// nothing.
    pub(crate) async fn breaks(&self) {
        match self {
            Self::Plain(stream) => {
                // An error means that the reactor has ended.
                let _ready = stream.ready(Interest::ERROR).await;
            }
            Self::Secured(secured) => loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                if heard(&secured.borrow().socket).is_broken {
                    return;
                }
            },
        }
    }
}

/// A read that has not filled its buffer has emptied the socket, so the next read needs no system
/// call to learn this. Tokio's own `poll_read` does the same.
fn is_drained(stream: &TcpStream) {
    let nothing = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
    let _would_block = stream.try_io(Interest::READABLE, nothing);
}

/// Nothing can be done yet.
fn is_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
