//! Follows the content of a file: returns it now and whenever it changes.
//!
//! [`PolledFile`] decides whether the file has changed; the caller decides what the content means.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::{Look, PolledFile};

/// The time between two polls of the file.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Reads a file of at most `most` bytes now, and again when it has changed. The task that reads it
/// ends when all receivers are dropped. If the file cannot be read or parsed, the last good content
/// remains in force, or `default` if there is none yet. The log reports this once, followed by
/// `without`, which says what follows from having no content. Must be called within a tokio
/// runtime.
pub fn follow<T, E>(
    path: PathBuf,
    most: u64,
    default: T,
    without: &'static str,
    parse: impl Fn(&[u8]) -> Result<T, E> + Send + 'static,
) -> watch::Receiver<T>
where
    T: PartialEq + Send + Sync + 'static,
    E: Display + 'static,
{
    let (sender, receiver) = watch::channel(default);
    let mut followed = Followed {
        file: PolledFile::new(path, most),
        sender,
        without,
        parse,
    };
    followed.look(SystemTime::now());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => followed.look(SystemTime::now()),
                () = followed.sender.closed() => return,
            }
        }
    });
    receiver
}

struct Followed<T, F> {
    file: PolledFile,
    sender: watch::Sender<T>,
    /// What follows from having no content, for the log. The text changes once there has been
    /// content.
    without: &'static str,
    parse: F,
}

impl<T: PartialEq, F> Followed<T, F> {
    fn look<E: Display>(&mut self, now: SystemTime)
    where
        F: Fn(&[u8]) -> Result<T, E>,
    {
        let problem = match self.file.look(now) {
            Look::Same => return,
            Look::Error(error) => error.to_string(),
            Look::Content(content) => match (self.parse)(&content.bytes) {
                Ok(content) => {
                    self.without = "the last good content stays in force";
                    tracing::info!(file = %self.file.path().display(), "read");
                    self.sender.send_if_modified(|known| {
                        let is_news = *known != content;
                        *known = content;
                        is_news
                    });
                    return;
                }
                Err(error) => error.to_string(),
            },
        };
        let (file, without) = (self.file.path().display(), self.without);
        tracing::warn!(%file, problem, "cannot be used: {without}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn number(bytes: &[u8]) -> Result<u32, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not text")?;
        text.trim().parse().map_err(|_| "not a number")
    }

    #[test]
    fn the_last_good_content_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let (sender, mut content) = watch::channel(0);
        let mut followed = Followed {
            file: PolledFile::new(path.clone(), 10),
            sender,
            without: "it is ignored",
            parse: number,
        };
        for (text, wanted, is_news) in [
            (None, 0, false),
            (Some("1"), 1, true),
            (None, 1, false),
            (Some("many"), 1, false),
            (Some("more than ten bytes"), 1, false),
            (Some("1"), 1, false),
            (Some("2"), 2, true),
        ] {
            match text {
                None => drop(fs::remove_file(&path)),
                Some(text) => fs::write(&path, text).unwrap(),
            }
            followed.look(SystemTime::now());
            assert_eq!(content.has_changed().unwrap(), is_news, "{text:?}");
            assert_eq!(*content.borrow_and_update(), wanted, "{text:?}");
        }
    }
}
