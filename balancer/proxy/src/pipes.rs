//! Pipes through which the kernel moves bytes from one socket to another (splice(2)), so that they
//! are not copied into this process.
//!
//! A thread keeps a few pipes for its relays. A pipe takes two descriptors and, while a reader is
//! slow, memory of the kernel, so their number is bounded; without a pipe, bytes are
//! copied. When a pipe is used is decided in `tcp::relay` and `http::attempt::bypass`.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How many pipes a thread has at most.
const MAX_PIPES: usize = 16;
/// How many of them it keeps while no relay uses them.
const MAX_SPARE: usize = 4;
/// The size that is asked for, the largest that needs no privilege (`pipe-max-size`, pipe(7)). The
/// kernel gives less to users that have many pipes. Over loopback, a mebibyte costs the relay two
/// thirds of the CPU time of copying in pieces of 64 KiB. Pipes of 256 KiB save hardly anything.
pub(crate) const PIPE_BYTES: usize = 1 << 20;

/// How many bytes of a connection are moved before the other connections of the thread get their
/// turn. Moving them takes about a millisecond.
pub(crate) const MAX_TURN_BYTES: usize = 4 << 20;

/// The pipes of one thread.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    spare: RefCell<Vec<Ends>>,
    used: Cell<usize>,
    /// The kernel, or a filter of system calls, has refused splice(2).
    is_refused: Cell<bool>,
}

#[derive(Debug)]
struct Ends {
    reading: OwnedFd,
    writing: OwnedFd,
}

/// A pipe in use.
#[derive(Debug)]
pub(crate) struct Pipe<'a> {
    pipes: &'a Pipes,
    ends: Option<Ends>,
    /// Bytes in it.
    held: usize,
}

impl Pipes {
    /// An empty pipe; `None` if no more may be used, or none can be opened.
    pub(crate) fn take(&self) -> Option<Pipe<'_>> {
        if self.is_refused.get() || self.used.get() >= MAX_PIPES {
            return None;
        }
        let spare = self.spare.borrow_mut().pop();
        let ends = spare.or_else(|| open().ok())?;
        self.used.set(self.used.get() + 1);
        Some(Pipe {
            pipes: self,
            ends: Some(ends),
            held: 0,
        })
    }

    /// Whether bytes can only be copied.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused.get()
    }
}

fn open() -> io::Result<Ends> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // A smaller pipe works as well.
    let _smaller = fcntl_setpipe_size(&writing, PIPE_BYTES);
    Ok(Ends { reading, writing })
}

impl Pipe<'_> {
    /// The number of bytes in it.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `most` bytes that have arrived at the socket into the pipe, which is empty (a
    /// full pipe could not be told from a socket without bytes); 0 is the end of the peer's side.
    /// `None`: nothing has arrived, or [`Pipes::is_refused`].
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<Option<usize>> {
        let Some(ends) = &self.ends else {
            return Ok(None);
        };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = from.try_io(Interest::READABLE, || {
            Ok(splice(from, None, &ends.writing, None, most, flags)?)
        });
        match moved {
            Ok(moved) => {
                self.held = moved;
                Ok(Some(moved))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) if is_refused(&error) => {
                self.pipes.is_refused.set(true);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Moves all bytes of the pipe to the socket.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn poll_empty(
        &mut self,
        to: &TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(ends) = &self.ends else {
            return Poll::Ready(Ok(()));
        };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while self.held > 0 {
            ready!(to.poll_write_ready(context))?;
            let moved = to.try_io(Interest::WRITABLE, || {
                Ok(splice(&ends.reading, None, to, None, self.held, flags)?)
            });
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => self.held -= moved,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Appends all bytes of the pipe to `out`.
    ///
    /// # Errors
    /// The kernel has no memory.
    pub(crate) fn copy_to(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match &self.ends {
            Some(ends) => read_all(ends, &mut self.held, out),
            None => Ok(()),
        }
    }
}

/// Reads all bytes of the pipe, and appends them to `out`.
fn read_all(ends: &Ends, held: &mut usize, out: &mut Vec<u8>) -> io::Result<()> {
    while *held > 0 {
        out.reserve(*held);
        let read = rustix::io::read(&ends.reading, spare_capacity(out))?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *held = held.saturating_sub(read);
    }
    Ok(())
}

fn is_refused(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::INVAL | Errno::PERM | Errno::NOSYS))
}

impl Drop for Pipe<'_> {
    fn drop(&mut self) {
        self.pipes.used.set(self.pipes.used.get() - 1);
        let mut spare = self.pipes.spare.borrow_mut();
        // A pipe with bytes of one connection must never reach another one.
        if self.held == 0 && spare.len() < MAX_SPARE {
            spare.extend(self.ends.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[test]
    fn the_number_of_pipes_is_limited_and_few_are_kept() {
        let pipes = Pipes::default();
        let mut taken: Vec<_> = (0..MAX_PIPES).map(|_| pipes.take().unwrap()).collect();
        assert!(pipes.take().is_none());
        taken.pop();
        assert!(pipes.take().is_some());
        drop(taken);
        assert_eq!(pipes.spare.borrow().len(), MAX_SPARE);
        pipes.is_refused.set(true);
        assert!(pipes.take().is_none(), "relays copy instead");
    }

    #[tokio::test]
    async fn bytes_pass_and_a_pipe_that_holds_some_is_not_used_again() {
        let (pipes, (mut sender, from), (to, mut receiver)) =
            (Pipes::default(), pair().await, pair().await);
        let mut pipe = pipes.take().unwrap();
        assert_eq!(
            pipe.fill(&from, PIPE_BYTES).unwrap(),
            None,
            "nothing has arrived"
        );
        for is_emptied in [true, false] {
            sender.write_all(b"hello").await.unwrap();
            from.readable().await.unwrap();
            let mut pipe = pipes.take().unwrap();
            assert_eq!(pipe.fill(&from, PIPE_BYTES).unwrap(), Some(5));
            if is_emptied {
                poll_fn(|context| pipe.poll_empty(&to, context))
                    .await
                    .unwrap();
                let mut got = [0; 5];
                receiver.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"hello");
            }
            let before = pipes.spare.borrow().len();
            drop(pipe);
            let after = pipes.spare.borrow().len();
            assert_eq!(after - before, usize::from(is_emptied));
        }
        drop(sender);
        from.readable().await.unwrap();
        assert_eq!(pipe.fill(&from, PIPE_BYTES).unwrap(), Some(0));
    }
}
