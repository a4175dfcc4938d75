//! Copies the output of the processes of a run line by line to the stdout and stderr of
//! `scaledapp`. Each line is marked with its origin (`hello-0/1 | …` is worker 1 of pod hello-0).
//! The last lines are kept for the message of a failed start.
//!
//! Lines are not mixed, because their length is limited and each is written as a whole. Each of the
//! two streams has a thread that writes the lines. If a thread blocks on a terminal that is
//! stopped, only the processes that write lines block.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use scaledapp_runtime::Stream;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// The longest line that is copied in one piece, in bytes: the longest line that a supervisor
/// copies, plus the supervisor's mark.
const MAX_LINE_BYTES: usize = 16 * 1024 + 64;
const READ_BYTES: usize = 16 * 1024;
/// Maximum number of pieces that wait for a stream.
const QUEUE_LEN: usize = 16;
/// Maximum number of lines kept for each process, and of bytes kept of each line.
const KEPT_LINES: usize = 100;
const KEPT_BYTES: usize = 400;
/// How long a blocked stream may take to accept the rest, and a process to write its last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Foreground colours of names (ECMA-48 SGR): cyan, yellow, green, magenta, blue.
const COLOURS: [u8; 5] = [36, 33, 32, 35, 34];

enum Piece {
    Lines(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(oneshot::Sender<()>),
}

/// Stdout or stderr, and the thread that writes to it.
#[derive(Debug, Clone)]
struct Sink {
    pieces: mpsc::Sender<Piece>,
    colours: bool,
}

impl Sink {
    fn start(stream: Stream) -> io::Result<Self> {
        let (pieces, mut taken) = mpsc::channel(QUEUE_LEN);
        std::thread::Builder::new()
            .name(stream.as_str().to_owned())
            .spawn(move || {
                while let Some(sunk) = taken.blocking_recv() {
                    match sunk {
                        // If the stream is closed (`| head`), the run continues.
                        Piece::Lines(bytes) => drop(stream.write_whole(&bytes)),
                        Piece::Flush(done) => drop(done.send(())),
                    }
                }
            })?;
        let is_terminal = match stream {
            Stream::Stdout => io::stdout().is_terminal(),
            Stream::Stderr => io::stderr().is_terminal(),
        };
        Ok(Self {
            pieces,
            colours: is_terminal && scaledapp_runtime::colours_wanted(),
        })
    }

    async fn flushed(&self) {
        let (done, flushed) = oneshot::channel();
        if self.pieces.send(Piece::Flush(done)).await.is_ok() {
            // An error means that the thread has exited, so there is nothing to wait for.
            let _gone = flushed.await;
        }
    }
}

/// The stdout and stderr of `scaledapp`.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    out: Sink,
    err: Sink,
}

impl Output {
    /// Starts the threads that write.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self {
            out: Sink::start(Stream::Stdout)?,
            err: Sink::start(Stream::Stderr)?,
        })
    }

    /// Copies the output of a process, marked with its name. `number` is the index of the
    /// process and selects the colour.
    pub(crate) fn follow(
        &self,
        name: &str,
        number: usize,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> RecentLines {
        let recent = RecentLines::default();
        let name = Name {
            name: name.to_owned(),
            colour: COLOURS[number % COLOURS.len()],
        };
        let out = stdout.map(|pipe| relay(pipe, self.out.clone(), name.clone(), recent.clone()));
        let err = stderr.map(|pipe| relay(pipe, self.err.clone(), name, recent.clone()));
        let end = recent.ended.clone();
        tokio::spawn(async move {
            let out = async {
                if let Some(out) = out {
                    out.await;
                }
            };
            let err = async {
                if let Some(err) = err {
                    err.await;
                }
            };
            tokio::join!(out, err);
            end.send_replace(true);
        });
        recent
    }

    /// Prints a text of `scaledapp` itself between the lines of the processes. If stdout is closed,
    /// the state file still has the addresses.
    pub(crate) async fn say(&self, text: &str) {
        let text = Piece::Lines(text.as_bytes().to_vec());
        // An error means that the thread has exited, so nothing could be printed.
        let _gone = self.out.pieces.send(text).await;
    }

    /// Waits until everything is written, up to a time-out.
    pub(crate) async fn flushed(&self) {
        let both = async { tokio::join!(self.out.flushed(), self.err.flushed()) };
        let _unread = timeout(FLUSH_TIMEOUT, both).await;
    }
}

/// The last lines of a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentLines {
    lines: Arc<Mutex<VecDeque<Line>>>,
    ended: watch::Sender<bool>,
}

/// A line of output without its mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The slot of the worker that wrote it; `None` for the process itself.
    pub(crate) slot: Option<u32>,
    pub(crate) text: String,
}

impl RecentLines {
    /// Waits for the end of the output, up to a time-out, and returns the last lines, oldest first.
    pub(crate) async fn last(&self) -> Vec<Line> {
        let mut ended = self.ended.subscribe();
        let _timed_out = timeout(FLUSH_TIMEOUT, ended.wait_for(|ended| *ended)).await;
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    fn push(&self, slot: Option<u32>, text: &[u8]) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        let text = &text[..text.len().min(KEPT_BYTES)];
        let text = String::from_utf8_lossy(text).trim_end().to_owned();
        lines.push_back(Line { slot, text });
    }
}

#[derive(Debug, Clone)]
struct Name {
    name: String,
    colour: u8,
}

impl Name {
    /// Appends a marked line to `text`. A piece that continues a line that was too long has a `+`
    /// after the bar.
    fn mark(
        &self,
        text: &mut Vec<u8>,
        colours: bool,
        slot: Option<u32>,
        goes_on: bool,
        line: &[u8],
    ) {
        let slot = slot.map_or_else(String::new, |slot| format!("/{slot}"));
        let plus = if goes_on { "+" } else { "" };
        let name = &self.name;
        let mark = if colours {
            format!("\x1b[{}m{name}{slot} |\x1b[0m{plus} ", self.colour)
        } else {
            format!("{name}{slot} |{plus} ")
        };
        text.extend_from_slice(mark.as_bytes());
        text.extend_from_slice(line);
        text.push(b'\n');
    }
}

async fn relay(mut pipe: impl AsyncRead + Unpin, sink: Sink, name: Name, recent: RecentLines) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => &[][..],
            Ok(length) => &buffer[..length],
        };
        let mut text = Vec::new();
        let pass = |line: &[u8], goes_on: bool| {
            let (slot, continues, line) = marked_by_supervisor(line);
            recent.push(slot, line);
            name.mark(&mut text, sink.colours, slot, goes_on || continues, line);
        };
        match read {
            [] => lines.end(pass),
            read => lines.push(read, pass),
        }
        if !text.is_empty() {
            // The send fails only if the thread panicked. In that case the lines are lost.
            let _gone = sink.pieces.send(Piece::Lines(text)).await;
        }
        if read.is_empty() {
            return;
        }
    }
}

/// Splits bytes into lines of limited length.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    goes_on: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut pass: impl FnMut(&[u8], bool)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = piece.strip_suffix(b"\n");
            let mut rest = line.unwrap_or(piece);
            while self.begun.len() + rest.len() > MAX_LINE_BYTES {
                let (now, later) = rest.split_at(MAX_LINE_BYTES - self.begun.len());
                self.begun.extend_from_slice(now);
                rest = later;
                self.pass(&mut pass);
                self.goes_on = true;
            }
            self.begun.extend_from_slice(rest);
            if line.is_some() {
                self.pass(&mut pass);
                self.goes_on = false;
            }
        }
    }

    /// Passes on a last line that has no newline.
    fn end(&mut self, mut pass: impl FnMut(&[u8], bool)) {
        if !self.begun.is_empty() {
            self.pass(&mut pass);
        }
    }

    fn pass(&mut self, pass: &mut impl FnMut(&[u8], bool)) {
        pass(&self.begun, self.goes_on);
        self.begun.clear();
    }
}

/// Removes the mark of `run --logs prefix` from a line: `[SLOT] ` or `[SLOT]+ `.
fn marked_by_supervisor(line: &[u8]) -> (Option<u32>, bool, &[u8]) {
    let unmarked = (None, false, line);
    let Some(rest) = line.strip_prefix(b"[") else {
        return unmarked;
    };
    let Some(end) = rest.iter().take(11).position(|byte| *byte == b']') else {
        return unmarked;
    };
    let slot = std::str::from_utf8(&rest[..end])
        .ok()
        .and_then(|slot| slot.parse().ok());
    let rest = &rest[end + 1..];
    match (slot, rest.strip_prefix(b" "), rest.strip_prefix(b"+ ")) {
        (Some(slot), Some(line), _) => (Some(slot), false, line),
        (Some(slot), None, Some(line)) => (Some(slot), true, line),
        _ => unmarked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(reads: &[&[u8]]) -> Vec<(String, bool)> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        let mut pass =
            |line: &[u8], goes_on| all.push((String::from_utf8_lossy(line).into_owned(), goes_on));
        for read in reads {
            lines.push(read, &mut pass);
        }
        lines.end(&mut pass);
        all
    }

    #[test]
    fn lines_are_joined_across_reads_and_limited_in_length() {
        let lines = cut(&[b"on", b"e\n\ntw", b"o"]);
        let texts: Vec<&str> = lines.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["one", "", "two"]);
        let long = [vec![b'x'; MAX_LINE_BYTES * 2 + 1], b"\nnext".to_vec()].concat();
        let pieces: Vec<(usize, bool)> = cut(&[&long])
            .into_iter()
            .map(|(text, on)| (text.len(), on))
            .collect();
        assert_eq!(
            pieces,
            [
                (MAX_LINE_BYTES, false),
                (MAX_LINE_BYTES, true),
                (1, true),
                (4, false)
            ]
        );
        assert_eq!(cut(&[&vec![b'x'; MAX_LINE_BYTES], b"\n"]).len(), 1);
    }

    #[test]
    fn only_a_supervisors_mark_becomes_the_slot() {
        for (line, expected) in [
            (&b"[1] hello"[..], (Some(1), false, &b"hello"[..])),
            (b"[12]+ rest", (Some(12), true, b"rest")),
            (b"[3] ", (Some(3), false, b"")),
            (b"[1]hello", (None, false, b"[1]hello")),
            (b"[x] hello", (None, false, b"[x] hello")),
            (b"[99999999999] a", (None, false, b"[99999999999] a")),
            (b"sidecar [1] a", (None, false, b"sidecar [1] a")),
            (b"[", (None, false, b"[")),
        ] {
            assert_eq!(marked_by_supervisor(line), expected);
        }
    }

    #[test]
    fn each_line_begins_with_a_name_in_colours_if_enabled() {
        let name = Name {
            name: "hello-0".to_owned(),
            colour: 36,
        };
        let mut text = Vec::new();
        name.mark(&mut text, false, Some(1), false, b"a");
        name.mark(&mut text, false, None, false, b"b");
        name.mark(&mut text, false, Some(1), true, b"c");
        name.mark(&mut text, true, Some(1), false, b"d");
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "hello-0/1 | a\nhello-0 | b\nhello-0/1 |+ c\n\x1b[36mhello-0/1 |\x1b[0m d\n"
        );
    }
}
