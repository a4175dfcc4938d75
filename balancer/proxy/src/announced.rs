//! The header in which a proxy in front says who its client is, read from a new connection before
//! everything else, TLS included.
//!
//! Decides how long the header may take. Which connections must begin with one is decided in
//! `callers`; what it says, in `scaledapp-http1`.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use scaledapp_http1::{Announced, HeaderFault, parse_proxy_header};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::clock::{self, Deadline};

/// A proxy sends its header together with the SYN's answer, so only lost packets delay it. The
/// specification recommends at least three seconds.
pub(crate) const HEADER_TIME: Duration = Duration::from_secs(5);
/// How many bytes are looked at in one step.
const STEP_BYTES: usize = 256;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unannounced {
    #[error("{0}")]
    Faulty(#[from] HeaderFault),
    #[error("no complete PROXY header has come within {HEADER_TIME:?}")]
    Late,
    /// The peer has closed the connection before its first byte, as checks of a port do.
    #[error("the peer has closed the connection without a PROXY header")]
    Left,
}

/// Reads the header, and nothing after it.
pub(crate) async fn read(
    stream: &TcpStream,
    deadline: &Deadline,
) -> Result<Announced, Unannounced> {
    let now = clock::now();
    deadline.set_stalled(now.saturating_add(HEADER_TIME), Some(now));
    let mut header = Vec::new();
    poll_fn(|context| {
        loop {
            if let Poll::Ready(taken) = poll_step(stream, &mut header, context) {
                match taken {
                    Ok(Some(announced)) => return Poll::Ready(Ok(announced)),
                    Ok(None) => continue,
                    Err(fault) => return Poll::Ready(Err(fault)),
                }
            }
            ready!(deadline.poll(context));
            return Poll::Ready(Err(Unannounced::Late));
        }
    })
    .await
}

/// Takes what has arrived of the header. All bytes before its end belong to it, so none of the
/// bytes that follow it are taken.
fn poll_step(
    stream: &TcpStream,
    header: &mut Vec<u8>,
    context: &mut std::task::Context<'_>,
) -> Poll<Result<Option<Announced>, Unannounced>> {
    let left = |_| Unannounced::Left;
    loop {
        ready!(stream.poll_read_ready(context)).map_err(left)?;
        let before = header.len();
        header.resize(before + STEP_BYTES, 0);
        let seen = stream.try_io(Interest::READABLE, || {
            Ok(recv(stream, &mut header[before..], RecvFlags::PEEK)?.0)
        });
        let seen = match seen {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                header.truncate(before);
                continue;
            }
            seen => seen.map_err(left)?,
        };
        header.truncate(before + seen);
        if seen == 0 {
            return Poll::Ready(Err(if before == 0 {
                Unannounced::Left
            } else {
                HeaderFault::Malformed("it is cut off").into()
            }));
        }
        let read = parse_proxy_header(header)?;
        let end = read.map_or(header.len(), |(length, _)| length);
        header.truncate(end);
        // The bytes are there, so this takes all of them.
        stream.try_read(&mut header[before..]).map_err(left)?;
        return Poll::Ready(Ok(read.map(|(_, announced)| announced)));
    }
}
