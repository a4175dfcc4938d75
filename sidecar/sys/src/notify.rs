//! seccomp user notification: a worker's calls of `bind`, `listen` and
//! `setsockopt(SO_LINGER)` wait in the kernel until the supervisor has answered
//! (`seccomp_unotify(2)`, Linux 5.9+ for `ADDFD`).
//!
//! This file implements the protocol and knows neither ports nor workers. The filter compares the
//! architecture and the number of each system call first, so any other call costs only a few
//! comparisons.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The filtered call that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `bind(fd, addr, len)`, with the location of the address in the caller's memory.
    Bind {
        /// The caller's descriptor.
        fd: RawFd,
        /// Address of the `sockaddr` in the caller's memory.
        address: u64,
        /// Length of the `sockaddr` as the caller gave it, in bytes.
        length: u64,
    },
    /// `listen(fd, backlog)`.
    Listen {
        /// The caller's descriptor.
        fd: RawFd,
    },
    /// `setsockopt(fd, SOL_SOCKET, SO_LINGER, …)`.
    Linger,
    /// A call that the filter should not have sent; let it continue.
    Other,
}

/// One waiting call.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// The kernel's identifier of the notification, needed for the answer.
    pub id: u64,
    /// The thread that made the call, in the supervisor's PID namespace; 0 if it is not
    /// visible there.
    pub pid: u32,
    /// The call and its arguments.
    pub call: Call,
}

/// The listening end of one worker's filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

// Layouts of <linux/seccomp.h>, fixed by the kernel's ABI.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct RawNotification {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    instruction_pointer: u64,
    args: [u64; 6],
}

#[repr(C)]
struct RawResponse {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct RawAddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

const READ: u64 = 2;
const WRITE: u64 = 1;

/// `_IOC(direction, '!', number, size)` of <asm-generic/ioctl.h>.
const fn ioc(direction: u64, number: u64, size: usize) -> u64 {
    (direction << 30) | ((size as u64) << 16) | ((b'!' as u64) << 8) | number
}

const NOTIF_RECV: u64 = ioc(READ | WRITE, 0, size_of::<RawNotification>());
const NOTIF_SEND: u64 = ioc(READ | WRITE, 1, size_of::<RawResponse>());
const NOTIF_ID_VALID: u64 = ioc(WRITE, 2, size_of::<u64>());
const NOTIF_ADDFD: u64 = ioc(WRITE, 3, size_of::<RawAddFd>());

const USER_NOTIF_FLAG_CONTINUE: u32 = 1;
const ADDFD_FLAG_SETFD: u32 = 1;

/// Runs one ioctl of the listener; `EINTR` is retried.
fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, argument: &mut T) -> io::Result<i32> {
    loop {
        // SAFETY: `argument` is a live, exclusively borrowed value of the
        // type whose size is encoded in `request`; the kernel reads and
        // writes within that size only.
        let result = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                request as _,
                std::ptr::from_mut::<T>(argument),
            )
        };
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

impl Listener {
    /// Takes the descriptor that `seccomp(2)` returned.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Registers the descriptor with the reactor of the current runtime.
    ///
    /// # Errors
    /// The reactor takes no more descriptors.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: `as_raw_fd` returns the same descriptor at every call, and it stays open
        // for as long as `self`, which owns it and never gives it away.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// Fetches one waiting call. It blocks unless the descriptor polls readable.
    ///
    /// # Errors
    /// `NotFound` if the caller died or was interrupted in the meantime: try again when the
    /// descriptor is readable.
    pub fn receive(&self) -> io::Result<Notification> {
        // The kernel refuses a structure that is not all zero.
        let mut raw = RawNotification::default();
        ioctl(self.0.as_fd(), NOTIF_RECV, &mut raw)?;
        let call = match i64::from(raw.nr) {
            libc::SYS_bind => Call::Bind {
                fd: raw.args[0] as RawFd,
                address: raw.args[1],
                length: raw.args[2],
            },
            libc::SYS_listen => Call::Listen {
                fd: raw.args[0] as RawFd,
            },
            libc::SYS_setsockopt => Call::Linger,
            _ => Call::Other,
        };
        Ok(Notification {
            id: raw.id,
            pid: raw.pid,
            call,
        })
    }

    /// Whether the caller still waits. This must be checked after its memory or its
    /// descriptors were read, because its pid could have been reused by then.
    pub fn is_waiting(&self, id: u64) -> bool {
        let mut id = id;
        ioctl(self.0.as_fd(), NOTIF_ID_VALID, &mut id).is_ok()
    }

    /// Puts `socket` at the caller's descriptor number `at`, replacing what is there.
    pub fn replace_fd(
        &self,
        id: u64,
        socket: BorrowedFd<'_>,
        at: RawFd,
        close_on_exec: bool,
    ) -> io::Result<()> {
        let mut raw = RawAddFd {
            id,
            flags: ADDFD_FLAG_SETFD,
            srcfd: socket.as_raw_fd() as u32,
            newfd: at as u32,
            newfd_flags: if close_on_exec {
                libc::O_CLOEXEC as u32
            } else {
                0
            },
        };
        ioctl(self.0.as_fd(), NOTIF_ADDFD, &mut raw).map(drop)
    }

    /// Lets the call run in the kernel as if there were no filter.
    pub fn answer_continue(&self, id: u64) -> io::Result<()> {
        self.answer(id, 0, USER_NOTIF_FLAG_CONTINUE)
    }

    /// Makes the call return 0 without running it.
    pub fn answer_success(&self, id: u64) -> io::Result<()> {
        self.answer(id, 0, 0)
    }

    /// Makes the call fail with `errno` (positive, as in <errno.h>).
    pub fn answer_error(&self, id: u64, errno: i32) -> io::Result<()> {
        self.answer(id, -errno, 0)
    }

    fn answer(&self, id: u64, error: i32, flags: u32) -> io::Result<()> {
        let mut raw = RawResponse {
            id,
            val: 0,
            error,
            flags,
        };
        ioctl(self.0.as_fd(), NOTIF_SEND, &mut raw).map(drop)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The filter: `bind`, `listen` and `SO_LINGER` of the native ABI notify, everything else is
/// allowed. Calls of a foreign ABI (32-bit code) are allowed too: a worker that makes them binds
/// for itself, and the supervisor reports that it sees no `listen`.
pub(crate) const FILTER: [libc::sock_filter; 12] = [
    statement(LOAD_WORD, OFFSET_ARCH),
    jump(AUDIT_ARCH, 0, 9),
    statement(LOAD_WORD, OFFSET_NR),
    jump(libc::SYS_bind as u32, 6, 0),
    jump(libc::SYS_listen as u32, 5, 0),
    jump(libc::SYS_setsockopt as u32, 0, 5),
    statement(LOAD_WORD, OFFSET_SECOND),
    jump(libc::SOL_SOCKET as u32, 0, 3),
    statement(LOAD_WORD, OFFSET_THIRD),
    jump(libc::SO_LINGER as u32, 0, 1),
    statement(RETURN, libc::SECCOMP_RET_USER_NOTIF),
    statement(RETURN, libc::SECCOMP_RET_ALLOW),
];

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const OFFSET_NR: u32 = 0; // struct seccomp_data
const OFFSET_ARCH: u32 = 4;
// The lower halves of arguments. Both supported architectures are little-endian and keep
// them first.
const OFFSET_SECOND: u32 = 24;
const OFFSET_THIRD: u32 = 32;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;

const fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: JUMP_EQUAL,
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_the_kernel() {
        assert_eq!(size_of::<RawNotification>(), 80);
        assert_eq!(size_of::<RawResponse>(), 24);
        assert_eq!(size_of::<RawAddFd>(), 24);
        // Values printed by a C program over <linux/seccomp.h>.
        assert_eq!(NOTIF_RECV, 0xC050_2100);
        assert_eq!(NOTIF_SEND, 0xC018_2101);
        assert_eq!(NOTIF_ID_VALID, 0x4008_2102);
        assert_eq!(NOTIF_ADDFD, 0x4018_2103);
    }
}
