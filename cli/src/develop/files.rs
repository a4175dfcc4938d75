//! Which files of a directory count, and when they have changed.
//!
//! inotify(7) says that something has happened in a directory; two lists of all files say what has
//! changed. So a rename by an editor, a new directory and a change of `.gitignore` need no rules of
//! their own. What git ignores does not count, nor what tools and apps write themselves.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use ignore::WalkBuilder;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// How long no further change must come before the changes count.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Changes count after this time even if they go on.
const MAX_DEBOUNCE: Duration = Duration::from_secs(5);
/// Most files that are watched; each look reads the attributes of all.
const MAX_FILES: usize = 20_000;
/// Directories that tools fill.
const SKIPPED: [&str; 13] = [
    ".git",
    ".hg",
    ".svn",
    ".idea",
    ".vscode",
    ".cache",
    ".venv",
    "venv",
    "node_modules",
    "target",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
];
/// Ends of the names of files that editors and running apps write.
const WRITTEN: [&str; 14] = [
    "~", ".log", ".tmp", ".swp", ".swx", ".pid", ".sock", ".pyc", ".db", ".sqlite", ".sqlite3",
    "-journal", "-wal", "-shm",
];

/// The files that count, and what changes with their contents.
type Files = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// The files and directories of some roots.
#[derive(Debug, Default)]
struct Listing {
    files: Files,
    directories: Vec<PathBuf>,
}

/// Lists what counts below the roots.
fn list(roots: &[PathBuf]) -> anyhow::Result<Listing> {
    let mut found = Listing::default();
    for root in roots {
        let walk = WalkBuilder::new(root)
            // `.env` counts.
            .hidden(false)
            .require_git(false)
            .filter_entry(|entry| {
                let name = entry.file_name().to_string_lossy();
                entry.depth() == 0 || !SKIPPED.contains(&&*name)
            })
            .build();
        // A file that has just been removed, or that may not be read, does not count.
        for entry in walk.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                found.directories.push(entry.into_path());
            } else if metadata.is_file() && counts(entry.path()) {
                let state = (metadata.modified().ok(), metadata.len());
                found.files.insert(entry.into_path(), state);
            }
            if found.files.len() + found.directories.len() > MAX_FILES {
                bail!(
                    "{} has more than {MAX_FILES} files, too many to watch: name those that are no sources in a .gitignore, or set spec.workingDir to the directory of the app",
                    root.display()
                );
            }
        }
    }
    Ok(found)
}

fn counts(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Emacs locks a file by a link of this name.
    !name.starts_with(".#") && !WRITTEN.iter().any(|end| name.ends_with(end))
}

/// The files that are new, gone or different.
fn differences(before: &Files, now: &Files) -> Vec<PathBuf> {
    let new_or_different = now
        .iter()
        .filter(|(path, state)| before.get(*path) != Some(*state));
    let gone = before.keys().filter(|path| !now.contains_key(*path));
    let mut all: Vec<PathBuf> = new_or_different
        .map(|(path, _)| path)
        .chain(gone)
        .cloned()
        .collect();
    all.sort();
    all
}

/// Notices changes below some directories.
#[derive(Debug)]
pub(super) struct Watcher {
    roots: Vec<PathBuf>,
    inotify: Arc<OwnedFd>,
    /// Something has happened in a watched directory.
    events: mpsc::Receiver<()>,
    known: Files,
}

impl Watcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// There are too many files, or the kernel allows no more watches.
    pub(super) fn new(roots: Vec<PathBuf>) -> anyhow::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC)
            .context("the kernel allows no more watches: raise fs.inotify.max_user_instances")?;
        let inotify = Arc::new(inotify);
        let (sender, events) = mpsc::channel(1);
        let read = Arc::clone(&inotify);
        // The thread ends with the process: a read without an event does not return.
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                let mut buffer = [0; 4096];
                while rustix::io::read(&*read, &mut buffer).is_ok() {
                    // One event that waits to be seen is enough.
                    let _full = sender.try_send(());
                }
            })?;
        let mut watcher = Self {
            roots,
            inotify,
            events,
            known: Files::new(),
        };
        watcher.known = watcher.look()?;
        Ok(watcher)
    }

    /// The number of files that count.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// The watched directories, for people.
    pub(super) fn roots(&self) -> String {
        let roots: Vec<String> = self
            .roots
            .iter()
            .map(|root| root.display().to_string())
            .collect();
        roots.join(", ")
    }

    /// Lists the files, and watches all directories. They are watched before the files are listed,
    /// so that no change falls between.
    fn look(&self) -> anyhow::Result<Files> {
        for directory in list(&self.roots)?.directories {
            let what = WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVE
                | WatchFlags::ONLYDIR;
            let added = inotify::add_watch(&*self.inotify, &directory, what);
            // A directory that is gone by now, or may not be read, has no changes to notice.
            if added == Err(rustix::io::Errno::NOSPC) {
                bail!(
                    "the kernel allows no more watches: raise fs.inotify.max_user_watches (sysctl), or name directories without sources in a .gitignore"
                );
            }
        }
        Ok(list(&self.roots)?.files)
    }

    /// Waits for changes of files that count, and returns them when no further change has come for
    /// 200 ms.
    ///
    /// # Errors
    /// Those of [`Watcher::new`].
    pub(super) async fn changed(&mut self) -> anyhow::Result<Vec<PathBuf>> {
        loop {
            self.event().await?;
            let latest = Instant::now() + MAX_DEBOUNCE;
            while Instant::now() < latest && timeout(DEBOUNCE, self.event()).await.is_ok() {}
            let now = self.look()?;
            let changed = differences(&self.known, &now);
            self.known = now;
            if !changed.is_empty() {
                return Ok(changed);
            }
        }
    }

    /// Waits until something happens in a directory. What it is does not matter.
    async fn event(&mut self) -> anyhow::Result<()> {
        self.events
            .recv()
            .await
            .context("the kernel reports no more changes")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(paths: &[PathBuf], root: &Path) -> Vec<String> {
        let names = paths
            .iter()
            .map(|path| path.strip_prefix(root).unwrap().display().to_string());
        names.collect()
    }

    #[test]
    fn sources_count_and_what_git_ignores_or_tools_write_does_not() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path();
        for directory in [
            "src/inner",
            "node_modules/x",
            "target",
            ".git",
            "build",
            "src/gen",
        ] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in [
            "app.js",
            ".env",
            "src/a.js",
            "src/inner/b.js",
            "node_modules/x/c.js",
            "target/d",
            ".git/e",
            "build/f.js",
            "src/gen/g.js",
            "h.log",
            "data.sqlite3",
            "i.js~",
            ".#j.js",
        ] {
            fs::write(root.join(file), "x").unwrap();
        }
        fs::write(root.join(".gitignore"), "/build\n").unwrap();
        fs::write(root.join("src/.gitignore"), "gen/\n").unwrap();
        let listing = list(&[root.to_owned()]).unwrap();
        let files: Vec<PathBuf> = listing.files.keys().cloned().collect();
        assert_eq!(
            names(&files, root),
            [
                ".env",
                ".gitignore",
                "app.js",
                "src/.gitignore",
                "src/a.js",
                "src/inner/b.js"
            ]
        );
    }

    #[tokio::test]
    async fn each_kind_of_change_is_noticed_once() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path();
        fs::write(root.join("a.js"), "1").unwrap();
        let mut watcher = Watcher::new(vec![root.to_owned()]).unwrap();
        fs::write(root.join("a.js"), "22").unwrap();
        fs::create_dir(root.join("new")).unwrap();
        fs::write(root.join("new/b.js"), "1").unwrap();
        fs::write(root.join("x.log"), "1").unwrap();
        assert_eq!(
            names(&watcher.changed().await.unwrap(), root),
            ["a.js", "new/b.js"]
        );
        // A file in the new directory, and a rename over a file, as editors write.
        fs::write(root.join("new/c.tmp"), "333").unwrap();
        fs::rename(root.join("new/c.tmp"), root.join("new/b.js")).unwrap();
        assert_eq!(names(&watcher.changed().await.unwrap(), root), ["new/b.js"]);
        fs::remove_file(root.join("a.js")).unwrap();
        assert_eq!(names(&watcher.changed().await.unwrap(), root), ["a.js"]);
        fs::write(root.join("y.log"), "1").unwrap();
        let more = timeout(Duration::from_secs(1), watcher.changed()).await;
        assert!(more.is_err(), "a log is no change: {more:?}");
    }
}
