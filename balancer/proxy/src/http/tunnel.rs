//! An upgraded connection: bytes in both directions until both sides have finished.
//!
//! The meaning of the bytes does not matter here. The directions are independent: if the
//! endpoint accepts nothing more because its process has just ended, its last bytes, such
//! as a WebSocket's close frame, still reach the client.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::websocket::{self, Frames};
use crate::access::Record;
use crate::activity::Activity;
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
/// How long a client of a WebSocket may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// The receiver was told that the connection ends.
    Told,
}

/// How a tunnel has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The endpoint has ended, and the client may still read.
    Finished,
    /// One side broke off.
    Broken,
    /// The client was told to leave. `needs_close`: the endpoint does not know yet.
    Left { needs_close: bool },
}

/// How a client is told to leave, if the tunnel is a WebSocket.
pub(crate) struct Leaving<'a> {
    pub(crate) activity: &'a Activity,
    /// See [`Activity::client_should_leave`].
    pub(crate) share: f64,
    pub(crate) is_websocket: bool,
}

impl Leaving<'_> {
    async fn is_due(&self) {
        if !self.is_websocket {
            std::future::pending::<()>().await;
        }
        self.activity.client_should_leave(self.share).await;
    }
}

/// Passes bytes on until both sides have finished, the client breaks off, both sides are
/// silent for too long, or the endpoint is retired. Each side is passed with the bytes that
/// it has already sent.
pub(crate) async fn run(
    client: (&mut Transport, &[u8]),
    upstream: (&mut Transport, &[u8]),
    endpoint: &Endpoint,
    silence: &Silence<'_>,
    leaving: &Leaving<'_>,
    record: Option<&Record>,
) {
    let ((client, early_of_client), (upstream, early_of_upstream)) = (client, upstream);
    note_sent(record, early_of_client);
    if let Some(record) = record {
        record.tunnelled_out(early_of_upstream.len());
    }
    let ends = pass_on(
        (client, early_of_client),
        (upstream, early_of_upstream),
        endpoint,
        silence,
        leaving,
        record,
    );
    match ends.await {
        Outcome::Finished => linger(client).await,
        // The app must not take the part that it has received from the client for
        // everything.
        Outcome::Broken => upstream.set_resets(true),
        Outcome::Left { needs_close } => {
            if needs_close {
                let frame = &websocket::CLIENT_GOING_AWAY;
                let (_, mut to) = upstream.split();
                let _gone = timeout(LINGER_TIMEOUT, to.write_all(frame)).await;
            }
            let _gone = upstream.shutdown().await;
            linger(client).await;
        }
    }
}

/// The endpoint has sent bytes.
fn hear(endpoint: &Endpoint, record: Option<&Record>, bytes: &[u8]) {
    endpoint.hear(clock::now());
    if let Some(record) = record {
        record.tunnelled_out(bytes.len());
    }
}

/// The client has sent bytes, for the access log.
fn note_sent(record: Option<&Record>, bytes: &[u8]) {
    if let Some(record) = record {
        record.tunnelled_in(bytes.len());
    }
}

/// Passes bytes on.
async fn pass_on(
    client: (&mut Transport, &[u8]),
    upstream: (&mut Transport, &[u8]),
    endpoint: &Endpoint,
    silence: &Silence<'_>,
    leaving: &Leaving<'_>,
    record: Option<&Record>,
) -> Outcome {
    let ((client, early_of_client), (upstream, early_of_upstream)) = (client, upstream);
    let (from_client, to_client) = client.split();
    let (from_upstream, to_upstream) = upstream.split();
    let sent = RefCell::<Frames>::default();
    // Notified once the client has sent a close frame.
    let closed = Notify::new();
    let down = Direction {
        early: early_of_upstream,
        from: from_upstream,
        to: to_client,
        leaves: leaving.is_due(),
        frames: leaving.is_websocket.then(Frames::default),
    };
    let down = down.run(|piece, bytes| {
        match piece {
            // Any byte from the endpoint is a sign of life.
            Piece::Read => hear(endpoint, record, bytes),
            Piece::Waits => return silence.stalls(),
            Piece::Written => {}
        }
        silence.begins();
    });
    let up = Direction {
        early: early_of_client,
        from: from_client,
        to: to_upstream,
        leaves: std::future::pending(),
        frames: None,
    };
    sent.borrow_mut().pass(early_of_client);
    let up = up.run(|piece, bytes| {
        // An endpoint that does not read says nothing about the client.
        if piece == Piece::Read {
            silence.begins();
            note_sent(record, bytes);
            let mut sent = sent.borrow_mut();
            sent.pass(bytes);
            if sent.is_closed() {
                closed.notify_one();
            }
        }
    });
    tokio::pin!(down, up);
    let (mut is_down_open, mut is_up_open) = (true, true);
    while is_down_open {
        tokio::select! {
            ended = &mut down => {
                match ended {
                    Ended::WriteBroke => return Outcome::Broken,
                    Ended::Told => {
                        await_close(up, is_up_open, &closed).await;
                        let needs_close = sent.borrow().is_between();
                        return Outcome::Left { needs_close };
                    }
                    Ended::Finished | Ended::ReadBroke => {}
                }
                is_down_open = false;
                silence.shortens();
            }
            ended = &mut up, if is_up_open => {
                if ended == Ended::ReadBroke {
                    return Outcome::Broken;
                }
                is_up_open = false;
                silence.shortens();
            }
            () = silence.is_too_long() => return Outcome::Broken,
            () = endpoint.retired() => {
                // Its process has exited, so its last bytes and the end of its side have
                // arrived.
                let last = timeout(LINGER_TIMEOUT, &mut down).await;
                return if last == Ok(Ended::WriteBroke) {
                    Outcome::Broken
                } else {
                    Outcome::Finished
                };
            }
        }
    }
    if is_up_open {
        return await_end(up, endpoint, silence).await;
    }
    Outcome::Finished
}

/// Waits for the end of the client's side.
async fn await_end(
    up: impl Future<Output = Ended>,
    endpoint: &Endpoint,
    silence: &Silence<'_>,
) -> Outcome {
    tokio::select! {
        ended = up => {
            if ended == Ended::ReadBroke {
                return Outcome::Broken;
            }
        }
        () = silence.is_too_long() => {}
        () = endpoint.retired() => {}
    }
    Outcome::Finished
}

/// Waits until the client has answered a close frame with its own, which goes to the endpoint.
async fn await_close(up: impl Future<Output = Ended>, is_up_open: bool, closed: &Notify) {
    let answered = async {
        tokio::select! {
            _ = up, if is_up_open => {}
            () = closed.notified() => {}
        }
    };
    let _late = timeout(CLOSE_TIMEOUT, answered).await;
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

/// One direction of a tunnel.
struct Direction<'a, L> {
    /// Bytes that have already been read.
    early: &'a [u8],
    from: Reading<'a>,
    to: Writing<'a>,
    /// Resolves when the receiver should be told that the connection ends.
    leaves: L,
    /// Where the frames end, if the receiver can be told.
    frames: Option<Frames>,
}

impl<L: Future<Output = ()>> Direction<'_, L> {
    /// Passes bytes on, including their end. `passes` is called for each piece, with its bytes.
    async fn run(self, passes: impl Fn(Piece, &[u8])) -> Ended {
        let Self {
            early,
            from,
            mut to,
            leaves,
            mut frames,
        } = self;
        if to.write_all(early).await.is_err() {
            return Ended::WriteBroke;
        }
        if let Some(frames) = &mut frames {
            frames.pass(early);
        }
        let mut leaves = pin!(leaves);
        let mut is_leaving = false;
        // Memory is taken only while data passes, because most such connections are silent.
        let mut buffer = Vec::new();
        let ended = loop {
            if is_leaving && frames.as_ref().is_some_and(Frames::is_between) {
                let told = to.write_all(&websocket::GOING_AWAY).await;
                return told.map_or(Ended::WriteBroke, |()| Ended::Told);
            }
            if buffer.is_empty() {
                tokio::select! {
                    // The next read will show an error.
                    _ = from.readable() => {}
                    () = &mut leaves, if !is_leaving => {
                        is_leaving = true;
                        continue;
                    }
                }
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
                    let mut bytes = &buffer[..length];
                    passes(Piece::Read, bytes);
                    is_leaving = is_leaving || is_due(leaves.as_mut()).await;
                    if let Some(frames) = &mut frames {
                        if is_leaving {
                            // What follows the end of the frame is not passed on.
                            let end = frames.pass_to_end(bytes);
                            bytes = &bytes[..end.unwrap_or(length)];
                        } else {
                            frames.pass(bytes);
                        }
                    }
                    if write(&mut to, bytes, &passes).await.is_err() {
                        return Ended::WriteBroke;
                    }
                }
            }
        };
        // An error means that the side is already closed.
        let _gone = to.shutdown().await;
        ended
    }
}

/// Whether a future is ready, without waiting for it. It must not be polled after that.
async fn is_due(mut leaves: Pin<&mut impl Future<Output = ()>>) -> bool {
    poll_fn(|context| Poll::Ready(leaves.as_mut().poll(context).is_ready())).await
}

/// Writes a piece that has been read.
async fn write(
    to: &mut Writing<'_>,
    bytes: &[u8],
    passes: &impl Fn(Piece, &[u8]),
) -> io::Result<()> {
    let mut written = pin!(to.write_all(bytes));
    let mut waits = false;
    let written = poll_fn(|context| {
        let written = written.as_mut().poll(context);
        if written.is_pending() && !waits {
            waits = true;
            passes(Piece::Waits, bytes);
        }
        written
    });
    written.await?;
    if waits {
        passes(Piece::Written, bytes);
    }
    Ok(())
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
