//! Reads the directory of error pages, and again when it changes.
//!
//! Which page a client gets is decided in `scaledapp-proxy`.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use scaledapp_proxy::{PageError, Pages};
use tokio::sync::watch;

/// How often the directory is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The most files of the directory that are looked at.
const MAX_FILES: usize = 1000;

/// What tells whether a file has changed: its name, device and inode, its size, and the times of
/// the last changes of content and inode.
type Mark = (String, u64, u64, u64, (i64, i64), (i64, i64));

/// Follows the pages in `directory`. It need not exist yet. The task that reads it ends when all
/// receivers are dropped. Must be called within a tokio runtime.
pub(crate) fn follow(directory: PathBuf) -> watch::Receiver<Arc<Pages>> {
    let (sender, receiver) = watch::channel(Arc::default());
    let mut followed = Followed {
        directory,
        marks: None,
    };
    if let Some(pages) = followed.look() {
        sender.send_replace(Arc::new(pages));
    }
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = sender.closed() => return,
            }
            if let Some(pages) = followed.look() {
                sender.send_replace(Arc::new(pages));
            }
        }
    });
    receiver
}

/// A directory of pages.
#[derive(Debug)]
struct Followed {
    directory: PathBuf,
    /// The files when they were last read; an error: the directory could not be read, for this
    /// reason.
    marks: Option<Result<Vec<Mark>, String>>,
}

impl Followed {
    /// The pages, if the files have changed. If the directory cannot be read, the pages that were
    /// read before stay in force.
    fn look(&mut self) -> Option<Pages> {
        let marks = marks(&self.directory).map_err(|error| error.to_string());
        if self.marks.as_ref() == Some(&marks) {
            return None;
        }
        let directory = self.directory.display().to_string();
        let pages = match &marks {
            Ok(marks) => Some(self.read(marks)),
            Err(error) => {
                tracing::warn!(
                    directory,
                    error,
                    "the directory of error pages cannot be read: the pages so far stay in force"
                );
                None
            }
        };
        self.marks = Some(marks);
        pages
    }

    fn read(&self, marks: &[Mark]) -> Pages {
        let mut pages = Pages::default();
        let directory = self.directory.display().to_string();
        for (name, ..) in marks {
            match read_page(&self.directory, name) {
                Ok(body) => match pages.add(name, &body) {
                    // Other files, such as the `..data` of a mounted ConfigMap, may be there.
                    Err(PageError::Name) if name.starts_with('.') => {}
                    Err(error) => {
                        tracing::warn!(directory, file = name, %error, "not used as an error page");
                    }
                    Ok(()) => {}
                },
                Err(error) => {
                    tracing::warn!(directory, file = name, %error, "an error page cannot be read");
                }
            }
        }
        tracing::info!(directory, pages = pages.count(), "error pages");
        pages
    }
}

/// The files of a directory, in the order of their names.
fn marks(directory: &Path) -> io::Result<Vec<Mark>> {
    let mut marks = Vec::new();
    for entry in fs::read_dir(directory)?.take(MAX_FILES) {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Follows symbolic links, of which a mounted ConfigMap consists.
        let Ok(file) = fs::metadata(entry.path()) else {
            continue;
        };
        if file.is_file() {
            let written = (file.mtime(), file.mtime_nsec());
            let changed = (file.ctime(), file.ctime_nsec());
            marks.push((name, file.dev(), file.ino(), file.len(), written, changed));
        }
    }
    marks.sort();
    Ok(marks)
}

/// Reads a page, and a byte more if it is too large. Everybody can read an error page, so a symbolic
/// link must not lead to other files of this machine.
fn read_page(directory: &Path, name: &str) -> io::Result<Vec<u8>> {
    let path = directory.join(name).canonicalize()?;
    if !path.starts_with(directory.canonicalize()?) {
        let cure = "its symbolic link leads out of the directory: copy the page into the directory";
        return Err(io::Error::other(cure));
    }
    // Nobody may put a link there in the meantime.
    let mut open = fs::File::options();
    open.read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let mut body = Vec::new();
    let most = Pages::MAX_BYTES as u64 + 1;
    open.open(path)?.take(most).read_to_end(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(all: &[(&str, &str)]) -> Pages {
        let mut pages = Pages::default();
        for (name, body) in all {
            pages.add(name, body.as_bytes()).unwrap();
        }
        pages
    }

    #[test]
    fn a_change_is_noticed_and_a_missing_directory_keeps_the_pages() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("pages");
        let mut followed = Followed {
            directory: directory.clone(),
            marks: None,
        };
        assert_eq!(followed.look(), None, "there is no directory yet");
        fs::create_dir(&directory).unwrap();
        assert_eq!(followed.look(), Some(pages(&[])));
        fs::write(directory.join("503.html"), "one").unwrap();
        fs::write(directory.join("README.md"), "not a page").unwrap();
        assert_eq!(followed.look(), Some(pages(&[("503.html", "one")])));
        assert_eq!(followed.look(), None);
        // As many bytes as before.
        fs::write(directory.join("503.html"), "two").unwrap();
        assert_eq!(followed.look(), Some(pages(&[("503.html", "two")])));
        fs::rename(&directory, parent.path().join("away")).unwrap();
        assert_eq!(followed.look(), None);
        fs::rename(parent.path().join("away"), &directory).unwrap();
        fs::remove_file(directory.join("503.html")).unwrap();
        assert_eq!(followed.look(), Some(pages(&[])));
    }

    /// The kubelet writes a `ConfigMap` into a directory of its own, to which symbolic links lead,
    /// and exchanges the directory as a whole.
    #[test]
    fn a_mounted_config_map_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut followed = Followed {
            directory: directory.path().to_owned(),
            marks: None,
        };
        for (version, body) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("5xx.json"), body).unwrap();
            std::os::unix::fs::symlink(version, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
            if version == "..1" {
                std::os::unix::fs::symlink("..data/5xx.json", at("5xx.json")).unwrap();
            }
            assert_eq!(followed.look(), Some(pages(&[("5xx.json", body)])));
        }
    }

    #[test]
    fn a_link_that_leads_out_of_the_directory_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("pages");
        fs::create_dir(&directory).unwrap();
        fs::write(parent.path().join("secret"), "secret").unwrap();
        fs::write(directory.join("429.html"), "slower").unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, directory.join(name)).unwrap();
        };
        link("../secret", "503.html");
        link("429.html", "4xx.html");
        link("..", "..up");
        link("..up/secret", "502.html");
        let mut followed = Followed {
            directory,
            marks: None,
        };
        let expected = pages(&[("429.html", "slower"), ("4xx.html", "slower")]);
        assert_eq!(followed.look(), Some(expected));
    }
}
