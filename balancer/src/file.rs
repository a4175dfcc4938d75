//! Notices that a file is another one than before, and feeds a source with it.
//!
//! Polls: renames over a file, symbolic links turned by the kubelet (`ConfigMap`
//! volumes) and file systems without inotify all show in `stat`. What a content
//! means is decided in [`crate::endpoints`].

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::discovery::Sink;
use crate::endpoints;
use crate::metrics::Metrics;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(100);
/// Room for the most endpoints with the longest names, several times.
const MAX_SIZE: u64 = 4 << 20;
/// Two changes within this may bear the same time (the kernel's clock tick is
/// 10 ms at most), so that `stat` does not tell them apart.
const GRANULARITY: Duration = Duration::from_millis(50);
/// Of file systems that keep whole seconds.
const COARSE: Duration = Duration::from_secs(2);

/// What tells one state of the file from another (`stat(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change after a look at `now` may leave the stamp as it is.
    fn is_fresh(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let since = SystemTime::UNIX_EPOCH
            + Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds as u32);
        let granularity = if nanoseconds == 0 {
            COARSE
        } else {
            GRANULARITY
        };
        // A time to come is a clock that was set; that it says nothing about.
        now.duration_since(since).is_ok_and(|age| age < granularity)
    }
}

/// What a look showed.
#[derive(Debug, PartialEq, Eq)]
enum Look<'a> {
    /// As it was when it was looked at last, good or bad.
    Same,
    /// Another content.
    Content(&'a [u8]),
    /// Not readable, for a reason that was not told before.
    Error(String),
}

/// A file that is looked at again and again.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// `None`: the next look reads.
    seen: Option<Stamp>,
    content: Option<Vec<u8>>,
    /// The error told last; told once.
    told: Option<String>,
}

impl Watched {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: None,
            content: None,
            told: None,
        }
    }

    /// The next look gives the content, changed or not.
    fn forget(&mut self) {
        self.seen = None;
        self.content = None;
        self.told = None;
    }

    fn look(&mut self, now: SystemTime) -> Look<'_> {
        match self.read(now) {
            Ok(None) => Look::Same,
            Ok(Some(bytes)) => {
                // The same as before the error is news: the error is over.
                let back = self.told.take().is_some();
                if !back && self.content.as_ref() == Some(&bytes) {
                    return Look::Same;
                }
                Look::Content(self.content.insert(bytes))
            }
            Err(error) => {
                self.seen = None;
                let text = error.to_string();
                if self.told.as_ref() == Some(&text) {
                    return Look::Same;
                }
                self.told = Some(text.clone());
                Look::Error(text)
            }
        }
    }

    /// The content, unless it is surely the one read last.
    fn read(&mut self, now: SystemTime) -> io::Result<Option<Vec<u8>>> {
        if self.seen == Some(Stamp::of(&fs::metadata(&self.path)?)) {
            return Ok(None);
        }
        let file = File::open(&self.path)?;
        // Of the open file, and before it is read: what comes later shows then.
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(io::Error::other("larger than 4 MiB"));
        }
        let stamp = Stamp::of(&metadata);
        self.seen = (!stamp.is_fresh(now)).then_some(stamp);
        Ok(Some(bytes))
    }
}

/// The endpoints file as a source.
#[derive(Debug)]
pub(crate) struct Feed {
    file: Watched,
    sink: Sink,
    metrics: Arc<Metrics>,
}

impl Feed {
    /// Looks once, so that a good file counts from the start.
    pub(crate) fn new(path: PathBuf, sink: Sink, metrics: Arc<Metrics>) -> Self {
        let mut feed = Self {
            file: Watched::new(path),
            sink,
            metrics,
        };
        feed.look();
        feed
    }

    /// Looks on for ever; at once and whatever the stamp says when notified.
    pub(crate) async fn run(mut self, again: Arc<Notify>) {
        let mut looks = interval(PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = again.notified() => self.file.forget(),
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let problem = match self.file.look(SystemTime::now()) {
            Look::Same => return,
            Look::Error(error) => error,
            Look::Content(bytes) => match endpoints::parse(bytes) {
                Ok(backends) => {
                    tracing::info!(
                        file = %self.file.path.display(),
                        endpoints = backends.len(),
                        "endpoints file read"
                    );
                    self.metrics.loaded(true);
                    self.sink.put(backends);
                    return;
                }
                Err(error) => error.to_string(),
            },
        };
        self.metrics.loaded(false);
        let kept = if self.sink.has_list() {
            "the last good list stays"
        } else {
            "not ready until it can"
        };
        tracing::warn!(
            file = %self.file.path.display(),
            problem,
            "the endpoints file cannot be used; {kept}"
        );
        self.sink.fail(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Discovery;

    /// Late enough for stamps to tell changes apart.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(10)
    }

    fn content(look: Look<'_>) -> String {
        match look {
            Look::Content(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_content_is_given_once_and_again_when_another_is_renamed_over_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints.json");
        fs::write(&path, "one").unwrap();
        let mut file = Watched::new(path.clone());
        assert_eq!(content(file.look(later())), "one");
        assert_eq!(file.look(later()), Look::Same);
        fs::write(dir.path().join("new"), "two").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(content(file.look(later())), "two");
        // Another file with the same content is no news.
        fs::write(dir.path().join("new"), "two").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(file.look(later()), Look::Same);
        file.forget();
        assert_eq!(content(file.look(later())), "two");
    }

    #[test]
    fn a_change_within_the_clocks_granularity_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints.json");
        fs::write(&path, "one").unwrap();
        let mut file = Watched::new(path.clone());
        let written = || fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(content(file.look(written() + GRANULARITY / 2)), "one");
        assert_eq!(file.seen, None, "it is read once more");
        assert_eq!(file.look(later()), Look::Same);
        assert!(file.seen.is_some());
        // As if this one bore the same time, which tests cannot bring about.
        fs::write(&path, "two").unwrap();
        file.seen = None;
        assert_eq!(content(file.look(later())), "two");
    }

    #[test]
    fn an_error_is_told_once_and_its_end_is_news() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints.json");
        let mut file = Watched::new(path.clone());
        assert!(matches!(file.look(later()), Look::Error(_)));
        assert_eq!(file.look(later()), Look::Same);
        fs::write(&path, "one").unwrap();
        assert_eq!(content(file.look(later())), "one");
        fs::rename(&path, dir.path().join("away")).unwrap();
        assert!(matches!(file.look(later()), Look::Error(_)));
        fs::rename(dir.path().join("away"), &path).unwrap();
        assert_eq!(content(file.look(later())), "one");
    }

    #[test]
    fn a_directory_and_an_endless_file_are_errors() {
        for path in ["/", "/dev/zero"] {
            let mut file = Watched::new(path.into());
            assert!(matches!(file.look(later()), Look::Error(_)));
        }
    }

    #[test]
    fn a_feed_puts_good_lists_and_keeps_them_when_bad_ones_follow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints.json");
        let discovery = Discovery::default();
        let listing = discovery.listing();
        let sink = discovery.source("endpoints.json");
        let mut feed = Feed::new(path.clone(), sink, Arc::default());
        assert!(listing.borrow().missing().unwrap().contains("No such file"));
        fs::write(&path, r#"[{"name":"a","address":"10.0.0.1:1"}]"#).unwrap();
        feed.look();
        assert_eq!(listing.borrow().missing(), None);
        assert_eq!(listing.borrow().backends().len(), 1);
        fs::write(&path, "[{]").unwrap();
        feed.look();
        assert_eq!(listing.borrow().backends().len(), 1);
        assert_eq!(listing.borrow().problems().len(), 1);
        fs::write(&path, "[]").unwrap();
        feed.look();
        assert_eq!(listing.borrow().backends(), []);
        assert_eq!(listing.borrow().problems(), [""; 0]);
    }
}
