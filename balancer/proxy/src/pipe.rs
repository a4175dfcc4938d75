//! Pipes through which the kernel moves bytes from one connection to another (splice(2)): they are
//! neither copied to this process nor back.
//!
//! Which bytes go this way is decided by the caller.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The most pipes of a thread that are in use. Each takes two descriptors and, while its receiver
/// is slow, up to 64 KiB of the kernel's memory. Without a pipe, bytes are copied.
const MAX_USED: usize = 64;
/// The most empty pipes that a thread keeps.
const MAX_KEPT: usize = 8;
/// The most bytes that are moved at once; a pipe usually holds less.
const MAX_BYTES: u64 = 1 << 20;

/// The pipes of a thread.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    empty: RefCell<Vec<Pipe>>,
    used: Cell<usize>,
    /// A filter of system calls forbids splice(2), or the kernel cannot do it.
    is_refused: Cell<bool>,
}

/// A pipe, with the number of bytes in it. Dropping it loses these bytes.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    bytes: usize,
}

impl Pipes {
    /// An empty pipe; `None` if the caller must copy.
    fn take(&self) -> Option<Box<Pipe>> {
        if self.is_refused.get() || self.used.get() >= MAX_USED {
            return None;
        }
        let kept = self.empty.borrow_mut().pop();
        // If there are too few descriptors, copying still works.
        let pipe = kept.or_else(|| Pipe::new().ok())?;
        self.used.set(self.used.get() + 1);
        Some(Box::new(pipe))
    }

    /// Takes a pipe back. One that is not empty is closed.
    fn put(&self, pipe: Pipe) {
        self.used.set(self.used.get().saturating_sub(1));
        let mut empty = self.empty.borrow_mut();
        if pipe.bytes == 0 && empty.len() < MAX_KEPT {
            empty.push(pipe);
        }
    }

    /// Whether an error means that these connections, or this process, cannot use splice(2). From
    /// then on everything is copied.
    pub(crate) fn is_refusal(&self, error: &io::Error) -> bool {
        let errors = [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::ACCESS];
        let is_refusal = errors.contains(&Errno::from_io_error(error).unwrap_or(Errno::IO));
        self.is_refused.set(self.is_refused.get() || is_refusal);
        is_refusal
    }
}

/// A pipe that is taken when it is needed, and given back when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Lease<'a>(Option<(&'a Pipes, Box<Pipe>)>);

impl<'a> Lease<'a> {
    /// The number of bytes in the pipe.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |(_, pipe)| pipe.bytes)
    }

    /// The pipe; `None` if the caller must copy.
    pub(crate) fn get(&mut self, pipes: &'a Pipes) -> Option<&mut Pipe> {
        if self.0.is_none() {
            self.0 = Some((pipes, pipes.take()?));
        }
        self.0.as_mut().map(|(_, pipe)| &mut **pipe)
    }

    /// As [`Pipe::poll_empty`].
    pub(crate) fn poll_empty(
        &mut self,
        into: &TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some((_, pipe)) => pipe.poll_empty(into, context),
            None => Poll::Ready(Ok(0)),
        }
    }

    /// As [`Pipe::copy_to`].
    ///
    /// # Errors
    /// The kernel has no memory.
    pub(crate) fn copy_to(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.0 {
            Some((_, pipe)) => pipe.copy_to(out),
            None => Ok(()),
        }
    }

    /// Gives the pipe back.
    pub(crate) fn release(&mut self) {
        if let Some((pipes, pipe)) = self.0.take() {
            pipes.put(*pipe);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self {
            read,
            write,
            bytes: 0,
        })
    }

    /// Moves up to `most` bytes from a connection into the pipe, which must be empty: a full pipe
    /// could not be told from a connection without bytes. 0 is the end of the connection.
    ///
    /// # Errors
    /// The connection is broken, or [`Pipes::is_refusal`].
    pub(crate) fn poll_fill(
        &mut self,
        from: &TcpStream,
        most: u64,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let most = usize::try_from(most.min(MAX_BYTES)).unwrap_or(usize::MAX);
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        loop {
            ready!(from.poll_read_ready(context))?;
            let read = || Ok(splice(from, None, &self.write, None, most, flags)?);
            match from.try_io(Interest::READABLE, read) {
                Err(error) if is_early(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(moved) => {
                    self.bytes += moved;
                    return Poll::Ready(Ok(moved));
                }
            }
        }
    }

    /// Moves bytes from the pipe into a connection.
    ///
    /// # Errors
    /// The connection is broken.
    fn poll_empty(
        &mut self,
        into: &TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        loop {
            ready!(into.poll_write_ready(context))?;
            let write = || Ok(splice(&self.read, None, into, None, self.bytes, flags)?);
            match into.try_io(Interest::WRITABLE, write) {
                Err(error) if is_early(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => {
                    self.bytes -= moved;
                    return Poll::Ready(Ok(moved));
                }
            }
        }
    }

    /// Appends all of its bytes to `out`.
    ///
    /// # Errors
    /// The kernel has no memory.
    fn copy_to(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.bytes > 0 {
            out.reserve(self.bytes);
            let read = rustix::io::read(&self.read, rustix::buffer::spare_capacity(out))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.bytes -= read.min(self.bytes);
        }
        Ok(())
    }
}

/// Nothing can be done yet.
fn is_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
