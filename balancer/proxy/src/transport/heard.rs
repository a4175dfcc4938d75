//! What the reactor knows of a connection, without a system call.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::Interest;
use tokio::net::TcpStream;

/// What the reactor knows of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The peer has closed its side.
    pub(crate) is_read_closed: bool,
    /// The connection is broken.
    pub(crate) is_broken: bool,
}

/// What the reactor knows now. It wakes nothing.
pub(super) fn heard(tcp: &TcpStream) -> Heard {
    let heard = pin!(tcp.ready(Interest::READABLE | Interest::ERROR));
    match heard.poll(&mut Context::from_waker(Waker::noop())) {
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
