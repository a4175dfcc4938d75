//! Relays the output of the workers and keeps their last lines.
//!
//! Unless lines are to be marked, stdout is inherited and never touched. stderr always goes
//! through a pipe, because the last lines of a worker that ended explain a failed reload.
//! One thread reads all pipes, and each of the supervisor's own streams has a thread that
//! writes, because a stuck reader of its output must stop neither supervision nor requests.
//! The user decides what a stuck reader means for the workers: either they wait, as they
//! would without a supervisor, or their lines are dropped and counted.

pub(crate) mod frames;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use scaledapp_runtime::Stream;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::cli::{LogsArg, LogsFullArg};
use crate::logs::frames::{Lines, Mark, Origin};

/// The number of lines kept per worker, and the bytes kept of each.
const LINES: usize = 20;
const LINE_BYTES: usize = 1024;

/// The last lines of one worker's stderr.
#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<String>,
    partial: Vec<u8>,
}

impl Ring {
    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = piece.ends_with(b"\n");
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LINE_BYTES.saturating_sub(self.partial.len());
            self.partial
                .extend_from_slice(&text[..text.len().min(room)]);
            if whole {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        let line = String::from_utf8_lossy(&self.partial);
        self.lines.push_back(line.trim_end().to_owned());
        self.partial.clear();
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.lines.iter().cloned().collect();
        if !self.partial.is_empty() {
            lines.push(String::from_utf8_lossy(&self.partial).into_owned());
        }
        lines
    }
}

/// A handle to the last stderr lines of one worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Followed>);

#[derive(Debug, Default)]
struct Followed {
    ring: Mutex<Ring>,
    /// Whether the pipe has ended.
    ended: watch::Sender<bool>,
}

impl Tail {
    /// The last lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.ring().lines()
    }

    /// Resolves when everything that an ended worker wrote is in the ring. It gives up
    /// after a moment, because a process that escaped from the worker's group may keep the
    /// pipe open.
    pub(crate) async fn settled(&self) {
        const SETTLE_TIMEOUT: Duration = Duration::from_millis(100);
        let mut ended = self.0.ended.subscribe();
        let _timed_out = tokio::time::timeout(SETTLE_TIMEOUT, ended.wait_for(|ended| *ended)).await;
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        // The ring is consistent between any two pushes, so a panic elsewhere does no harm.
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.0.ended.send_replace(true);
    }
}

/// How many pieces of about [`PIECE_BYTES`] may wait for a stream. When that many wait, reading
/// pauses or further pieces are dropped, as `--logs-full` demands.
const PIECES: usize = 16;
/// How many bytes are read in one call. Marked lines are passed on once they fill four times
/// as much.
const PIECE_BYTES: usize = 16 * 1024;

/// A message to the thread of one stream.
enum SinkMessage {
    Bytes(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(oneshot::Sender<()>),
}

/// One of the supervisor's own streams, and the thread that writes to it.
#[derive(Debug, Clone)]
struct Sink {
    pieces: mpsc::Sender<SinkMessage>,
    full: LogsFullArg,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    fn start(
        name: &str,
        full: LogsFullArg,
        dropped: Arc<AtomicU64>,
        mut write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (pieces, mut taken) = mpsc::channel(PIECES);
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                while let Some(sunk) = taken.blocking_recv() {
                    match sunk {
                        // A closed stream must not end the relay, because the ring is still
                        // needed.
                        SinkMessage::Bytes(bytes) => drop(write(&bytes)),
                        SinkMessage::Flush(done) => drop(done.send(())),
                    }
                }
            })?;
        Ok(Self {
            pieces,
            full,
            dropped,
        })
    }

    /// Passes on whole lines, or pieces of an unmarked stream. If the queue is full, this either
    /// waits or drops the lines and counts them, as `--logs-full` demands.
    async fn pass(&self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self.full {
            // Sending fails only if the thread has panicked, and then nothing can be done.
            LogsFullArg::Block => drop(self.pieces.send(SinkMessage::Bytes(bytes)).await),
            LogsFullArg::Drop => {
                if let Err(mpsc::error::TrySendError::Full(SinkMessage::Bytes(bytes))) =
                    self.pieces.try_send(SinkMessage::Bytes(bytes))
                {
                    let lines = bytes.split(|byte| *byte == b'\n').count() - 1;
                    self.dropped
                        .fetch_add(lines.max(1) as u64, Ordering::Relaxed);
                }
            }
        }
    }

    async fn flushed(&self) {
        let (done, flushed) = oneshot::channel();
        if self.pieces.send(SinkMessage::Flush(done)).await.is_ok() {
            // An error means that the thread has ended, so nothing is left to flush.
            let _gone = flushed.await;
        }
    }
}

/// A worker's pipes, on their way to the thread that reads them.
struct Pipes {
    slot: u32,
    pid: u32,
    stdout: Option<OwnedFd>,
    stderr: OwnedFd,
    tail: Tail,
}

/// The relaying threads.
#[derive(Debug)]
pub(crate) struct Logs {
    pipes: UnboundedSender<Pipes>,
    sinks: Vec<Sink>,
    dropped: Arc<AtomicU64>,
}

impl Logs {
    /// Starts the threads.
    ///
    /// # Errors
    /// A thread or a runtime cannot be started.
    pub(crate) fn start(logs: LogsArg, full: LogsFullArg) -> io::Result<Self> {
        let mark = mark_of(logs);
        let dropped = Arc::new(AtomicU64::new(0));
        let sink = |stream: Stream| {
            Sink::start(stream.as_str(), full, Arc::clone(&dropped), move |bytes| {
                stream.write_whole(bytes)
            })
        };
        let stderr = sink(Stream::Stderr)?;
        let stdout = mark.map(|_| sink(Stream::Stdout)).transpose()?;
        let (pipes, incoming) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let sinks = stdout.iter().chain([&stderr]).cloned().collect();
        std::thread::Builder::new()
            .name("logs".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || runtime.block_on(relay_all(incoming, mark, stdout, stderr)))?;
        Ok(Self {
            pipes,
            sinks,
            dropped,
        })
    }

    /// Whether the workers' stdout has to come through a pipe.
    pub(crate) fn wants_stdout(logs: LogsArg) -> bool {
        mark_of(logs).is_some()
    }

    /// Relays a worker's stdout, if it is a pipe, and its stderr; both are given as read
    /// ends.
    pub(crate) fn follow(
        &self,
        slot: u32,
        pid: u32,
        stdout: Option<OwnedFd>,
        stderr: OwnedFd,
    ) -> Tail {
        let tail = Tail::default();
        let pipes = Pipes {
            slot,
            pid,
            stdout,
            stderr,
            tail: tail.clone(),
        };
        if self.pipes.send(pipes).is_err() {
            tracing::error!("the thread that relays the workers' output is gone");
            tail.end();
        }
        tail
    }

    /// The number of lines that were dropped because a stream was full.
    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// Resolves when everything that was read is written. It gives up after a moment,
    /// because the output may have no reader.
    pub(crate) async fn flushed(&self) {
        const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
        let _unread = tokio::time::timeout(FLUSH_TIMEOUT, async {
            for sink in &self.sinks {
                sink.flushed().await;
            }
        })
        .await;
    }
}

fn mark_of(logs: LogsArg) -> Option<Mark> {
    match logs {
        LogsArg::Inherit => None,
        LogsArg::Prefix => Some(Mark::Prefix),
        LogsArg::Json => Some(Mark::Json),
    }
}

async fn relay_all(
    mut incoming: UnboundedReceiver<Pipes>,
    mark: Option<Mark>,
    out: Option<Sink>,
    err: Sink,
) {
    while let Some(pipes) = incoming.recv().await {
        let origin = |stream| Origin {
            slot: pipes.slot,
            pid: pipes.pid,
            stream,
        };
        let stdout = pipes
            .stdout
            .zip(out.clone())
            .map(|(pipe, sink)| relay(pipe, sink, mark, origin(Stream::Stdout), None));
        let stderr = relay(
            pipes.stderr,
            err.clone(),
            mark,
            origin(Stream::Stderr),
            Some(pipes.tail.clone()),
        );
        tokio::spawn(async move {
            match stdout {
                Some(stdout) => drop(tokio::join!(stdout, stderr)),
                None => stderr.await,
            }
            pipes.tail.end();
        });
    }
}

async fn relay(pipe: OwnedFd, sink: Sink, mark: Option<Mark>, origin: Origin, tail: Option<Tail>) {
    let Ok(mut pipe) = pipe::Receiver::from_owned_fd(pipe) else {
        return;
    };
    let mut lines = Lines::default();
    let mut buffer = vec![0_u8; PIECE_BYTES];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let read = &buffer[..length];
        if let Some(tail) = &tail {
            tail.ring().push(read);
        }
        match mark {
            None => sink.pass(read.to_vec()).await,
            Some(mark) => relay_marked(&sink, mark, origin, &mut lines, read).await,
        }
    }
    if let (Some(mark), Some(rest)) = (mark, lines.end()) {
        let mut text = Vec::new();
        frames::mark(&mut text, mark, origin, SystemTime::now(), &rest);
        sink.pass(text).await;
    }
}

/// Marks lines and passes them on. Marks make short lines much longer, so the text is passed on
/// each time it is long enough.
async fn relay_marked(sink: &Sink, mark: Mark, origin: Origin, lines: &mut Lines, mut read: &[u8]) {
    let now = SystemTime::now();
    let mut text = Vec::new();
    while let Some(piece) = lines.next(&mut read) {
        frames::mark(&mut text, mark, origin, now, &piece);
        if text.len() > 4 * PIECE_BYTES {
            sink.pass(std::mem::take(&mut text)).await;
        }
    }
    sink.pass(text).await;
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc as channel;

    use super::*;

    #[test]
    fn the_last_lines_are_complete_even_if_writes_are_split() {
        let mut ring = Ring::default();
        ring.push(b"Error: no da");
        ring.push(b"tabase\n    at boot\r\nhalf");
        assert_eq!(ring.lines(), ["Error: no database", "    at boot", "half"]);
    }

    #[tokio::test]
    async fn a_tail_ends_with_its_last_writer() {
        let logs = Logs::start(LogsArg::Inherit, LogsFullArg::Block).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let tail = logs.follow(0, 1, None, reader.into());
        (&writer).write_all(b"last words").unwrap();
        drop(writer);
        let mut ended = tail.0.ended.subscribe();
        let ended = tokio::time::timeout(Duration::from_secs(10), ended.wait_for(|ended| *ended));
        ended.await.unwrap().unwrap();
        assert_eq!(tail.lines(), ["last words"]);
    }

    #[test]
    fn memory_is_bounded_in_lines_and_in_bytes() {
        let mut ring = Ring::default();
        ring.push(&vec![b'x'; 1 << 20]);
        assert_eq!(ring.lines()[0].len(), LINE_BYTES);
        for number in 0..1000 {
            ring.push(format!("\nline {number}").as_bytes());
        }
        ring.push(b"\n");
        let lines = ring.lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.last().map(String::as_str), Some("line 999"));
    }

    /// A sink whose thread takes one piece and then waits until the returned sender is dropped.
    fn stuck(full: LogsFullArg) -> (Sink, channel::Sender<()>, channel::Receiver<Vec<u8>>) {
        let (open, opened) = channel::channel();
        let (sent, written) = channel::channel();
        let sink = Sink::start("test", full, Arc::default(), move |bytes| {
            let _open = opened.recv();
            sent.send(bytes.to_vec()).map_err(io::Error::other)
        });
        (sink.unwrap(), open, written)
    }

    #[tokio::test]
    async fn a_full_stream_makes_the_workers_wait() {
        let (sink, open, written) = stuck(LogsFullArg::Block);
        let sent = sink.clone();
        let sending = tokio::spawn(async move {
            for number in 0..100 {
                sent.pass(format!("{number}\n").into_bytes()).await;
            }
        });
        while sink.pieces.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!sending.is_finished());
        drop(open);
        sending.await.unwrap();
        sink.flushed().await;
        assert_eq!(written.try_iter().count(), 100);
        assert_eq!(sink.dropped.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_full_stream_drops_complete_lines_and_counts_them() {
        let (sink, open, written) = stuck(LogsFullArg::Drop);
        for number in 0..100 {
            sink.pass(format!("{number}\nand\n").into_bytes()).await;
        }
        drop(open);
        sink.flushed().await;
        let kept = written.try_iter().count() as u64;
        // The thread may have taken one piece besides those that wait.
        assert!((16..=17).contains(&kept), "{kept}");
        assert_eq!(sink.dropped.load(Ordering::Relaxed), 2 * (100 - kept));
    }
}
