//! Notices that the records file is another one than before.
//!
//! Polls: renames over a file, symbolic links turned by the kubelet (`ConfigMap`
//! volumes) and file systems without inotify all show in `stat`.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks: a change is in force within a tenth of a second.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);
/// No records file is larger: a hundred thousand names fit.
const MAX_SIZE: u64 = 16 << 20;

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
}

/// A file that is looked at again and again.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    seen: Option<Stamp>,
    /// The error told last; told once.
    told: Option<String>,
}

/// What a look showed.
#[derive(Debug)]
pub(crate) enum Look {
    /// As it was when it was looked at last, good or bad.
    Same,
    /// Another content.
    Content {
        bytes: Vec<u8>,
        /// Seconds since the epoch at which it was written.
        modified: i64,
    },
    /// Not readable, for a reason that was not told before.
    Error(String),
}

impl Source {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: None,
            told: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next look gives the content, changed or not.
    pub(crate) fn forget(&mut self) {
        self.seen = None;
        self.told = None;
    }

    pub(crate) fn look(&mut self) -> Look {
        match self.read() {
            Ok(look) => {
                self.told = None;
                look
            }
            Err(error) => {
                // When it is back, also as the same file, it is news.
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

    fn read(&mut self) -> io::Result<Look> {
        if self.seen == Some(Stamp::of(&fs::metadata(&self.path)?)) {
            return Ok(Look::Same);
        }
        let file = File::open(&self.path)?;
        // Of the open file: the name may lead elsewhere by now.
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(io::Error::other("larger than 16 MiB"));
        }
        self.seen = Some(Stamp::of(&metadata));
        Ok(Look::Content {
            bytes,
            modified: metadata.mtime(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(look: Look) -> String {
        match look {
            Look::Content { bytes, .. } => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_given_once_and_again_when_another_is_renamed_over_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.json");
        fs::write(&path, "one").unwrap();
        let mut source = Source::new(path.clone());
        assert_eq!(content(source.look()), "one");
        assert!(matches!(source.look(), Look::Same));
        fs::write(dir.path().join("new"), "two").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(content(source.look()), "two");
        source.forget();
        assert_eq!(content(source.look()), "two");
    }

    #[test]
    fn an_error_is_told_once_and_the_file_is_news_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.json");
        let mut source = Source::new(path.clone());
        assert!(matches!(source.look(), Look::Error(_)));
        assert!(matches!(source.look(), Look::Same));
        fs::write(&path, "one").unwrap();
        assert_eq!(content(source.look()), "one");
        fs::rename(&path, dir.path().join("away")).unwrap();
        assert!(matches!(source.look(), Look::Error(_)));
        fs::rename(dir.path().join("away"), &path).unwrap();
        assert_eq!(content(source.look()), "one");
    }

    #[test]
    fn a_directory_and_an_endless_file_are_errors() {
        for path in ["/", "/dev/zero"] {
            assert!(matches!(Source::new(path.into()).look(), Look::Error(_)));
        }
    }
}
