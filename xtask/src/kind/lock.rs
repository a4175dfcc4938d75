//! One run at a time: which file says so, and what a second run says and does.
//!
//! The cluster is the machine's, not the checkout's, so the lock is, too. It is
//! the kernel's (flock): a killed run holds none. Rust opens files so that
//! commands do not inherit them.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::console::note;

/// Longer than the first run of all takes.
const PATIENCE: Duration = Duration::from_mins(90);
const PERIOD: Duration = Duration::from_millis(250);

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Waits until no other run works on the cluster.
///
/// # Errors
/// The lock's file cannot be opened, or another run takes too long.
pub(crate) fn take() -> anyhow::Result<Lock> {
    let user = rustix::process::geteuid().as_raw();
    let name = format!("scaledapp-kind-{user}.lock");
    let directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directory = directory.filter(|directory| directory.is_dir());
    let path = directory.unwrap_or_else(std::env::temp_dir).join(name);
    take_file(&path, PATIENCE)
}

fn take_file(path: &Path, patience: Duration) -> anyhow::Result<Lock> {
    let mut options = File::options();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let start = Instant::now();
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) if start.elapsed() < patience => {
                if !said {
                    note("Another run of `cargo xtask kind` works on the cluster: waiting.");
                    said = true;
                }
                std::thread::sleep(PERIOD.min(patience));
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

#[cfg(test)]
mod tests {
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
}
