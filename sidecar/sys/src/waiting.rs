//! The system calls in which a thread waits for connections.
//!
//! The caller reads which call a thread is in (`/proc/PID/task/TID/syscall`).

/// How a thread waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// For a connection on the listening socket in the first argument.
    Accept,
    /// For events of the epoll instance in the first argument.
    Epoll,
    /// For one of the descriptors listed in its memory.
    Poll,
}

/// How a thread in the system call `number` of this architecture waits; `None` if it does
/// not wait for connections.
#[must_use]
pub fn waits_in(number: i64) -> Option<Waits> {
    match number {
        libc::SYS_accept | libc::SYS_accept4 => Some(Waits::Accept),
        libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => Some(Waits::Epoll),
        libc::SYS_ppoll | libc::SYS_pselect6 | libc::SYS_io_uring_enter => Some(Waits::Poll),
        // poll(2) resumes as this call after a stop.
        libc::SYS_restart_syscall => Some(Waits::Poll),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait => Some(Waits::Epoll),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll | libc::SYS_select => Some(Waits::Poll),
        _ => None,
    }
}
