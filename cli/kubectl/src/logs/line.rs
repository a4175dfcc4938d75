//! Lines of pods: their times, the worker that a line names, and where to go on after a stream has
//! ended, without loss and without lines that are shown twice.

use serde_json::Value;

/// A line of a container as the kubelet hands it out with `timestamps=true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamped<'a> {
    /// RFC 3339 with nanoseconds; empty if the line has no time.
    pub(crate) time: &'a str,
    pub(crate) text: &'a str,
}

impl<'a> Stamped<'a> {
    /// Splits the time from the text.
    pub(crate) fn read(line: &'a str) -> Self {
        let is_time =
            |word: &str| word.len() >= 20 && word.as_bytes()[4] == b'-' && word.contains('T');
        match line.split_once(' ') {
            Some((time, text)) if is_time(time) => Self { time, text },
            None if is_time(line) => Self {
                time: line,
                text: "",
            },
            _ => Self {
                time: "",
                text: line,
            },
        }
    }

    /// The slot of the worker that wrote the line, if the supervisor marks lines (`--logs`), and
    /// the text without the mark.
    pub(crate) fn worker(&self) -> (Option<u32>, &'a str) {
        if let Some(rest) = self.text.strip_prefix('[')
            && let Some((slot, rest)) = rest.split_once(']')
            && let Ok(slot) = slot.parse()
        {
            let text = rest.strip_prefix("+ ").or_else(|| rest.strip_prefix(' '));
            if let Some(text) = text {
                return (Some(slot), text);
            }
        }
        if self.text.starts_with("{\"time\":") {
            let json: Value = serde_json::from_str(self.text).unwrap_or_default();
            if json["stream"].is_string() && json["pid"].is_u64() {
                let slot = json["slot"]
                    .as_u64()
                    .and_then(|slot| u32::try_from(slot).ok());
                return (slot, self.text);
            }
        }
        (None, self.text)
    }
}

/// How far a stream was read: the time of the last line, and how many lines had that time. The
/// kubelet begins again with all lines of a time, so that many are skipped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Position {
    time: String,
    lines: usize,
    skip: usize,
}

impl Position {
    /// The time to begin with; `None` if nothing was read.
    pub(crate) fn since(&self) -> Option<&str> {
        Some(self.time.as_str()).filter(|time| !time.is_empty())
    }

    /// A new stream begins at [`Self::since`].
    pub(crate) fn resume(&mut self) {
        self.skip = self.lines;
    }

    /// Whether a line is new; records it.
    pub(crate) fn is_new(&mut self, time: &str) -> bool {
        if time.is_empty() {
            return true;
        }
        if time == self.time {
            if self.skip > 0 {
                self.skip -= 1;
                return false;
            }
            self.lines += 1;
            return true;
        }
        // The kubelet compares whole seconds, so lines before the position may come again.
        if self.skip > 0 && time < self.time.as_str() {
            return false;
        }
        time.clone_into(&mut self.time);
        self.lines = 1;
        self.skip = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: [&str; 3] = [
        "2026-11-30T10:00:00.000000001Z",
        "2026-11-30T10:00:00.000000002Z",
        "2026-11-30T10:00:01.000000000Z",
    ];

    #[test]
    fn a_line_is_its_time_its_worker_and_its_text() {
        let line = format!("{} [3] GET /", T[0]);
        let read = Stamped::read(&line);
        assert_eq!((read.time, read.worker()), (T[0], (Some(3), "GET /")));
        let whole = |text| Stamped { time: "", text }.worker();
        assert_eq!(whole("[3]+ more"), (Some(3), "more"));
        assert_eq!(whole("[info] x"), (None, "[info] x"));
        assert_eq!(whole("[3]x"), (None, "[3]x"));
        let json = r#"{"time":"t","slot":2,"pid":7,"stream":"stdout","message":"m"}"#;
        assert_eq!(whole(json), (Some(2), json));
        assert_eq!(Stamped::read("no time").text, "no time");
        assert_eq!(Stamped::read(T[0]).text, "");
    }

    #[test]
    fn a_stream_goes_on_without_loss_and_without_repeating_lines() {
        let mut position = Position::default();
        for time in [T[0], T[1], T[1]] {
            assert!(position.is_new(time));
        }
        assert_eq!(position.since(), Some(T[1]));
        position.resume();
        // The kubelet begins with the whole second again.
        let again = [T[0], T[1], T[1], T[1], T[2]];
        let new: Vec<bool> = again.iter().map(|time| position.is_new(time)).collect();
        assert_eq!(new, [false, false, false, true, true]);
    }
}
