//! An upgraded connection: bytes in both directions until both sides have finished.
//!
//! The meaning of the bytes does not matter here. The directions are independent: if the
//! endpoint accepts nothing more because its process has just ended, its last bytes, such
//! as a WebSocket's close frame, still reach the client.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::clock::{self, Deadline};
use crate::config::Limits;
use crate::endpoint::Endpoint;
use crate::transport::{Reading, Transport, Writing};

/// The size of the buffer of each direction.
const BUFFER_BYTES: usize = 8 << 10;
/// How long a client may take to read what an endpoint wrote before it ended. Closing while
/// the client's bytes are unread would reset the connection (RFC 9293 section 3.10.4), and
/// a reset destroys what the client has not read yet.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long both sides may be silent. The thread's clock may be a second late while there
/// are only tunnels.
pub(crate) struct Silence<'a> {
    deadline: &'a Deadline,
    time: Cell<Duration>,
    /// As `time`, after one side has ended. `docker exec -i` continues to print after its
    /// input has ended, but not forever.
    after_end: Duration,
}

impl<'a> Silence<'a> {
    pub(crate) fn new(deadline: &'a Deadline, limits: &Limits) -> Self {
        let silence = Self {
            deadline,
            time: Cell::new(limits.upgrade_time),
            after_end: limits.stall_time.min(limits.upgrade_time),
        };
        silence.begins();
        silence
    }

    /// The client does not read what was written to it.
    fn stalls(&self) {
        let now = clock::now();
        let until = now.saturating_add(self.time.get());
        self.deadline.set_stalled(until, Some(now));
    }

    /// One side has sent something.
    fn begins(&self) {
        let until = clock::now().saturating_add(self.time.get());
        self.deadline.set_lax(until);
    }

    /// One side has ended.
    fn shortens(&self) {
        self.time.set(self.after_end);
        self.begins();
    }

    /// Resolves when the silence has lasted too long.
    async fn is_too_long(&self) {
        poll_fn(|context| self.deadline.poll(context)).await;
    }
}

/// Which side ended a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The sender has finished.
    Finished,
    /// The sender broke off.
    ReadBroke,
    /// The receiver accepts nothing more.
    WriteBroke,
}

/// Passes bytes on until both sides have finished, the client breaks off, both sides are
/// silent for too long, or the endpoint is retired. Each side is passed with the bytes that
/// it has already sent.
pub(crate) async fn run(
    client: (&mut Transport, &[u8]),
    upstream: (&mut Transport, &[u8]),
    endpoint: &Endpoint,
    silence: &Silence<'_>,
) {
    let ((client, early_of_client), (upstream, early_of_upstream)) = (client, upstream);
    let ends = pass_on(
        (client, early_of_client),
        (upstream, early_of_upstream),
        endpoint,
        silence,
    );
    if ends.await {
        linger(client).await;
    } else {
        // The app must not take the part that it has received from the client for
        // everything.
        upstream.set_resets(true);
    }
}

/// Passes bytes on. Returns whether the endpoint has ended while the client may still read.
async fn pass_on(
    client: (&mut Transport, &[u8]),
    upstream: (&mut Transport, &[u8]),
    endpoint: &Endpoint,
    silence: &Silence<'_>,
) -> bool {
    let ((client, early_of_client), (upstream, early_of_upstream)) = (client, upstream);
    let (from_client, to_client) = client.split();
    let (from_upstream, to_upstream) = upstream.split();
    let down = copy(early_of_upstream, from_upstream, to_client, |piece| {
        match piece {
            // Any byte from the endpoint is a sign of life.
            Piece::Read => endpoint.hear(clock::now()),
            Piece::Waits => return silence.stalls(),
            Piece::Written => {}
        }
        silence.begins();
    });
    let up = copy(early_of_client, from_client, to_upstream, |piece| {
        // An endpoint that does not read says nothing about the client.
        if piece == Piece::Read {
            silence.begins();
        }
    });
    tokio::pin!(down, up);
    let (mut is_down_open, mut is_up_open) = (true, true);
    while is_down_open {
        tokio::select! {
            ended = &mut down => {
                if ended == Ended::WriteBroke {
                    return false;
                }
                is_down_open = false;
                silence.shortens();
            }
            ended = &mut up, if is_up_open => {
                if ended == Ended::ReadBroke {
                    return false;
                }
                is_up_open = false;
                silence.shortens();
            }
            () = silence.is_too_long() => return false,
            () = endpoint.retired() => {
                // Its process has exited, so its last bytes and the end of its side have
                // arrived.
                let last = timeout(LINGER_TIMEOUT, &mut down).await;
                return last != Ok(Ended::WriteBroke);
            }
        }
    }
    if is_up_open {
        tokio::select! {
            ended = &mut up => return ended != Ended::ReadBroke,
            () = silence.is_too_long() => {}
            () = endpoint.retired() => {}
        }
    }
    true
}

/// What becomes of a piece of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Read,
    /// The other side does not accept it yet.
    Waits,
    /// The other side has accepted it after a wait.
    Written,
}

/// Passes on one direction including its end. `passes` is called for each piece.
async fn copy(
    early: &[u8],
    from: Reading<'_>,
    mut to: Writing<'_>,
    passes: impl Fn(Piece),
) -> Ended {
    if to.write_all(early).await.is_err() {
        return Ended::WriteBroke;
    }
    // Memory is taken only while data passes, because most such connections are silent.
    let mut buffer = Vec::new();
    let ended = loop {
        if buffer.is_empty() {
            // The next read will show an error.
            drop(from.readable().await);
            buffer.resize(BUFFER_BYTES, 0);
        }
        match from.try_read(&mut buffer) {
            Ok(0) => break Ended::Finished,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(error) => {
                tracing::debug!(%error, "an upgraded connection broke");
                break Ended::ReadBroke;
            }
            Ok(length) => {
                passes(Piece::Read);
                let mut written = pin!(to.write_all(&buffer[..length]));
                let mut waits = false;
                let written = poll_fn(|context| {
                    let written = written.as_mut().poll(context);
                    if written.is_pending() && !waits {
                        waits = true;
                        passes(Piece::Waits);
                    }
                    written
                });
                if written.await.is_err() {
                    return Ended::WriteBroke;
                }
                if waits {
                    passes(Piece::Written);
                }
            }
        }
    };
    // An error means that the side is already closed.
    let _gone = to.shutdown().await;
    ended
}

/// Ends a client's connection so that the client can read everything that was written to
/// it.
async fn linger(client: &mut Transport) {
    let _gone = client.shutdown().await;
    let mut buffer = vec![0; BUFFER_BYTES];
    let read_to_end = async {
        while let Ok(length) = read(client, &mut buffer).await
            && length > 0
        {}
    };
    let _in_time = timeout(LINGER_TIMEOUT, read_to_end).await;
}

async fn read(from: &mut Transport, into: &mut [u8]) -> io::Result<usize> {
    let mut into = ReadBuf::new(into);
    poll_fn(|context| from.poll_read(context, &mut into)).await?;
    Ok(into.filled().len())
}
