//! The working directory of workers: a path that is resolved anew for each of them.
//!
//! A deployment switches the symlink `current` from one release to the next and reloads. A
//! process keeps the directory in which it was started, even if the path now leads to
//! another one, so workers that inherited the supervisor's directory would keep running
//! the old release. Therefore workers start in a path: `--cwd`, otherwise `$PWD` (the path by
//! which the shell reached its directory, POSIX.1-2017 section 2.5.3) if `$PWD` led to the
//! supervisor's directory at the start.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode.
type Identity = (u64, u64);

/// The working directory of workers.
#[derive(Debug)]
pub(crate) struct Directory {
    /// `None`: the supervisor's own directory, because no path to it is known.
    path: Option<PathBuf>,
    is_given: bool,
    /// The directory to which the path led when it was last resolved; `None` if there was none.
    told: Cell<Option<Identity>>,
}

/// How the path has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Changed<'a> {
    /// It leads to another directory.
    Switched(&'a Path),
    /// It no longer exists.
    Gone(&'a Path),
}

impl Directory {
    /// Uses the path of `--cwd` (`given`), otherwise `pwd` if it leads to the supervisor's
    /// own directory.
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

    /// Where the next worker starts (`None`: in the supervisor's own directory), and what
    /// has changed; each change is returned once.
    pub(crate) fn now(&self) -> (Option<&Path>, Option<Changed<'_>>) {
        let Some(path) = self.path.as_deref() else {
            return (None, None);
        };
        let now = identity(path);
        let changed = (self.told.replace(now) != now).then_some(match now {
            Some(_) => Changed::Switched(path),
            None => Changed::Gone(path),
        });
        // If `$PWD` no longer exists, the directory itself may still be usable. A path
        // given by `--cwd` is never replaced.
        let start = (self.is_given || now.is_some()).then_some(path);
        (start, changed)
    }

    /// The path, if `--cwd` gave it.
    pub(crate) fn given(&self) -> Option<&Path> {
        self.path.as_deref().filter(|_| self.is_given)
    }

    /// Logs the change.
    pub(crate) fn tell(&self, changed: &Changed<'_>) {
        match (changed, self.is_given) {
            (Changed::Switched(path), true) => {
                tracing::info!(cwd = %path.display(), "--cwd now leads to another directory: workers start there");
            }
            (Changed::Switched(path), false) => tracing::warn!(
                cwd = %path.display(),
                "the working directory's path now leads to another directory: workers start there; \
                 give --cwd to choose one"
            ),
            (Changed::Gone(path), true) => tracing::error!(
                cwd = %path.display(),
                "--cwd is no longer a directory: workers cannot start until it is one again"
            ),
            (Changed::Gone(path), false) => tracing::warn!(
                cwd = %path.display(),
                "the working directory's path is gone: workers start in the deleted directory; give \
                 --cwd with a path that stays"
            ),
        }
    }
}

/// The identity of the directory at this path.
fn identity(path: &Path) -> Option<Identity> {
    let found = metadata(path).ok().filter(std::fs::Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}

/// Makes a path of `--cwd` absolute. A relative path is resolved against `$PWD` (`pwd`) if that
/// leads to the current directory, otherwise against the current directory.
///
/// # Errors
/// The path is not a directory, or the current directory is unknown.
pub(crate) fn absolute(given: &Path, pwd: Option<OsString>) -> anyhow::Result<PathBuf> {
    let base = match Directory::find(None, pwd).path {
        Some(base) => base,
        None => std::env::current_dir().unwrap_or_default(),
    };
    let path = base.join(given);
    anyhow::ensure!(
        identity(&path).is_some(),
        "--cwd {} is not a directory: create it, or give the one in which the app starts",
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
    fn the_path_is_resolved_at_each_start_and_a_change_is_reported_once() {
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
    fn the_shells_path_is_used_only_if_it_leads_here() {
        let home = tempfile::tempdir().unwrap();
        let here = std::env::current_dir().unwrap();
        let link = home.path().join("here");
        symlink(&here, &link).unwrap();
        let ours = Directory::find(None, Some(link.clone().into()));
        assert_eq!(ours.now(), (Some(link.as_path()), None));
        fs::remove_file(&link).unwrap();
        // The supervisor's own directory still exists.
        assert_eq!(ours.now(), (None, Some(Changed::Gone(&link))));
        for pwd in [None, Some(home.path().into()), Some(".".into())] {
            assert_eq!(Directory::find(None, pwd).now(), (None, None));
        }
    }

    #[test]
    fn a_relative_path_is_resolved_against_the_shells_path() {
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("here");
        symlink(std::env::current_dir().unwrap(), &link).unwrap();
        let absolute = |given: &str| absolute(Path::new(given), Some(link.clone().into()));
        assert_eq!(absolute("src").unwrap(), link.join("src"));
        assert_eq!(absolute("/").unwrap(), Path::new("/"));
        let error = absolute("missing").unwrap_err().to_string();
        assert!(
            error.contains("--cwd missing is not a directory"),
            "{error}"
        );
    }
}
