//! The signal state that a process inherits: its mask, and the signals that it ignores
//! (signal(7)).
//!
//! Both survive `exec`, and the parent may have set them for reasons of its own: a service
//! runner that blocks CHLD, a shell that ignores INT in background jobs. How the programs
//! handle signals later is decided elsewhere.

use std::mem::zeroed;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::{null, null_mut};

/// The highest signal number on every supported architecture.
const LAST: libc::c_int = 64;

/// Unblocks all signals and ignores none, as after a login. It must be called before the
/// first thread starts, because each thread inherits the mask of the thread that starts it.
///
/// Two signals are left unchanged: HUP, which `nohup` ignores for a program and its children,
/// and PIPE, which Rust's runtime ignores and restores for children by itself.
pub fn reset() {
    // SAFETY: the set and the actions are values of this frame, which the kernel reads and
    // writes only during the calls; SIG_DFL replaces no handler, because only ignored
    // signals are changed.
    unsafe {
        let mut nothing: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut nothing);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const nothing, null_mut());
        for signal in 1..=LAST {
            if signal == libc::SIGHUP || signal == libc::SIGPIPE {
                continue;
            }
            // For numbers that the C library reserves, the call returns an error.
            if is_ignored(signal) {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

/// Whether HUP is ignored, as under `nohup`. It must be called before a handler is
/// installed.
pub fn ignores_hangup() -> bool {
    is_ignored(libc::SIGHUP)
}

/// Makes `command`'s child ignore HUP. A handler does not survive `exec`, so a child of a
/// process that handles HUP would otherwise get the default action instead of the ignored HUP
/// that `nohup` promises.
pub fn ignore_hangup(command: &mut Command) {
    // SAFETY: the closure makes one system call (rt_sigaction), which is
    // async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: as in `reset`.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        libc::sigaction(signal, null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_and_ignored_signals_are_reset_except_hup_and_pipe() {
        let own = [libc::SIGUSR1, libc::SIGCHLD, libc::SIGHUP, libc::SIGPIPE];
        // SAFETY: as in `reset`; no other test of this process uses these signals.
        let mask = unsafe {
            for signal in own {
                libc::signal(signal, libc::SIG_IGN);
            }
            let mut blocked: libc::sigset_t = zeroed();
            libc::sigfillset(&raw mut blocked);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const blocked, null_mut());
            reset();
            let mut mask: libc::sigset_t = zeroed();
            libc::pthread_sigmask(libc::SIG_SETMASK, null(), &raw mut mask);
            mask
        };
        assert_eq!(own.map(is_ignored), [false, false, true, true]);
        for signal in own {
            // SAFETY: `mask` is a set that the kernel wrote.
            assert_eq!(unsafe { libc::sigismember(&raw const mask, signal) }, 0);
        }
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    }
}
