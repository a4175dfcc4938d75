//! Relays the workers' stderr and keeps its last lines.
//!
//! stdout is inherited and never touched. stderr goes through a pipe because
//! the last words of a worker that died are what explains a failed reload. A
//! thread of its own relays, since writing to a blocked stderr must stop
//! neither supervision nor requests.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// Lines kept per worker, and bytes kept of each.
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

/// One worker's stderr, as the rest of the supervisor sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Followed>);

#[derive(Debug, Default)]
struct Followed {
    ring: Mutex<Ring>,
    /// Whether nothing more comes.
    ended: watch::Sender<bool>,
}

impl Tail {
    /// The last lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.ring().lines()
    }

    /// Resolves when all that a dead worker wrote is in the ring; or soon, since
    /// a process that escaped from the worker's group may hold the pipe open.
    pub(crate) async fn settled(&self) {
        const PATIENCE: Duration = Duration::from_millis(100);
        let mut ended = self.0.ended.subscribe();
        let _timed_out = tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended)).await;
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        // A ring is whole between any two pushes.
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.0.ended.send_replace(true);
    }
}

/// The relaying thread.
#[derive(Debug)]
pub(crate) struct Logs {
    pipes: UnboundedSender<(OwnedFd, Tail)>,
}

impl Logs {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread or no runtime can be had.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (pipes, incoming) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        std::thread::Builder::new()
            .name("stderr".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || runtime.block_on(relay_all(incoming)))?;
        Ok(Self { pipes })
    }

    /// Relays what comes out of `pipe`, the read end of a worker's stderr.
    pub(crate) fn follow(&self, pipe: OwnedFd) -> Tail {
        let tail = Tail::default();
        if self.pipes.send((pipe, tail.clone())).is_err() {
            tracing::error!("the stderr thread is gone");
            tail.end();
        }
        tail
    }
}

async fn relay_all(mut incoming: UnboundedReceiver<(OwnedFd, Tail)>) {
    while let Some((pipe, tail)) = incoming.recv().await {
        tokio::spawn(async move {
            relay(pipe, &tail).await;
            tail.end();
        });
    }
}

async fn relay(pipe: OwnedFd, tail: &Tail) {
    let Ok(mut pipe) = pipe::Receiver::from_owned_fd(pipe) else {
        return;
    };
    let mut buffer = vec![0_u8; 16 * 1024];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        tail.ring().push(&buffer[..length]);
        // A closed stderr must not end the relay: the ring still serves.
        let _closed = std::io::stderr().write_all(&buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_whole_over_split_writes() {
        let mut ring = Ring::default();
        ring.push(b"Error: no da");
        ring.push(b"tabase\n    at boot\r\nhalf");
        assert_eq!(ring.lines(), ["Error: no database", "    at boot", "half"]);
    }

    #[tokio::test]
    async fn a_tail_ends_with_its_last_writer() {
        let logs = Logs::start().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let tail = logs.follow(reader.into());
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
}
