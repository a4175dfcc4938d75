//! Directories that no other user except root can change, and the files in these directories.
//!
//! A run writes to paths that are easy to guess (`/tmp/scaledapp-0`). Another user may have put a
//! symbolic link, a FIFO or a directory there before. Therefore a path is walked one name at a
//! time, links of other users are not followed, and every directory on the way is checked. All
//! later operations are relative to the checked descriptor (openat(2)). `rundir` decides where the
//! files of a run are.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Maximum number of symbolic links that are followed in one path. The kernel has the same limit
/// (`ELOOP`).
const MAX_LINKS: usize = 40;
/// Maximum number of attempts at an operation that another process may disturb at the same time.
const MAX_ATTEMPTS: usize = 20;
/// Maximum number of bytes to read of a file. A state file of 250 pods takes about 30 KiB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Why a file or directory is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsafe {
    #[error("{0} belongs to the user with uid {1}, who could change its content")]
    Owner(PathBuf, u32),
    #[error(
        "{0} is a symbolic link made by the user with uid {1}: it may lead to other users' files"
    )]
    Link(PathBuf, u32),
    #[error("{0} may be changed by other users (its mode is {1:o}): run `chmod go-w {0}`")]
    Writable(PathBuf, u32),
    #[error("{0} may be entered by other users (its mode is {1:o}): run `chmod 700 {0}`")]
    Open(PathBuf, u32),
    #[error("{0} is not a directory")]
    NoDirectory(PathBuf),
    #[error("{0} is not a regular file")]
    NoFile(PathBuf),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

impl Unsafe {
    fn io(path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        |error| Self::Io(path, error.into())
    }

    /// Whether the file or directory does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io(_, error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// The users whose directories and links are trusted: the current user and the machine's root.
#[derive(Debug, Clone, Copy)]
struct Trusted {
    us: u32,
    group: u32,
    /// The owner of `/`: root, or the uid that a user namespace shows for root.
    machine: u32,
}

impl Trusted {
    fn owner(self, uid: u32) -> bool {
        uid == self.us || uid == self.machine || uid == 0
    }

    /// Checks a directory on the path to the run's directory. In a sticky directory (`/tmp`),
    /// another user can rename or remove only entries of their own; the next step checks the owner
    /// of the entry. The user's own group may have write access, because it usually has no other
    /// members.
    fn on_the_way(self, path: &Path, uid: u32, gid: u32, mode: u32) -> Result<(), Unsafe> {
        if !self.owner(uid) {
            return Err(Unsafe::Owner(path.to_owned(), uid));
        }
        let by_group = mode & 0o020 != 0 && gid != self.group && gid != 0;
        let by_all = mode & 0o002 != 0;
        if (by_group || by_all) && mode & 0o1000 == 0 {
            return Err(Unsafe::Writable(path.to_owned(), mode & 0o7777));
        }
        Ok(())
    }
}

/// The effective uid of this process, which owns new files.
pub(crate) fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn trusted() -> Result<Trusted, Unsafe> {
    let machine = rustix::fs::stat("/").map_err(Unsafe::io(Path::new("/")))?;
    Ok(Trusted {
        us: our_uid(),
        group: rustix::process::getegid().as_raw(),
        machine: machine.st_uid,
    })
}

/// The descriptor of a checked directory.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// A directory that this process made: its parent and its name.
#[derive(Debug)]
pub(crate) struct Made {
    parent: OwnedFd,
    name: OsString,
}

impl Made {
    /// Removes the directory if it is empty.
    pub(crate) fn remove(&self) {
        // This fails if the directory contains anything that this run did not make.
        let _stays = rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

impl Directory {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// The directory does not exist, or another user could change its content.
    pub(crate) fn open(path: &Path) -> Result<Self, Unsafe> {
        let (reached, missing) = walk(path)?;
        match missing.first() {
            None => Ok(reached),
            Some(name) => Err(Unsafe::io(&reached.path.join(name))(Errno::NOENT)),
        }
    }

    /// Opens a directory that belongs to the current user and that no other user can write to.
    /// Makes the directory and its parents if they are missing.
    ///
    /// # Errors
    /// The directory cannot be made, belongs to another user, or could be changed by one.
    pub(crate) fn make(path: &Path, made: &mut Vec<Made>) -> Result<Self, Unsafe> {
        let mut tries = 0;
        loop {
            // Another run that ends may remove an empty parent at the same time.
            match make_once(path, made) {
                Err(error) if error.is_missing() && tries < MAX_ATTEMPTS => tries += 1,
                other => return other,
            }
        }
    }

    /// Opens the directory `name` in this directory, and checks that no other user can enter it.
    /// Makes it if it is missing.
    ///
    /// # Errors
    /// The directory cannot be made, belongs to another user, or may be entered by other users.
    pub(crate) fn private(&self, name: &OsStr, made: &mut Vec<Made>) -> Result<Self, Unsafe> {
        let inner = self.child(name, made)?;
        let stat = inner.stat()?;
        if stat.st_uid != our_uid() {
            return Err(Unsafe::Owner(inner.path, stat.st_uid));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(Unsafe::Open(inner.path, stat.st_mode & 0o7777));
        }
        Ok(inner)
    }

    /// Opens a directory as [`Self::private`] does, but returns `None` if it does not exist.
    ///
    /// # Errors
    /// Those of [`Self::private`].
    pub(crate) fn existing(&self, name: &OsStr) -> Result<Option<Self>, Unsafe> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => self.private(name, &mut Vec::new()).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Unsafe::io(&self.path.join(name))(error)),
        }
    }

    fn child(&self, name: &OsStr, made: &mut Vec<Made>) -> Result<Self, Unsafe> {
        let path = self.path.join(name);
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) => made.insert(
                0,
                Made {
                    parent: self
                        .fd
                        .try_clone()
                        .map_err(|error| Unsafe::Io(path.clone(), error))?,
                    name: name.to_owned(),
                },
            ),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(Unsafe::io(&path)(error)),
        }
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Unsafe::io(&path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            FileType::Symlink => return Err(Unsafe::Link(path, stat.st_uid)),
            _ => return Err(Unsafe::NoDirectory(path)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(
                |error| match error {
                    // Another user's private directory cannot even be opened.
                    Errno::ACCESS => Unsafe::Owner(path.clone(), stat.st_uid),
                    error => Unsafe::io(&path)(error),
                },
            )?;
        Ok(Self { fd, path })
    }

    fn stat(&self) -> Result<Stat, Unsafe> {
        rustix::fs::fstat(&self.fd).map_err(Unsafe::io(&self.path))
    }

    /// Whether the directory belongs to the user of this process.
    pub(crate) fn is_ours(&self) -> bool {
        self.stat().is_ok_and(|stat| stat.st_uid == our_uid())
    }

    /// Another handle of the same directory, which shares its lock.
    ///
    /// # Errors
    /// The limit of open files is reached.
    pub(crate) fn again(&self) -> Result<Self, Unsafe> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|error| Unsafe::Io(self.path.clone(), error))?;
        Ok(Self {
            fd,
            path: self.path.clone(),
        })
    }

    /// The path of the directory, for messages and for child processes.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `name` in `parent` is still this directory.
    pub(crate) fn is_still(&self, parent: &Self, name: &OsStr) -> bool {
        let there = rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        let here = rustix::fs::fstat(&self.fd);
        matches!((there, here), (Ok(there), Ok(here))
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino))
    }

    /// Locks the directory until the process ends or all handles that share the lock are dropped
    /// (flock(2)). Returns `false` if the directory is locked already.
    ///
    /// # Errors
    /// The file system does not support locks.
    pub(crate) fn lock(&self) -> Result<bool, Unsafe> {
        match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(Unsafe::io(&self.path)(error)),
        }
    }

    /// Writes `bytes` to `name`; readers see either the old or the new file. Returns the file,
    /// locked: as long as it is open, readers can see that its writer is still running.
    ///
    /// An existing file is replaced, never written to, so nothing is written through a symbolic or
    /// hard link or into a FIFO.
    ///
    /// # Errors
    /// The new file cannot be made or written, or `name` is a directory.
    pub(crate) fn replace(&self, name: &OsStr, bytes: &[u8], readers: For) -> Result<File, Unsafe> {
        let path = self.path.join(name);
        let (mut file, partial) = self.create(name, readers)?;
        // Without locks, readers check whether the run's processes answer.
        let _no_locks = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        let written = file
            .write_all(bytes)
            .and_then(|()| Ok(rustix::fs::renameat(&self.fd, &partial, &self.fd, name)?));
        match written {
            Ok(()) => Ok(file),
            Err(error) => {
                self.remove(&partial);
                Err(Unsafe::Io(path, error))
            }
        }
    }

    /// Makes a new file beside `name`. The name of the new file can be guessed, so another user may
    /// have made a file with that name; in that case the next name is tried.
    fn create(&self, name: &OsStr, readers: For) -> Result<(File, OsString), Unsafe> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(match readers {
            For::All => 0o644,
            For::Us => 0o600,
        });
        let mut tried = 0;
        loop {
            let mut partial = OsString::from(".");
            partial.push(name);
            partial.push(format!(".{}.{tried}", std::process::id()));
            match rustix::fs::openat(&self.fd, &partial, flags, mode) {
                Ok(fd) => return Ok((File::from(fd), partial)),
                Err(Errno::EXIST) if tried < MAX_ATTEMPTS => tried += 1,
                Err(error) => return Err(Unsafe::io(&self.path.join(partial))(error)),
            }
        }
    }

    /// Opens and reads a file of the current user or of root. Follows no link, and does not block
    /// on a FIFO.
    ///
    /// # Errors
    /// The file is missing, is not a regular file, belongs to another user, or is not UTF-8.
    pub(crate) fn read(&self, name: &OsStr) -> Result<(File, String), Unsafe> {
        read_at(&self.fd, name, &self.path.join(name))
    }

    /// Removes a file, if it exists.
    pub(crate) fn remove(&self, name: &OsStr) {
        let _missing = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
    }

    /// Removes the files in this directory, but no directories.
    pub(crate) fn clear(&self) {
        for name in self.names() {
            self.remove(&name);
        }
    }

    /// Removes the subdirectory `name`, if the subdirectory is empty.
    pub(crate) fn remove_directory(&self, name: &OsStr) {
        let _stays = rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
    }

    /// The names in the directory; empty if the directory cannot be read.
    pub(crate) fn names(&self) -> Vec<OsString> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = rustix::fs::openat(&self.fd, ".", flags, Mode::empty()).and_then(Dir::new);
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
        names.filter(|name| name != "." && name != "..").collect()
    }
}

/// Opens and reads a file by its path, as [`Directory::read`] does.
///
/// # Errors
/// Those of [`Directory::read`].
pub(crate) fn read(path: &Path) -> Result<(File, String), Unsafe> {
    read_at(CWD, path.as_os_str(), path)
}

fn read_at(at: impl AsFd, name: &OsStr, path: &Path) -> Result<(File, String), Unsafe> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::LOOP | Errno::NXIO) => return Err(Unsafe::NoFile(path.to_owned())),
        Err(error) => return Err(Unsafe::io(path)(error)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(Unsafe::io(path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Unsafe::NoFile(path.to_owned()));
    }
    if !trusted()?.owner(stat.st_uid) {
        return Err(Unsafe::Owner(path.to_owned(), stat.st_uid));
    }
    let mut text = String::new();
    let file = File::from(fd);
    io::Read::read_to_string(&mut io::Read::take(&file, MAX_FILE_BYTES), &mut text)
        .map_err(|error| Unsafe::Io(path.to_owned(), error))?;
    Ok((file, text))
}

/// Which users may read a file, provided that they may enter its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    All,
    Us,
}

/// Whether the process that wrote a file with [`Directory::replace`] still has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    Lives,
    Gone,
    /// The file system does not support locks.
    Unknown,
}

/// Checks whether the process that wrote a file still has it open.
pub(crate) fn writer(file: &File) -> Writer {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _unlocked = rustix::fs::flock(file, FlockOperation::Unlock);
            Writer::Gone
        }
        Err(Errno::WOULDBLOCK) => Writer::Lives,
        Err(_) => Writer::Unknown,
    }
}

fn make_once(path: &Path, made: &mut Vec<Made>) -> Result<Directory, Unsafe> {
    let (mut reached, missing) = walk(path)?;
    for name in &missing {
        reached = reached.child(name, made)?;
    }
    let stat = reached.stat()?;
    if stat.st_uid != our_uid() {
        return Err(Unsafe::Owner(reached.path, stat.st_uid));
    }
    // The run's own directory must not be writable by other users, even if it is sticky.
    if stat.st_mode & 0o002 != 0 {
        return Err(Unsafe::Writable(reached.path, stat.st_mode & 0o7777));
    }
    Ok(reached)
}

/// Follows a path as far as it exists. Returns the last directory, checked like all
/// directories before it, and the names that do not exist.
fn walk(path: &Path) -> Result<(Directory, Vec<OsString>), Unsafe> {
    let trusted = trusted()?;
    let absolute = std::path::absolute(path).map_err(|error| Unsafe::Io(path.to_owned(), error))?;
    let mut ahead: VecDeque<OsString> = names(&absolute);
    let mut links = 0;
    let mut at = top()?;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            at = step(
                &at,
                &name,
                at.path.parent().unwrap_or(Path::new("/")).to_owned(),
            )?;
            continue;
        }
        let there = at.path.join(&name);
        let stat = match rustix::fs::statat(&at.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if !ahead.iter().any(|name| name == "..") => {
                ahead.push_front(name);
                break;
            }
            Err(error) => return Err(Unsafe::io(&there)(error)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => at = step(&at, &name, there)?,
            FileType::Symlink if !trusted.owner(stat.st_uid) => {
                return Err(Unsafe::Link(there, stat.st_uid));
            }
            FileType::Symlink if links == MAX_LINKS => {
                return Err(Unsafe::io(&there)(Errno::LOOP));
            }
            FileType::Symlink => {
                links += 1;
                let target = rustix::fs::readlinkat(&at.fd, &name, Vec::new())
                    .map_err(Unsafe::io(&there))?;
                let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                if target.is_absolute() {
                    at = top()?;
                }
                for name in names(target).into_iter().rev() {
                    ahead.push_front(name);
                }
                continue;
            }
            _ => return Err(Unsafe::NoDirectory(there)),
        }
        let stat = at.stat()?;
        trusted.on_the_way(&at.path, stat.st_uid, stat.st_gid, stat.st_mode)?;
    }
    Ok((at, ahead.into()))
}

/// The names of a path, without `.` and `/`.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        })
        .collect()
}

fn top() -> Result<Directory, Unsafe> {
    let path = PathBuf::from("/");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(Unsafe::io(&path))?;
    Ok(Directory { fd, path })
}

fn step(at: &Directory, name: &OsStr, path: PathBuf) -> Result<Directory, Unsafe> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&at.fd, name, flags, Mode::empty()).map_err(Unsafe::io(&path))?;
    Ok(Directory { fd, path })
}

#[cfg(test)]
mod tests;
