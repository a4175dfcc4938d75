//! What happens between `fork` and `exec` of a child.
//!
//! `std::process::Command` is responsible for the program, its arguments and its
//! descriptors. This file adds the parts that must run inside the child: the child arranges to
//! be killed with its parent, installs the filter and sends the filter's listener back.
//!
//! Code between `fork` and `exec` may only make async-signal-safe calls
//! (signal-safety(7)): no allocation, no locks.

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::notify::{FILTER, Listener};

/// A child that runs under a filter.
#[derive(Debug)]
pub struct Filtered {
    /// The child; the caller must reap it.
    pub child: Child,
    /// Receives the waiting calls of the child and of its descendants.
    pub listener: Listener,
}

/// Makes `command`'s child get SIGKILL when the thread that starts it ends.
///
/// The kernel ties the signal to the THREAD that forked (prctl(2)), so the caller must
/// start children from a thread that lives as long as the process.
pub fn tie_to_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure makes system calls only (prctl, getppid), which are
    // async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(move || die_with(parent));
    }
}

/// Sets the limit of open files for `command`'s child. The supervisor raises its own limit,
/// and a program that cannot handle high descriptor numbers (`select(2)`) must get the
/// limit that it would get without a supervisor.
pub fn limit_open_files(command: &mut Command, limit: Rlimit) {
    // SAFETY: the closure makes one system call (prlimit64), which is
    // async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?));
    }
}

/// A descriptor number that this process keeps free for use in children.
#[derive(Debug)]
pub struct Number(OwnedFd);

impl Number {
    /// Reserves the lowest free number. A low number matters because of Node, which hides the
    /// descriptors that it was started with from its own children, by number from 0 up to the first
    /// gap beyond 15.
    ///
    /// # Errors
    /// `/dev/null` cannot be opened.
    pub fn reserve() -> io::Result<Self> {
        Ok(Self(File::open("/dev/null")?.into()))
    }

    /// The number.
    pub fn get(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Gives `command`'s child a descriptor at this number. The parent's copy is closed when
/// `command` is dropped.
pub fn hand_down(command: &mut Command, descriptor: OwnedFd, number: &Number) {
    let number = number.get();
    // SAFETY: the closure makes one system call (dup2), which is async-signal-safe, and
    // allocates nothing. `descriptor` stays open for as long as the closure exists; the
    // descriptor that it replaces in the child is the placeholder of a `Number`, which only
    // dup2 itself uses.
    unsafe {
        command.pre_exec(move || {
            if libc::dup2(descriptor.as_raw_fd(), number) == number {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
}

/// Starts `command`, tied to this thread and under the filter of [`crate::notify`].
///
/// `command` is consumed, because it contains a descriptor that is of no use to a second
/// child. The call blocks until the child has called `exec` or failed.
///
/// # Errors
/// The child's error if `exec` or the filter failed (`EBUSY`: another supervisor's listener
/// is in this process's chain of filters, seccomp(2)).
pub fn spawn_filtered(mut command: Command) -> io::Result<Filtered> {
    let (ours, theirs) = UnixStream::pair()?;
    let channel = theirs.as_raw_fd();
    let parent = std::process::id();
    // SAFETY: as in `tie_to_parent`; `install` and `send_fd` make system calls
    // on values of their own stack frames. `channel` stays open in the parent
    // until after `spawn`, so it is open in the child.
    unsafe {
        command.pre_exec(move || {
            die_with(parent)?;
            let listener = install()?;
            send_fd(channel, listener)
        });
    }
    let child = command.spawn()?;
    drop(theirs);
    let listener = Listener::from_fd(receive_fd(&ours)?);
    Ok(Filtered { child, listener })
}

/// Makes this process ignore SIGTERM, SIGINT, SIGHUP and SIGQUIT.
pub fn ignore_terminating_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: SIG_IGN is a valid disposition for these signals, and this
        // process has no handler that it would replace.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Runs in the child: arranges a SIGKILL on the parent's death; fails if the parent is dead
/// already.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::getppid() } as u32 != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// Runs in the child: installs the filter and returns its listener's descriptor, which the
/// kernel makes close-on-exec.
fn install() -> io::Result<RawFd> {
    // SPEC_ALLOW: no speculation penalty for the app. WAIT_KILLABLE_RECV (5.19+): a signal
    // does not interrupt a call that is already being handled.
    const NEW_LISTENER: libc::c_ulong = 1 << 3;
    const SPEC_ALLOW: libc::c_ulong = 1 << 2;
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    // SAFETY: PR_SET_NO_NEW_PRIVS takes 1 and touches no memory. Without it an
    // unprivileged process may not install a filter.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    let program = libc::sock_fprog {
        len: FILTER.len() as u16,
        filter: FILTER.as_ptr().cast_mut(),
    };
    let base = NEW_LISTENER | SPEC_ALLOW;
    for flags in [base | WAIT_KILLABLE_RECV, base] {
        // SAFETY: `program` and the static FILTER it points to outlive the
        // call; the kernel only reads them.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        if fd >= 0 {
            return Ok(fd as RawFd);
        }
        let error = io::Error::last_os_error();
        // EINVAL: the kernel does not know the newer flag.
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Space for one descriptor in a control message, aligned like a `cmsghdr`.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Runs in the child: sends one byte with one descriptor (unix(7), `SCM_RIGHTS`).
fn send_fd(channel: RawFd, fd: RawFd) -> io::Result<()> {
    let mut byte = [0_u8];
    let mut data = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    // SAFETY: all pointers lead to values of this frame that outlive the
    // call; `control` is larger than CMSG_SPACE of one descriptor (24 bytes),
    // so CMSG_FIRSTHDR and CMSG_DATA stay inside it.
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        if libc::sendmsg(channel, &raw const message, 0) != 1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Runs in the parent: receives the descriptor that the child sent before `exec`.
fn receive_fd(channel: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0_u8];
    let mut data = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    // SAFETY: as in `send_fd`. The header is read only after a non-null CMSG_FIRSTHDR and a
    // matching type have shown that the kernel wrote one, and a received descriptor has no
    // other owner.
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        if libc::recvmsg(
            channel.as_raw_fd(),
            &raw mut message,
            libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT,
        ) < 0
        {
            return Err(io::Error::last_os_error());
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::Error::other("the child sent no descriptor"));
        }
        let fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
