//! Writes to this process's own stdout and stderr, in whole pieces.
//!
//! A write blocks until the reader accepts the bytes, so only threads that may wait may write.
//! The callers decide what is written, and what happens if it is too much.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::fstat;
use rustix::io::Errno;

/// One of this process's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// The name in log lines: `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Writes all of `bytes` without bytes of another thread in between, even if both
    /// streams lead to the same pipe or terminal (`2>&1`).
    ///
    /// # Errors
    /// The reader has closed its end (`EPIPE`), the descriptor is closed (`EBADF`), or the
    /// device failed; a part may have been written.
    pub fn write_whole(self, bytes: &[u8]) -> io::Result<()> {
        static STDOUT: Mutex<()> = Mutex::new(());
        static STDERR: Mutex<()> = Mutex::new(());
        let lock = match self {
            Self::Stdout if !are_one() => &STDOUT,
            _ => &STDERR,
        };
        let _whole = lock.lock().unwrap_or_else(PoisonError::into_inner);
        match self {
            Self::Stdout => write_all(io::stdout().as_fd(), bytes),
            Self::Stderr => write_all(io::stderr().as_fd(), bytes),
        }
    }
}

/// Whether stdout and stderr are the same file, as determined at the first call.
fn are_one() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(|| {
        let both = (fstat(io::stdout()), fstat(io::stderr()));
        matches!(both, (Ok(out), Ok(err))
            if (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino))
    })
}

/// Writes to a descriptor that may be non-blocking, because another process that shares it
/// (a parent, a terminal) may have made it so.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_full_pipe_that_does_not_block_gets_everything() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let sent = bytes.clone();
        let thread = std::thread::spawn(move || write_all(writer.as_fd(), &sent));
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        thread.join().unwrap().unwrap();
        assert!(got == bytes);
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let error = write_all(writer.as_fd(), b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
