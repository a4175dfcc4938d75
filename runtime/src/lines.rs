//! A bounded queue of output lines for a stream that may not accept them, and the one thread that
//! writes the lines.
//!
//! Unlike the log's queue (`queue`), it writes nothing of its own between the lines, because
//! programs read them, and it writes many lines at once, because there may be tens of thousands
//! per second. Putting a line in never waits: a line for which there is no room is dropped and
//! counted. The caller decides what a line says.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most bytes that may wait. As many again may be on their way to the stream. At 40,000
/// requests per second, these are the lines of a tenth of a second.
const MAX_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
struct State {
    /// Whole lines.
    bytes: Vec<u8>,
    /// The number of lines in `bytes`.
    count: u64,
    /// Whether the thread waits for lines.
    idle: bool,
    dropped: u64,
}

/// A queue of lines; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// Notified when the thread should look for lines.
    filled: Condvar,
    /// Notified when the thread has written all lines.
    written: Condvar,
}

impl Lines {
    /// A queue whose thread passes whole lines, many at once, to `write`. Lines for which
    /// `write` returns an error count as dropped.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        mut write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let lines = Self::default();
        let taken = lines.clone();
        std::thread::Builder::new()
            .name("lines".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                let mut bytes = Vec::new();
                loop {
                    let count = taken.take(&mut bytes);
                    if write(&bytes).is_err() {
                        taken.state().dropped += count;
                    }
                    bytes.clear();
                }
            })?;
        Ok(lines)
    }

    /// Puts in a line, which must end with a line feed, or counts it as dropped.
    pub fn put(&self, line: &[u8]) {
        let mut state = self.state();
        if state.bytes.len() + line.len() > MAX_BYTES {
            state.dropped += 1;
            return;
        }
        state.bytes.extend_from_slice(line);
        state.count += 1;
        // Waking a thread costs a system call.
        if std::mem::take(&mut state.idle) {
            self.0.filled.notify_one();
        }
    }

    /// The number of lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Waits until all lines are written, for at most `most`; returns whether they are.
    pub fn flush(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        let mut state = self.state();
        while !(state.idle && state.bytes.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.0.written.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Exchanges all lines for the memory of `into`, which is empty. Waits until there are some.
    fn take(&self, into: &mut Vec<u8>) -> u64 {
        let mut state = self.state();
        while state.bytes.is_empty() {
            state.idle = true;
            self.0.written.notify_all();
            let woken = self.0.filled.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        std::mem::swap(&mut state.bytes, into);
        std::mem::take(&mut state.count)
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
    fn lines_are_written_whole_and_in_order_and_flush_waits_for_them() {
        let (sent, received) = mpsc::channel();
        let lines = Lines::start(move |bytes| {
            sent.send(bytes.to_vec()).unwrap();
            Ok(())
        })
        .unwrap();
        for number in 0..1000 {
            lines.put(format!("{number}\n").as_bytes());
        }
        assert!(lines.flush(LONG));
        let pieces: Vec<Vec<u8>> = received.try_iter().collect();
        assert!(pieces.iter().all(|piece| piece.ends_with(b"\n")));
        let expected: Vec<String> = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(
            String::from_utf8(pieces.concat()).unwrap(),
            expected.concat()
        );
        assert_eq!(lines.dropped(), 0);
    }

    #[test]
    fn a_stuck_stream_blocks_no_caller_and_what_does_not_fit_is_counted() {
        let (open, opened) = mpsc::channel::<()>();
        let (sent, received) = mpsc::channel();
        let lines = Lines::start(move |bytes| {
            // Blocked until the test releases it.
            let _open = opened.recv();
            sent.send(bytes.len() as u64 / 1024).unwrap();
            Ok(())
        })
        .unwrap();
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        for _ in 0..4000 {
            lines.put(&line);
        }
        assert!(!lines.flush(Duration::from_millis(1)));
        let dropped = lines.dropped();
        assert!((1900..4000).contains(&dropped), "{dropped}");
        drop(open);
        assert!(lines.flush(LONG));
        assert_eq!(received.try_iter().sum::<u64>() + dropped, 4000);
    }

    #[test]
    fn lines_that_a_closed_stream_refuses_are_counted() {
        let lines = Lines::start(|_| Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        for _ in 0..3 {
            lines.put(b"x\n");
        }
        assert!(lines.flush(LONG));
        assert_eq!(lines.dropped(), 3);
    }
}
