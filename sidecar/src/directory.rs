//! Where workers start: a path that is looked up anew for each of them.
//!
//! A deployment switches `current` from one release to the next and reloads. A process
//! keeps the directory that it was started in, whatever becomes of its name, so workers
//! that simply inherited ours would run the old release for ever. So the name counts:
//! that of `--cwd`, else the one by which the shell came here (`$PWD`, POSIX.1-2017
//! section 2.5.3), as long as it named this directory when we started.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode.
type Identity = (u64, u64);

/// Where workers start.
#[derive(Debug)]
pub(crate) struct Directory {
    /// `None`: where we are, since we know no name of it.
    path: Option<PathBuf>,
    is_given: bool,
    /// What the path meant when something was said of it last; `None`: nothing any more.
    told: Cell<Option<Identity>>,
}

/// The directory's name means something else than before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Changed<'a> {
    /// Another directory.
    Switched(&'a Path),
    /// None.
    Gone(&'a Path),
}

impl Directory {
    /// The one of `--cwd`, or the one that we were started in by the name of `pwd`.
    pub(crate) fn find(given: Option<PathBuf>, pwd: Option<OsString>) -> Self {
        let here = identity(Path::new("."));
        let is_given = given.is_some();
        let named = || {
            let path = PathBuf::from(pwd?);
            let is_it = path.is_absolute() && here.is_some() && identity(&path) == here;
            is_it.then_some(path)
        };
        let path = given.or_else(named);
        let told = path.as_deref().and_then(identity);
        Self {
            path,
            is_given,
            told: Cell::new(told),
        }
    }

    /// Where the next worker starts (`None`: where we are), and what is to be said
    /// about it, once for each change.
    pub(crate) fn now(&self) -> (Option<&Path>, Option<Changed<'_>>) {
        let Some(path) = self.path.as_deref() else {
            return (None, None);
        };
        let now = identity(path);
        let changed = (self.told.replace(now) != now).then_some(match now {
            Some(_) => Changed::Switched(path),
            None => Changed::Gone(path),
        });
        // Without the name the directory itself may do; `--cwd` is meant as it stands.
        let start = (self.is_given || now.is_some()).then_some(path);
        (start, changed)
    }

    /// The name, where `--cwd` gave it.
    pub(crate) fn given(&self) -> Option<&Path> {
        self.path.as_deref().filter(|_| self.is_given)
    }

    /// Says in the log what has changed.
    pub(crate) fn tell(&self, changed: &Changed<'_>) {
        match (changed, self.is_given) {
            (Changed::Switched(path), true) => {
                tracing::info!(cwd = %path.display(), "--cwd is another directory now: workers start there");
            }
            (Changed::Switched(path), false) => tracing::warn!(
                cwd = %path.display(),
                "the working directory's path means another directory now: workers start there; \
                 give --cwd to say which one you mean"
            ),
            (Changed::Gone(path), true) => tracing::error!(
                cwd = %path.display(),
                "--cwd is no directory any more: workers cannot start"
            ),
            (Changed::Gone(path), false) => tracing::warn!(
                cwd = %path.display(),
                "the working directory's path is gone: workers start in what is left of it; give \
                 --cwd with a path that stays"
            ),
        }
    }
}

/// Of a directory that can be reached by this path.
fn identity(path: &Path) -> Option<Identity> {
    let found = metadata(path).ok().filter(std::fs::Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}

/// A path of `--cwd` as it stays true wherever it is looked up from: relative ones count
/// from the name by which the shell came here.
///
/// # Errors
/// It is no directory, or nobody knows where we are.
pub(crate) fn absolute(given: &Path, pwd: Option<OsString>) -> anyhow::Result<PathBuf> {
    let base = match Directory::find(None, pwd).path {
        Some(base) => base,
        None => std::env::current_dir().unwrap_or_default(),
    };
    let path = base.join(given);
    anyhow::ensure!(
        identity(&path).is_some(),
        "--cwd {} is no directory: make it, or give the one that the app is started in",
        given.display()
    );
    anyhow::ensure!(
        path.is_absolute(),
        "--cwd {} is relative to a directory that was deleted: give an absolute path",
        given.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_name_counts_at_each_start_and_a_change_is_told_once() {
        let home = tempfile::tempdir().unwrap();
        let current = home.path().join("current");
        for release in ["1", "2"] {
            fs::create_dir(home.path().join(release)).unwrap();
        }
        let turn_to = |release: &str| {
            fs::remove_file(&current).ok();
            symlink(home.path().join(release), &current).unwrap();
        };
        turn_to("1");
        let directory = Directory::find(Some(current.clone()), None);
        assert_eq!(directory.now(), (Some(current.as_path()), None));
        turn_to("2");
        let switched = Changed::Switched(&current);
        assert_eq!(directory.now(), (Some(current.as_path()), Some(switched)));
        assert_eq!(directory.now(), (Some(current.as_path()), None));
        fs::remove_file(&current).unwrap();
        let gone = Changed::Gone(&current);
        assert_eq!(directory.now(), (Some(current.as_path()), Some(gone)));
    }

    #[test]
    fn the_shells_name_counts_only_if_it_names_where_we_are() {
        let home = tempfile::tempdir().unwrap();
        let here = std::env::current_dir().unwrap();
        let link = home.path().join("here");
        symlink(&here, &link).unwrap();
        let ours = Directory::find(None, Some(link.clone().into()));
        assert_eq!(ours.now(), (Some(link.as_path()), None));
        fs::remove_file(&link).unwrap();
        // Where we are is still there.
        assert_eq!(ours.now(), (None, Some(Changed::Gone(&link))));
        for pwd in [None, Some(home.path().into()), Some(".".into())] {
            assert_eq!(Directory::find(None, pwd).now(), (None, None));
        }
    }

    #[test]
    fn a_relative_one_counts_from_the_shells_name() {
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("here");
        symlink(std::env::current_dir().unwrap(), &link).unwrap();
        let absolute = |given: &str| absolute(Path::new(given), Some(link.clone().into()));
        assert_eq!(absolute("src").unwrap(), link.join("src"));
        assert_eq!(absolute("/").unwrap(), Path::new("/"));
        let error = absolute("missing").unwrap_err().to_string();
        assert!(error.contains("--cwd missing is no directory"), "{error}");
    }
}
