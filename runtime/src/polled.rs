//! Whether a file that is polled has new content.
//!
//! The file is polled with `stat`, because that also shows renames over the file, symbolic links
//! that the kubelet switches (volumes of `ConfigMap`s and of the downward API), and changes on
//! file systems without inotify. The caller decides how often the file is polled, and what its
//! content means.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// Two changes within this time may have the same time stamp (the kernel's clock tick is at
/// most 10 ms), so that `stat` does not distinguish them.
const GRANULARITY: Duration = Duration::from_millis(50);
/// Like [`GRANULARITY`], for file systems that store time stamps in whole seconds.
const COARSE: Duration = Duration::from_secs(2);

/// The result of one poll.
#[derive(Debug)]
pub enum Look {
    /// The same content or the same error as at the last poll.
    Same,
    /// Different content, the same content with another modification time, or the same content
    /// after an error.
    Content(Content),
    /// The file cannot be read, for a reason that was not reported before.
    Error(io::Error),
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// All bytes.
    pub bytes: Bytes,
    /// When the file was modified.
    pub modified: SystemTime,
}

/// A file that is polled.
#[derive(Debug)]
pub struct PolledFile {
    path: PathBuf,
    most: u64,
    known: Known,
}

impl PolledFile {
    /// Starts with nothing read. A file of more than `most` bytes is an error.
    pub fn new(path: PathBuf, most: u64) -> Self {
        Self {
            path,
            most,
            known: Known::default(),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the next poll return the content or the error, even if it is unchanged.
    pub fn forget(&mut self) {
        self.known = Known::default();
    }

    /// Polls the file. `now` is the current time.
    pub fn look(&mut self, now: SystemTime) -> Look {
        match self.read() {
            Ok(None) => Look::Same,
            Ok(Some((stamp, bytes))) => self.known.read(now, stamp, bytes),
            Err(error) => self.known.failed(error),
        }
    }

    /// Reads the content; `None` if it is certainly the same as at the last read.
    fn read(&self) -> io::Result<Option<(Stamp, Bytes)>> {
        if self.known.stamp == Some(Stamp::of(&fs::metadata(&self.path)?)) {
            return Ok(None);
        }
        let file = File::open(&self.path)?;
        // The metadata is taken from the open file, because the path may lead to another file by
        // this time. It is taken before the file is read, so that a later write shows at the next
        // poll.
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(self.most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.most {
            let text = format!("larger than {} bytes: is it the right file?", self.most);
            return Err(io::Error::other(text));
        }
        Ok(Some((Stamp::of(&metadata), bytes.into())))
    }
}

/// The results of earlier polls, with which the next result is compared.
#[derive(Debug, Default)]
struct Known {
    /// `None`: the next poll reads the file, whatever `stat` reports.
    stamp: Option<Stamp>,
    content: Option<Content>,
    /// The error that was reported last, so that it is not reported again.
    error: Option<String>,
}

impl Known {
    fn read(&mut self, now: SystemTime, stamp: Stamp, bytes: Bytes) -> Look {
        self.stamp = (!stamp.is_fresh(now)).then_some(stamp);
        let content = Content {
            bytes,
            modified: stamp.modified,
        };
        // After an error, the same content is reported again, to show that the error is over.
        let is_over = self.error.take().is_some();
        if !is_over && self.content.as_ref() == Some(&content) {
            return Look::Same;
        }
        self.content = Some(content.clone());
        Look::Content(content)
    }

    fn failed(&mut self, error: io::Error) -> Look {
        self.stamp = None;
        let text = error.to_string();
        if self.error.as_ref() == Some(&text) {
            return Look::Same;
        }
        self.error = Some(text);
        Look::Error(error)
    }
}

/// What distinguishes one state of a file from another (`stat(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: SystemTime,
    changed: SystemTime,
    /// The time stamp is a whole second: either the file system stores only whole seconds,
    /// or it is a coincidence.
    is_coarse: bool,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
            is_coarse: metadata.ctime_nsec() == 0,
        }
    }

    /// Whether the file could change after `now` without a change of the stamp.
    fn is_fresh(&self, now: SystemTime) -> bool {
        let granularity = if self.is_coarse { COARSE } else { GRANULARITY };
        // A time in the future means that a clock was set, and says nothing about a change.
        let age = now.duration_since(self.changed);
        age.is_ok_and(|age| age < granularity)
    }
}

/// Converts a time stamp of `stat`. A time before 1970 counts as 1970.
fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The stamp of a file that was changed this long after 1970.
    fn stamp(changed: Duration) -> Stamp {
        Stamp {
            device: 1,
            inode: 2,
            size: 3,
            modified: SystemTime::UNIX_EPOCH + SECOND,
            changed: SystemTime::UNIX_EPOCH + changed,
            is_coarse: changed.subsec_nanos() == 0,
        }
    }

    /// A time late enough for stamps to distinguish changes.
    fn later() -> SystemTime {
        SystemTime::now() + SECOND * 10
    }

    fn text(look: Look) -> String {
        match look {
            Look::Content(content) => String::from_utf8(content.bytes.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// A path at which there is no file yet.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        (directory, path)
    }

    /// Puts another file at the path, with a modification time of 1970.
    fn replace(path: &Path, content: &str) {
        let next = path.with_extension("next");
        fs::write(&next, content).unwrap();
        let file = File::options().write(true).open(&next).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::rename(&next, path).unwrap();
    }

    #[test]
    fn a_stamp_distinguishes_changes_once_the_clock_has_advanced() {
        let (fine, coarse) = (SECOND + Duration::from_millis(500), SECOND * 2);
        for (changed, age, is_fresh) in [
            (fine, Duration::ZERO, true),
            (fine, GRANULARITY / 2, true),
            (fine, GRANULARITY, false),
            (coarse, GRANULARITY, true),
            (coarse, COARSE, false),
        ] {
            let stamp = stamp(changed);
            assert_eq!(stamp.is_fresh(stamp.changed + age), is_fresh, "{age:?}");
        }
        // The clock was set back.
        assert!(!stamp(fine).is_fresh(SystemTime::UNIX_EPOCH));
    }

    #[test]
    fn content_that_was_read_too_early_is_read_again_and_reported_only_if_it_differs() {
        let mut known = Known::default();
        let stamp = stamp(SECOND / 2);
        let early = stamp.changed;
        let late = early + SECOND;
        assert_eq!(text(known.read(early, stamp, "one".into())), "one");
        assert_eq!(known.stamp, None);
        assert!(matches!(known.read(early, stamp, "one".into()), Look::Same));
        // A second change with the same time stamp.
        assert_eq!(text(known.read(late, stamp, "two".into())), "two");
        assert_eq!(known.stamp, Some(stamp));
    }

    #[test]
    fn content_is_returned_once_and_again_when_another_file_is_renamed_over_it() {
        let (_directory, path) = place();
        replace(&path, "one");
        let mut file = PolledFile::new(path.clone(), 3);
        assert_eq!(text(file.look(later())), "one");
        assert!(matches!(file.look(later()), Look::Same));
        replace(&path, "two");
        assert_eq!(text(file.look(later())), "two");
        // Another file with the same content and time stamp is not new.
        replace(&path, "two");
        assert!(matches!(file.look(later()), Look::Same));
        fs::write(&path, "two").unwrap();
        match file.look(later()) {
            Look::Content(content) => assert!(content.modified > SystemTime::UNIX_EPOCH),
            other => panic!("{other:?}"),
        }
        file.forget();
        assert_eq!(text(file.look(later())), "two");
    }

    #[test]
    fn an_error_is_reported_once_and_so_is_its_end() {
        let (directory, path) = place();
        let mut file = PolledFile::new(path.clone(), 3);
        match file.look(later()) {
            Look::Error(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
            other => panic!("{other:?}"),
        }
        assert!(matches!(file.look(later()), Look::Same));
        replace(&path, "one");
        assert_eq!(text(file.look(later())), "one");
        let away = directory.path().join("away");
        fs::rename(&path, &away).unwrap();
        assert!(matches!(file.look(later()), Look::Error(_)));
        fs::rename(&away, &path).unwrap();
        assert_eq!(text(file.look(later())), "one");
        replace(&path, "long");
        match file.look(later()) {
            Look::Error(error) => assert!(error.to_string().contains("3 bytes"), "{error}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_and_an_endless_file_are_errors() {
        for path in ["/", "/dev/zero"] {
            let mut file = PolledFile::new(path.into(), 100);
            assert!(matches!(file.look(later()), Look::Error(_)));
        }
    }
}
