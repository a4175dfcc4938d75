//! The lock that lets one run at a time work on the cluster. A second run prints that it waits.
//!
//! The cluster belongs to the machine, not to the checkout, so all checkouts of a user share the
//! lock. The kernel releases the lock (flock) when a run is killed. The name of the lock's file can
//! be guessed and `/tmp` is shared, so another user may have put a link, a FIFO or a locked file
//! there. Therefore the file must belong to the user of this process.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::console::note;

/// How long another run may take to finish. A first run takes less.
const LOCK_TIMEOUT: Duration = Duration::from_mins(90);
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// The lock; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Waits until no other run works on the cluster.
///
/// # Errors
/// The lock's file belongs to another user or cannot be opened, or another run takes too long.
pub(crate) fn take() -> anyhow::Result<Lock> {
    let user = rustix::process::geteuid().as_raw();
    let name = format!("scaledapp-kind-{user}.lock");
    let directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directory = directory.filter(|directory| is_ours(directory, user));
    let path = directory.unwrap_or_else(std::env::temp_dir).join(name);
    take_file(&path, LOCK_TIMEOUT)
}

/// Whether a directory belongs to this user and no other user can write to it. Under `sudo`,
/// `XDG_RUNTIME_DIR` may name a directory of another user.
fn is_ours(directory: &Path, user: u32) -> bool {
    rustix::fs::lstat(directory).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && stat.st_uid == user
            && stat.st_mode & 0o022 == 0
    })
}

fn take_file(path: &Path, timeout: Duration) -> anyhow::Result<Lock> {
    let file = open(path)?;
    let start = Instant::now();
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) if start.elapsed() < timeout => {
                if !said {
                    note("Another run of `cargo xtask kind` works on the cluster: waiting.");
                    said = true;
                }
                std::thread::sleep(RETRY_INTERVAL.min(timeout));
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another run still works on the cluster.\nCure: see who holds it with \
                 `fuser -v {}`, and end that run",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

/// Opens the file, or makes it with access for this user only. Follows no link and does not block
/// on a FIFO. Commands do not inherit the descriptor.
fn open(path: &Path) -> anyhow::Result<File> {
    let shown = path.display();
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let cure = || {
        format!(
            "{shown} is not our lock.\nCure: remove it, or set XDG_RUNTIME_DIR to a directory of your own"
        )
    };
    let fd = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => fd,
        // The path is a link (open(2)), a FIFO without a reader, a directory, or a file of another
        // user (proc_sys_fs(5), protected_regular).
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::ACCESS) => bail!("{}", cure()),
        Err(error) => return Err(error).with_context(|| format!("cannot open {shown}")),
    };
    let stat = rustix::fs::fstat(&fd)?;
    let is_ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_nlink == 1;
    ensure!(is_ours, "{}", cure());
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_second_run_waits_for_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let take = || take_file(&path, Duration::from_millis(20));
        let first = take().unwrap();
        let text = take().unwrap_err().to_string();
        assert!(text.contains("fuser -v"), "{text}");
        drop(first);
        take().unwrap();
    }

    #[test]
    fn a_link_fifo_or_file_of_another_user_is_refused_with_the_cure() {
        let directory = tempfile::tempdir().unwrap();
        let (victim, path) = (
            directory.path().join("victim"),
            directory.path().join("lock"),
        );
        fs::write(&victim, "precious").unwrap();
        let missing = directory.path().join("missing");
        let plant: [&dyn Fn(); 5] = [
            &|| symlink(&victim, &path).unwrap(),
            &|| symlink(&missing, &path).unwrap(),
            &|| fs::hard_link(&victim, &path).unwrap(),
            &|| rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
            &|| {
                fs::write(&path, "").unwrap();
                // Only root can change the owner of a file.
                if rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(65_534)), None).is_err()
                {
                    fs::remove_file(&path).unwrap();
                    fs::hard_link(&victim, &path).unwrap();
                }
            },
        ];
        for plant in plant {
            plant();
            let text = take_file(&path, Duration::from_millis(20))
                .unwrap_err()
                .to_string();
            assert!(
                text.contains("is not our lock") && text.contains("Cure"),
                "{text}"
            );
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!missing.exists());
    }
}
