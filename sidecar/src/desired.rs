//! The desired-state file: the number of workers and the reload token that a running
//! supervisor should have.
//!
//! `{"workers": 4, "reload": "2026-11-24T05:00:00Z"}`; instead of a number, `workers` may
//! be a text such as `"auto"` or `"1..4"`. A new `workers` scales, a new `reload` token reloads. An
//! invalid file changes nothing and is reported once; a missing file is not an error.
//! [`PolledFile`] decides whether the file has changed.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use scaledapp_runtime::{Look, PolledFile};

use crate::range::WorkerRange;

/// How often the file is read.
pub(crate) const READ_INTERVAL: Duration = Duration::from_millis(250);

/// The largest file in bytes; a real one has a few hundred.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// How many characters of a token, and of an error in the file, the log shows.
const SHOWN_TOKEN: usize = 40;
const SHOWN_REASON: usize = 200;

/// The parsed file.
type File = scaledapp_wire::Desired<WorkerRange>;

/// A token for the log: its beginning, without control characters.
pub(crate) fn brief(token: &str) -> String {
    shortened(token, SHOWN_TOKEN)
}

fn shortened(text: &str, most: usize) -> String {
    let mut shown: String = text
        .chars()
        .take(most)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// The consequences of a change of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// A new number of workers.
    pub(crate) workers: Option<WorkerRange>,
    /// Reload now; this token is shown with the result.
    pub(crate) reload: Option<String>,
    /// The token of a reload that is not necessary, because all workers started after it
    /// was requested.
    pub(crate) had: Option<String>,
}

/// Remembers the last contents of the file.
#[derive(Debug)]
pub(crate) struct Desired {
    file: PolledFile,
    seen: Option<File>,
}

impl Desired {
    /// Returns a `Desired` that has not read the file yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            file: PolledFile::new(path, MAX_FILE_BYTES),
            seen: None,
        }
    }

    /// Reads the file. The first call that finds a valid file returns its number of workers, but
    /// its reload token counts as already done.
    ///
    /// # Errors
    /// The file cannot be read or is invalid; each error is returned once. A missing file
    /// is not an error.
    pub(crate) fn look(&mut self) -> Result<Change, String> {
        let look = self.file.look(SystemTime::now());
        let path = self.file.path().display();
        let content = match look {
            Look::Content(content) => content,
            Look::Error(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("cannot read {path}: {error}"));
            }
            Look::Same | Look::Error(_) => return Ok(Change::default()),
        };
        let file: File = serde_json::from_slice(&content.bytes).map_err(|error| {
            // The error may quote anything that is in the file.
            let reason = shortened(&error.to_string(), SHOWN_REASON);
            format!("{path} is not {{\"workers\": SPEC, \"reload\": TOKEN}}: {reason}")
        })?;
        let change = change(self.seen.as_ref(), &file);
        self.seen = Some(file);
        Ok(change)
    }
}

fn change(before: Option<&File>, now: &File) -> Change {
    let known = before.and_then(|before| before.workers);
    Change {
        workers: now.workers.filter(|spec| known != Some(*spec)),
        reload: now
            .reload
            .clone()
            .filter(|_| before.is_some_and(|before| before.reload != now.reload)),
        had: now.reload.clone().filter(|_| before.is_none()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use scaledapp_wire::TOKEN_BYTES;

    use super::*;
    use crate::cores::WorkerSpec;

    #[test]
    fn each_change_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.json");
        let mut desired = Desired::new(path.clone());
        let none = Change::default();
        assert_eq!(desired.look().unwrap(), none, "no file yet");
        let replace = |text: &str| {
            let partial = dir.path().join("partial");
            fs::write(&partial, text).unwrap();
            fs::rename(&partial, &path).unwrap();
        };
        replace(r#"{"workers": "3", "reload": "a"}"#);
        let first = desired.look().unwrap();
        assert_eq!(
            (first.workers, first.reload, first.had.as_deref()),
            (
                Some(WorkerRange::one(WorkerSpec::Fixed(3))),
                None,
                Some("a")
            )
        );
        assert_eq!(desired.look().unwrap(), none);
        replace(r#"{"workers": 3, "reload": "b"}"#);
        let second = desired.look().unwrap();
        assert_eq!((second.workers, second.had), (None, None));
        assert_eq!(second.reload.as_deref(), Some("b"));
    }

    #[test]
    fn tokens_are_bounded_and_the_log_quotes_only_a_little_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.json");
        let mut desired = Desired::new(path.clone());
        let mut write = |text: &str| {
            let partial = dir.path().join("partial");
            fs::write(&partial, text).unwrap();
            fs::rename(&partial, &path).unwrap();
            desired.look()
        };
        let longest = "x".repeat(TOKEN_BYTES);
        let file = format!(r#"{{"reload": "{longest}"}}"#);
        assert_eq!(write(&file).unwrap().had, Some(longest.clone()));
        let reason = write(&format!(r#"{{"reload": "{longest}y"}}"#)).unwrap_err();
        assert!(
            reason.contains("has 129 bytes") && !reason.contains("xx"),
            "{reason}"
        );
        for text in [
            r#"{"LONG": 1}"#,
            r#"{"workers": "LONG"}"#,
            r#"{"reload": ["LONG"]}"#,
        ] {
            let text = text.replace("LONG", &"z".repeat(10_000));
            let reason = write(&text).unwrap_err();
            assert!(reason.len() < 2 * SHOWN_REASON + 200, "{reason}");
        }
        assert_eq!(brief("2026-11-24T05:00:00Z"), "2026-11-24T05:00:00Z");
        assert_eq!(brief("a\nb"), "a\\nb");
        assert_eq!(brief(&longest).chars().count(), SHOWN_TOKEN + 1);
    }

    #[test]
    fn a_path_that_cannot_be_read_is_reported_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // A file instead of the directory: ENOTDIR, not a missing file.
        let mut desired = Desired::new(file.path().join("desired.json"));
        assert!(desired.look().unwrap_err().contains("desired.json"));
        assert_eq!(desired.look().unwrap(), Change::default());
    }

    #[test]
    fn a_broken_file_is_reported_once_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.json");
        let mut desired = Desired::new(path.clone());
        for text in [
            "{",
            r#"{"worker": "3"}"#,
            r#"{"workers": "-x"}"#,
            r#"{"workers": 2000}"#,
        ] {
            fs::remove_file(&path).ok();
            fs::write(&path, text).unwrap();
            assert!(desired.look().is_err(), "{text}");
            assert_eq!(desired.look().unwrap(), Change::default());
        }
    }
}
