//! A signal for one thread of another process, which kill(2) cannot send.

use std::io;

/// Sends `signal` to the thread `thread` of the process `process` (`tgkill(2)`).
///
/// # Errors
/// Those of the system call: `ESRCH` if the thread has ended, `EPERM`, `EINVAL`.
pub fn signal(process: u32, thread: u32, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes three numbers and touches no memory of this process.
    let done = unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            process as libc::pid_t,
            thread as libc::pid_t,
            signal,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_gone_is_an_error() {
        let us = std::process::id();
        signal(us, us, 0).unwrap();
        // Thread numbers are below `PID_MAX_LIMIT`, 2^22.
        let gone = signal(us, 1 << 23, 0).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }
}
