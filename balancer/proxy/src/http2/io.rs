//! What the `h2` crate reads and writes: a transport, and the bytes that were read from it before.

use std::borrow::BorrowMut;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::Transport;

/// A transport, with the bytes that were read from it before.
pub(super) struct Io<T> {
    pub(super) transport: T,
    pub(super) early: Bytes,
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
        io.transport.borrow_mut().poll_read(context, into)
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
