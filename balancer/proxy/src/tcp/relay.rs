//! The bytes of a connection in both directions, until both have ended.
//!
//! The directions are independent: the end of one side's bytes (FIN) is passed on, and the other
//! direction goes on. A direction reads only after the other side has taken what was read before,
//! so a slow reader slows its sender. A reset ends both directions.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::buffer::LARGE_BYTES;
use crate::clock::{self, Cut, Deadline};
use crate::endpoint::Endpoint;
use crate::metrics::add;
use crate::newcomers::Newcomer;
use crate::pipes::{MAX_TURN_BYTES, PIPE_BYTES};
use crate::thread::Thread;
use crate::transport::{Side, Transport};

/// How a relay has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides have ended in order.
    Finished,
    /// The client has broken off.
    ClientBroke,
    /// The endpoint has broken off.
    EndpointBroke,
    /// No byte has moved for too long.
    Silent,
    /// It had to make room.
    Cut(Cut),
}

/// How a direction has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Its sender has finished, and its receiver knows.
    Finished,
    /// Its sender has broken off.
    ReadBroke,
    /// Its receiver takes nothing more.
    WriteBroke,
}

/// How many bytes a relay has moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) from_client: u64,
    pub(super) to_client: u64,
}

/// Relays until both sides have ended, one of them breaks off, or no byte moves for too long.
pub(super) async fn run(
    thread: &Thread,
    client: &mut Transport,
    upstream: &mut Transport,
    deadline: &Deadline,
    endpoint: &Endpoint,
    newcomer: Newcomer<'_>,
) -> (End, Moved) {
    let (Some(client), Some(upstream)) = (client.side(), upstream.side()) else {
        // A stream of HTTP/2 never comes here.
        return (End::ClientBroke, Moved::default());
    };
    let silence = Silence::new(thread, deadline, newcomer);
    let up = Direction {
        thread,
        silence: &silence,
        endpoint,
        from: client.clone(),
        to: upstream.clone(),
        is_up: true,
        moved: Cell::new(0),
        counter: &thread.counts.relay_received,
    };
    let down = Direction {
        thread,
        silence: &silence,
        endpoint,
        from: upstream.clone(),
        to: client.clone(),
        is_up: false,
        moved: Cell::new(0),
        counter: &thread.counts.relay_sent,
    };
    let end = both(&up, &down, &silence).await;
    let moved = Moved {
        from_client: up.moved.get(),
        to_client: down.moved.get(),
    };
    (end, moved)
}

async fn both(up: &Direction<'_, '_>, down: &Direction<'_, '_>, silence: &Silence<'_>) -> End {
    let (client, upstream) = (&up.from, &up.to);
    let (mut sending, mut receiving) = (pin!(up.run()), pin!(down.run()));
    // A side whose bytes have all been read is not read any more, so a reset is not noticed by
    // reading.
    let (mut client_breaks, mut upstream_breaks) = (pin!(client.breaks()), pin!(upstream.breaks()));
    let (mut is_up_open, mut is_down_open) = (true, true);
    while is_up_open || is_down_open {
        tokio::select! {
            ended = &mut sending, if is_up_open => match ended {
                Ended::ReadBroke => return End::ClientBroke,
                // What the endpoint has sent before is still passed on; then its reset is read.
                Ended::WriteBroke | Ended::Finished => {
                    is_up_open = false;
                    silence.shortens();
                }
            },
            ended = &mut receiving, if is_down_open => match ended {
                Ended::ReadBroke => return End::EndpointBroke,
                Ended::WriteBroke => return End::ClientBroke,
                Ended::Finished => {
                    is_down_open = false;
                    silence.shortens();
                }
            },
            () = &mut client_breaks, if !is_up_open => return End::ClientBroke,
            () = &mut upstream_breaks, if !is_down_open => return End::EndpointBroke,
            () = silence.is_too_long() => return silence.end(),
        }
    }
    End::Finished
}

/// How long no byte may move. The thread's clock may be a second late while there are only relays.
struct Silence<'a> {
    deadline: &'a Deadline,
    time: Cell<Duration>,
    /// As `time`, after one side has ended.
    after_end: Duration,
    /// Bytes that both directions hold while a side does not take them.
    held: Cell<usize>,
    /// Until a byte has moved, the connection may end to make room: it costs its client
    /// nothing to open connections and leave them.
    newcomer: Cell<Option<Newcomer<'a>>>,
}

impl<'a> Silence<'a> {
    fn new(thread: &Thread, deadline: &'a Deadline, newcomer: Newcomer<'a>) -> Self {
        let limits = &thread.config.limits;
        let silence = Self {
            deadline,
            time: Cell::new(limits.upgrade_time),
            after_end: limits.stall_time.min(limits.upgrade_time),
            held: Cell::new(0),
            newcomer: Cell::new(Some(newcomer)),
        };
        silence.stalls();
        silence
    }

    /// A byte has moved.
    fn breaks(&self) {
        drop(self.newcomer.take());
        let until = clock::now().saturating_add(self.time.get());
        self.deadline.set_lax(until);
    }

    /// The client is expected to act next.
    fn stalls(&self) {
        let now = clock::now();
        let until = now.saturating_add(self.time.get());
        self.deadline.set_stalled(until, Some(now));
    }

    /// One side has ended.
    fn shortens(&self) {
        self.time.set(self.after_end);
        self.breaks();
    }

    /// Resolves when no byte has moved for too long, or when the connection must make room.
    async fn is_too_long(&self) {
        poll_fn(|context| self.deadline.poll(context)).await;
    }

    fn end(&self) -> End {
        self.deadline.cut().map_or(End::Silent, End::Cut)
    }

    fn holds(&self, bytes: usize) {
        self.held.set(self.held.get() + bytes);
        self.deadline.holds(self.held.get());
    }

    fn releases(&self, bytes: usize) {
        self.held.set(self.held.get() - bytes);
        self.deadline.holds(self.held.get());
    }
}

/// One direction of a relay.
pub(super) struct Direction<'a, 's> {
    thread: &'a Thread,
    silence: &'a Silence<'s>,
    endpoint: &'a Endpoint,
    from: Side<'a>,
    to: Side<'a>,
    /// It leads from the client to the endpoint.
    is_up: bool,
    moved: Cell<u64>,
    counter: &'a AtomicU64,
}

impl Direction<'_, '_> {
    /// Moves all bytes, and then their end.
    async fn run(&self) -> Ended {
        let buffers = &self.thread.buffers;
        let mut piece = Vec::new();
        let ended = loop {
            let read = poll_fn(|context| {
                if piece.is_empty() {
                    // A connection at rest needs no memory.
                    ready!(self.from.poll_readable(context))?;
                    piece = buffers.take();
                }
                let read = self.from.poll_read(context, &mut piece);
                if read.is_pending() {
                    buffers.put(std::mem::take(&mut piece));
                }
                read
            });
            let length = match read.await {
                Ok(0) => break Ended::Finished,
                Ok(length) => length,
                Err(error) => {
                    tracing::debug!(%error, is_up = self.is_up, "a connection broke");
                    break Ended::ReadBroke;
                }
            };
            self.moves(length);
            if let Err(ended) = self.write(&piece[..length]).await {
                break ended;
            }
            if length == piece.len()
                && let Err(ended) = self.stream(&mut piece).await
            {
                break ended;
            }
        };
        buffers.put(piece);
        if ended != Ended::Finished {
            return ended;
        }
        match self.to.finish().await {
            Ok(()) => Ended::Finished,
            Err(_) => Ended::WriteBroke,
        }
    }

    /// As long as the sender is ahead, lets the kernel move the bytes, or takes more memory.
    async fn stream(&self, piece: &mut Vec<u8>) -> Result<(), Ended> {
        if let (Some(from), Some(to)) = (self.from.plain(), self.to.plain())
            && let Some(mut pipe) = self.thread.pipes.take()
        {
            let mut turn = 0;
            loop {
                if turn > MAX_TURN_BYTES {
                    tokio::task::yield_now().await;
                    turn = 0;
                }
                match pipe.fill(from, PIPE_BYTES) {
                    // The next read will see the end, too.
                    Ok(None | Some(0)) => return Ok(()),
                    Ok(Some(length)) => {
                        self.moves(length);
                        turn += length;
                        let empty = |context: &mut Context<'_>| pipe.poll_empty(to, context);
                        self.deliver(length, empty).await?;
                    }
                    Err(_) => return Err(Ended::ReadBroke),
                }
            }
        }
        let memory = &self.thread.memory;
        if piece.len() < LARGE_BYTES && memory.may_widen() {
            memory.spend(LARGE_BYTES as u64);
            *piece = vec![0; LARGE_BYTES];
        }
        Ok(())
    }

    /// Records that bytes were read.
    fn moves(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.moved.set(self.moved.get() + bytes);
        add(self.counter, bytes);
        self.silence.breaks();
        if !self.is_up {
            self.endpoint.hear(clock::now());
        }
    }

    /// Writes all of `bytes`.
    async fn write(&self, bytes: &[u8]) -> Result<(), Ended> {
        let mut rest = bytes;
        let write = |context: &mut Context<'_>| {
            while !rest.is_empty() {
                let written = ready!(self.to.poll_write(context, rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                rest = &rest[written..];
            }
            Poll::Ready(Ok(()))
        };
        self.deliver(bytes.len(), write).await
    }

    /// Carries out a write of `length` bytes.
    async fn deliver(
        &self,
        length: usize,
        mut write: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Result<(), Ended> {
        let at_once = poll_fn(|context| Poll::Ready(write(context))).await;
        if let Poll::Ready(written) = at_once {
            return written.map_err(|_| Ended::WriteBroke);
        }
        self.silence.holds(length);
        if !self.is_up {
            self.silence.stalls();
        }
        let written = tokio::select! {
            biased;
            written = poll_fn(write) => written.map_err(|_| Ended::WriteBroke),
            // For a client that has gone, nobody needs the answer. An endpoint may end after its
            // last bytes, and its client still reads them.
            () = self.from.breaks(), if self.is_up => Err(Ended::ReadBroke),
        };
        self.silence.releases(length);
        self.silence.breaks();
        written
    }
}
