//! Node's message channel to a worker, as `child_process.fork` opens it: one JSON message
//! per line, over a Unix socket whose descriptor number is in `NODE_CHANNEL_FD`.
//!
//! One message is understood (`ready`) and one is sent (`shutdown`); both are those of PM2.
//! Everything else is read and dropped, whatever its content and amount: an app that sends must
//! neither wait for the supervisor nor make the supervisor's memory grow. `readiness` and `workers`
//! decide what the messages lead to.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;

use rustix::net::{SendFlags, send};
use tokio::net::UnixStream;

/// The variables by which the worker finds the channel and its message format.
pub(crate) const NUMBER: &str = "NODE_CHANNEL_FD";
pub(crate) const SERIALIZATION: &str = "NODE_CHANNEL_SERIALIZATION_MODE";

/// The longest line that is parsed; the expected one has 7 bytes.
const LINE_BYTES: usize = 64;
/// How many bytes are read in one call. A longer message is read in several pieces. The buffer is
/// on the stack.
const PIECE_BYTES: usize = 16 * 1024;

/// The supervisor's end of a worker's channel.
#[derive(Debug, Clone)]
pub(crate) struct Channel(Rc<UnixStream>);

impl Channel {
    /// Takes the supervisor's end.
    ///
    /// # Errors
    /// The reactor cannot watch the socket.
    pub(crate) fn new(ours: StdStream) -> io::Result<Self> {
        ours.set_nonblocking(true)?;
        Ok(Self(Rc::new(UnixStream::from_std(ours)?)))
    }

    /// Reads until the worker closes its end, which it may do at any time; calls `ready` when
    /// the first `ready` message arrives.
    pub(crate) async fn read(self, ready: impl FnOnce()) {
        let mut ready = Some(ready);
        let mut lines = Lines::default();
        while self.0.readable().await.is_ok() {
            match self.piece(&mut lines, ready.is_some()) {
                Ok(Piece::End) => return,
                Ok(Piece::Ready) => {
                    if let Some(ready) = ready.take() {
                        ready();
                    }
                }
                Ok(Piece::Other) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => {
                    tracing::debug!(%error, "a worker's message channel has ended");
                    return;
                }
            }
            // A worker that sends endlessly must not block the other tasks.
            tokio::task::yield_now().await;
        }
    }

    /// Reads once. This function is not async, so that the buffer is not part of a waiting task.
    fn piece(&self, lines: &mut Lines, looks: bool) -> io::Result<Piece> {
        let mut buffer = [0; PIECE_BYTES];
        match self.0.try_read(&mut buffer)? {
            0 => Ok(Piece::End),
            length if looks && lines.push(&buffer[..length]) => Ok(Piece::Ready),
            _ => Ok(Piece::Other),
        }
    }

    /// Sends `shutdown`; returns whether it was sent. That fails if the worker has closed its end
    /// (`process.disconnect`).
    pub(crate) fn ask_to_end(&self) -> bool {
        const MESSAGE: &[u8] = b"\"shutdown\"\n";
        // Bypasses tokio, which would first have to find out whether the socket is
        // writable.
        let sent = send(&*self.0, MESSAGE, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        sent == Ok(MESSAGE.len())
    }
}

enum Piece {
    End,
    Ready,
    Other,
}

/// Finds `"ready"` in a stream of messages that arrives in pieces of any size.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of the unfinished line, at most one byte more than [`LINE_BYTES`].
    begun: Vec<u8>,
}

impl Lines {
    /// Whether one of the lines that end in `bytes` is the message `ready`.
    fn push(&mut self, bytes: &[u8]) -> bool {
        let mut found = false;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = (LINE_BYTES + 1).saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&line[..line.len().min(room)]);
            if line.ends_with(b"\n") {
                found |= is_ready(&self.begun);
                self.begun.clear();
            }
        }
        found
    }
}

/// Whether a line is the JSON text `ready`. Node's own messages (`NODE_HANDLE` and so on)
/// are objects, as is nearly everything that apps send.
fn is_ready(line: &[u8]) -> bool {
    line.len() <= LINE_BYTES
        && serde_json::from_slice::<String>(line).is_ok_and(|text| text == "ready")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn finds(bytes: &[u8]) -> bool {
        Lines::default().push(bytes)
    }

    #[test]
    fn only_the_exact_text_means_ready() {
        for ready in [
            "\"ready\"\n",
            "\"re\\u0061dy\"\n",
            " \"ready\" \r\n",
            "{\"a\":1}\n\"ready\"\n",
            "garbage\n\"ready\"\n[1]\n",
        ] {
            assert!(finds(ready.as_bytes()), "{ready:?}");
        }
        for other in [
            "",
            "\n",
            "\"ready\"",
            "ready\n",
            "\"Ready\"\n",
            "\"ready\"\"ready\"\n",
            "[\"ready\"]\n",
            "{\"cmd\":\"NODE_HANDLE\",\"msg\":\"ready\"}\n",
            "{\"type\":\"ready\"}\n",
            "\"\\xff\"\n",
        ] {
            assert!(!finds(other.as_bytes()), "{other:?}");
        }
        let long = format!("\"ready\"{}\n", " ".repeat(2 * LINE_BYTES));
        assert!(!finds(long.as_bytes()));
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            assert!(!lines.push(&[b'x'; 10_000]));
            assert!(lines.begun.len() <= LINE_BYTES + 1);
        }
        assert!(!lines.push(b"\n"));
        assert!(lines.push(b"\"ready\"\n"));
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_have_the_same_meaning(
            words in prop::collection::vec(prop_oneof![Just("\"ready\""), Just("{}"), Just(""), Just("x")], 0..6),
            at in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let text: String = words.iter().flat_map(|word| [word, "\n"]).collect();
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut lines = Lines::default();
            let mut found = false;
            let mut begin = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                found |= lines.push(&bytes[begin..cut]);
                begin = cut;
            }
            prop_assert_eq!(found, words.contains(&"\"ready\""));
        }
    }
}
