//! A bounded queue of text for a stream that may not accept it, and the one thread that writes the
//! text.
//!
//! Putting a piece in never waits. When the queue is full, further pieces are dropped and
//! counted, and the count is written as soon as all pieces before them are written.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most bytes that may wait. That is enough for a burst of lines at debug level, but
/// not for an hour of them.
const MAX_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether the thread is writing a piece.
    writing: bool,
    /// The number of dropped pieces since the count was last written.
    unsaid: u64,
    /// The number of all dropped pieces.
    dropped: u64,
}

/// The queue; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// A queue whose thread writes by calling `write`. Errors of `write` are ignored, because they
    /// cannot be reported anywhere else.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(
        mut write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Self::default();
        let taken = queue.clone();
        std::thread::Builder::new()
            .name("log".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                loop {
                    let piece = taken.take();
                    let _nowhere_to_tell = write(&piece);
                }
            })?;
        Ok(queue)
    }

    /// Puts a piece in, or counts it as dropped.
    pub(crate) fn put(&self, piece: Vec<u8>) {
        let mut state = self.state();
        if state.bytes + piece.len() > MAX_BYTES {
            state.unsaid += 1;
            state.dropped += 1;
            return;
        }
        state.bytes += piece.len();
        state.pieces.push_back(piece);
        self.0.changed.notify_all();
    }

    /// The number of pieces dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Waits until all pieces are written, for at most `most`; returns whether they are.
    pub(crate) fn flush(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        let mut state = self.state();
        while state.writing || !state.pieces.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.0.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Takes the next piece, waiting for one if necessary.
    fn take(&self) -> Vec<u8> {
        let mut state = self.state();
        state.writing = false;
        loop {
            if state.unsaid > 0 && state.pieces.is_empty() {
                let unsaid = std::mem::take(&mut state.unsaid);
                state.writing = true;
                return format!(
                    "({unsaid} log lines were dropped here: stderr accepted no more)\n"
                )
                .into_bytes();
            }
            if let Some(piece) = state.pieces.pop_front() {
                state.bytes -= piece.len();
                state.writing = true;
                return piece;
            }
            self.0.changed.notify_all();
            state = self
                .0
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step of a change can panic, so a poisoned lock still guards consistent data.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn pieces_are_written_in_order_and_flush_waits_for_them() {
        let (sent, received) = mpsc::channel();
        let queue = Queue::start(move |piece| {
            sent.send(piece.to_vec()).unwrap();
            Ok(())
        })
        .unwrap();
        for number in 0..100 {
            queue.put(format!("{number}").into_bytes());
        }
        assert!(queue.flush(LONG));
        let all: Vec<String> = received
            .try_iter()
            .map(|piece| String::from_utf8(piece).unwrap())
            .collect();
        let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_stuck_stream_blocks_no_caller_and_the_loss_is_reported() {
        let (open, opened) = mpsc::channel::<()>();
        let (sent, received) = mpsc::channel();
        let queue = Queue::start(move |piece| {
            // Blocked until the test releases it.
            let _open = opened.recv();
            sent.send(piece.to_vec()).unwrap();
            Ok(())
        })
        .unwrap();
        for _ in 0..1000 {
            queue.put(vec![b'x'; 1024]);
        }
        assert!(!queue.flush(Duration::from_millis(1)));
        let dropped = queue.dropped();
        assert!((700..1000).contains(&dropped), "{dropped}");
        drop(open);
        assert!(queue.flush(LONG));
        let last = received.try_iter().last().unwrap();
        let last = String::from_utf8(last).unwrap();
        assert!(last.contains(&format!("({dropped} log lines")), "{last}");
    }
}
