//! What the `h2` crate reads and writes: a transport, and the bytes that were read from it before,
//! without the frames that `empty_frames` leaves out.

use std::borrow::BorrowMut;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::empty_frames::EmptyFrames;
use super::limits::FRAME_HEADER_BYTES;
use crate::transport::Transport;

/// With what a client begins (RFC 9113 section 3.4), in bytes.
const PREFACE_BYTES: usize = 24;
/// How often bytes of which nothing passes are read before others have their turn.
const READS: usize = 8;
/// If there is less room for bytes than this, they are read into a buffer of this size.
const LEAST_BYTES: usize = 64;

/// A transport, with the bytes that were read from it before.
pub(super) struct Io<T> {
    transport: T,
    /// Bytes that were read before, and have been filtered.
    early: Bytes,
    frames: EmptyFrames,
}

impl<T: BorrowMut<Transport> + Unpin> Io<T> {
    /// The side of a client, which has already sent `early`.
    pub(super) fn to_client(transport: T, mut early: Vec<u8>) -> Self {
        let mut frames = EmptyFrames::after(PREFACE_BYTES);
        let kept = frames.filter(&mut early);
        early.truncate(kept);
        let early = Bytes::from(early);
        Self {
            transport,
            early,
            frames,
        }
    }

    /// The side of a server, which has sent nothing yet.
    pub(super) fn to_server(transport: T) -> Self {
        Self {
            transport,
            early: Bytes::new(),
            frames: EmptyFrames::after(0),
        }
    }

    /// Reads what passes. There must be room for a frame's header. Nothing means the end.
    fn poll_filtered(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let start = into.filled().len();
        for _ in 0..READS {
            let held = self.frames.held().len();
            into.put_slice(self.frames.held());
            let transport: &mut Transport = self.transport.borrow_mut();
            let read = transport.poll_read(context, into);
            if !matches!(read, Poll::Ready(Ok(()))) || into.filled().len() == start + held {
                into.set_filled(start);
                return read;
            }
            let kept = self.frames.filter(&mut into.filled_mut()[start..]);
            into.set_filled(start + kept);
            if kept > 0 {
                return read;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: BorrowMut<Transport> + Unpin> AsyncRead for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        if io.early.has_remaining() {
            let count = io.early.len().min(into.remaining());
            into.put_slice(&io.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        if into.remaining() > FRAME_HEADER_BYTES {
            return io.poll_filtered(context, into);
        }
        let mut bytes = [0; LEAST_BYTES];
        let mut passed = ReadBuf::new(&mut bytes);
        ready!(io.poll_filtered(context, &mut passed))?;
        let (now, later) = passed
            .filled()
            .split_at(into.remaining().min(passed.filled().len()));
        into.put_slice(now);
        io.early = Bytes::copy_from_slice(later);
        Poll::Ready(Ok(()))
    }
}

impl<T: BorrowMut<Transport> + Unpin> AsyncWrite for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .transport
            .borrow_mut()
            .poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .transport
            .borrow_mut()
            .poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A write is done when the kernel has all of it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().transport.borrow_mut().poll_shutdown(context)
    }
}
