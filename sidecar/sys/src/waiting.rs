//! Which system calls a thread waits for connections in.
//!
//! What a thread is in is read by the caller (`/proc/PID/task/TID/syscall`).

/// How a thread waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// For a connection; the first argument is the listening socket.
    Accept,
    /// For any of what an epoll instance watches, which is the first argument.
    Epoll,
    /// For any of what is listed in its memory.
    Poll,
}

/// How a thread waits that is in the system call `number` of this architecture;
/// `None`: not for connections.
#[must_use]
pub fn waits_in(number: i64) -> Option<Waits> {
    match number {
        libc::SYS_accept | libc::SYS_accept4 => Some(Waits::Accept),
        libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => Some(Waits::Epoll),
        libc::SYS_ppoll | libc::SYS_pselect6 | libc::SYS_io_uring_enter => Some(Waits::Poll),
        // What poll(2) becomes after a stop.
        libc::SYS_restart_syscall => Some(Waits::Poll),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait => Some(Waits::Epoll),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll | libc::SYS_select => Some(Waits::Poll),
        _ => None,
    }
}
