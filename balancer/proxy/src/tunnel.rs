//! An upgraded connection: bytes both ways until both sides have finished.
//!
//! What they mean is not our business any more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

use crate::clock;
use crate::endpoint::Endpoint;

/// Of each direction.
const BUFFER: usize = 8 << 10;
/// A peer that vanished without a word is found out after this.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// Passes bytes on until both sides have finished, one breaks, or the endpoint
/// is given up. `early` is what either side has sent already.
pub(crate) async fn run(
    client: &mut TcpStream,
    early_of_client: &[u8],
    upstream: &mut TcpStream,
    early_of_upstream: &[u8],
    endpoint: &Endpoint,
) {
    let keep_alive = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE);
    for stream in [&*client, &*upstream] {
        // Without it, a vanished peer is noticed at the next write only.
        drop(socket2::SockRef::from(stream).set_tcp_keepalive(&keep_alive));
    }
    let mut upstream = Heard {
        stream: upstream,
        endpoint,
    };
    let copy = async {
        upstream.write_all(early_of_client).await?;
        client.write_all(early_of_upstream).await?;
        copy_bidirectional_with_sizes(client, &mut upstream, BUFFER, BUFFER).await
    };
    tokio::select! {
        ended = copy => if let Err(error) = ended {
            tracing::debug!(%error, "an upgraded connection broke");
        },
        () = endpoint.retired() => {}
    }
}

/// The endpoint's side: what comes from there is a sign of life.
struct Heard<'a> {
    stream: &'a mut TcpStream,
    endpoint: &'a Endpoint,
}

impl AsyncRead for Heard<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            // The thread's clock is up to a second late while there are only tunnels.
            self.endpoint.hear(clock::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}
