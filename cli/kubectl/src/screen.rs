//! A page that is renewed: on a terminal in its alternate screen, without flicker and within its
//! height; elsewhere each page that differs from the one before it, after an empty line.

use std::io::{IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use tokio::sync::mpsc;

use crate::text::{Line, Style, page};

/// What the reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Renew the page.
    Look,
    /// End.
    Quit,
}

/// The place where pages are shown.
pub(crate) struct Screen {
    colours: bool,
    lines: Vec<Line>,
    note: Option<String>,
    first: usize,
    paused: bool,
    keys: mpsc::UnboundedReceiver<u8>,
    terminal: Option<Raw>,
    shown: String,
}

/// The terminal's settings before; they are set again when this is dropped.
struct Raw(Option<Termios>);

impl Raw {
    /// Keys come at once, without Enter. Ctrl-C still ends the program.
    fn enter() -> Self {
        write("\x1b[?1049h\x1b[?25l");
        if !std::io::stdin().is_terminal() {
            return Self(None);
        }
        let before = termios::tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.local_modes
                .remove(LocalModes::ICANON | LocalModes::ECHO);
            let _as_before = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _gone = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
        write("\x1b[?25h\x1b[?1049l");
    }
}

fn write(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A terminal that has gone ends the program by its signal.
    drop(
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush()),
    );
}

impl Screen {
    /// Takes the terminal, if stdout is one.
    pub(crate) fn open(is_terminal: bool, colours: bool) -> Self {
        let (send, keys) = mpsc::unbounded_channel();
        let terminal = is_terminal.then(Raw::enter);
        if terminal.as_ref().is_some_and(|raw| raw.0.is_some()) {
            // The thread ends with the process: reading keys cannot be interrupted.
            std::thread::spawn(move || {
                for key in std::io::stdin().lock().bytes().flatten() {
                    if send.send(key).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            colours,
            lines: Vec::new(),
            note: None,
            first: 0,
            paused: false,
            keys,
            terminal,
            shown: String::new(),
        }
    }

    /// Shows a page.
    pub(crate) fn show(&mut self, lines: Vec<Line>) {
        self.lines = lines;
        self.note = None;
        self.draw();
    }

    /// Shows beside the last page why there is no newer one.
    pub(crate) fn trouble(&mut self, text: &str) {
        self.note = Some(format!("not renewed: {text}"));
        self.draw();
    }

    fn draw(&mut self) {
        if self.terminal.is_none() {
            let mut text = page(&self.lines, self.colours);
            if let Some(note) = &self.note {
                text += &crate::text::clean(note);
                text.push('\n');
            }
            if text != self.shown {
                let gap = if self.shown.is_empty() { "" } else { "\n" };
                write(&format!("{gap}{text}"));
                self.shown = text;
            }
            return;
        }
        let size = termios::tcgetwinsize(std::io::stdout()).ok();
        let (height, width) = size.map_or((24, 80), |size| {
            (usize::from(size.ws_row), usize::from(size.ws_col))
        });
        let room = height.saturating_sub(1).max(1);
        self.first = self.first.min(self.lines.len().saturating_sub(room));
        let mut text = "\x1b[H".to_owned();
        let shown = self.lines.iter().skip(self.first).take(room);
        for line in shown {
            // Without wrapping, each line takes one row.
            let row = format!("\x1b[?7l{}\x1b[?7h\x1b[K\r\n", line.show(self.colours));
            text += &row;
        }
        text += "\x1b[J";
        text += &self
            .footer(room)
            .show(false)
            .chars()
            .take(width.max(20))
            .collect::<String>();
        write(&text);
    }

    fn footer(&self, room: usize) -> Line {
        let hidden = self.lines.len().saturating_sub(self.first + room);
        let mut line = Line::default();
        if let Some(note) = &self.note {
            line = line.styled(Style::Bad, note).plain("  ");
        }
        if self.paused {
            line = line.plain("paused  ");
        }
        if hidden > 0 || self.first > 0 {
            line = line.plain(format!("{hidden} more lines below  "));
        }
        line.plain("q quits, space pauses, up and down scroll")
    }

    /// Waits until the next page is due, and obeys keys meanwhile.
    pub(crate) async fn pause(&mut self, interval: Duration) -> Next {
        let due = Instant::now() + interval.max(Duration::from_millis(200));
        loop {
            let left = due.saturating_duration_since(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(left), if !self.paused => return Next::Look,
                key = self.keys.recv(), if self.terminal.is_some() => match key {
                    Some(b'q') => return Next::Quit,
                    Some(b' ') => self.paused = !self.paused,
                    // Arrows come as ESC [ A and ESC [ B.
                    Some(b'A' | b'k') => self.first = self.first.saturating_sub(1),
                    Some(b'B' | b'j') => self.first += 1,
                    Some(_) => {}
                    None => {
                        tokio::time::sleep(left).await;
                        return Next::Look;
                    }
                },
            }
            self.draw();
        }
    }
}
