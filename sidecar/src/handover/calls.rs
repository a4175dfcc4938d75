//! Answers the `bind` and `listen` calls of one worker's processes, and notices when one of
//! them may reset connections (`SO_LINGER`): see [`Caller::resets`].
//!
//! This file reads the arguments of the call from /proc, and [`Sharing`] decides which socket the
//! worker gets. A call that cannot be read (the process forbids it) is let through and
//! reported: the app then binds for itself, which fails if the supervisor listens on that port.
//! The usual container profiles do not allow `process_vm_readv` and `pidfd_getfd`, but they
//! allow reading /proc/PID/mem of a child.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use scaledapp_engine::{Generation, WorkerId};
use scaledapp_sys::notify::{Call, Listener, Notification};

use crate::handover::sharing::{Bind, Family, Listened, Sharing, WorkerSocket};
use crate::owner::look_at;

/// What a worker's call has revealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It listens on a shared port.
    Listening {
        /// The port.
        port: u16,
        /// The worker's own address; `None` if all workers accept from one queue.
        address: Option<SocketAddr>,
    },
    /// For this port, it was given a socket that listens already, so it may omit its own `listen`.
    TookOver(u16),
    /// It listens on another port.
    ListeningElsewhere(u16),
    /// Its calls cannot be read, so it binds for itself.
    Unreadable,
    /// A socket could not be created for it or handed to it.
    Refused,
}

/// The worker whose calls are answered.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The worker.
    pub(crate) worker: WorkerId,
    /// Its generation.
    pub(crate) generation: Generation,
    /// The ports that workers share.
    pub(crate) ports: Rc<[u16]>,
    /// Set before one of the worker's processes can reset a connection whose bytes it has
    /// read (`SO_LINGER`). From then on, a reset does not prove that the bytes were not read.
    pub(crate) resets: Arc<AtomicBool>,
}

/// Answers calls until the worker and all its descendants have ended.
pub(crate) async fn serve(
    listener: Listener,
    caller: Caller,
    sharing: Rc<RefCell<Sharing>>,
    tell: impl Fn(Finding),
) -> io::Result<()> {
    let listener = listener.watched()?;
    loop {
        let mut ready = listener.readable().await?;
        if waiting(listener.get_ref(), Duration::ZERO)? {
            if let Some(finding) = answer_one(listener.get_ref(), &caller, &sharing) {
                tell(finding);
            }
        } else if ready.ready().is_read_closed() {
            return Ok(());
        } else {
            ready.clear_ready();
        }
    }
}

/// Whether a call is waiting; blocks for at most `patience`.
pub(crate) fn waiting(listener: &Listener, patience: Duration) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(listener, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    match poll(&mut descriptors, Some(&patience)) {
        Ok(_) => Ok(descriptors[0].revents().contains(PollFlags::IN)),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Fetches and answers one call. If the answer fails, the caller has died in the meantime,
/// and its exit will be reported.
pub(crate) fn answer_one(
    listener: &Listener,
    caller: &Caller,
    sharing: &RefCell<Sharing>,
) -> Option<Finding> {
    let notification = listener.receive().ok()?;
    let Notification { id, pid, call } = notification;
    match call {
        Call::Bind {
            fd,
            address,
            length,
        } => match look_at(pid, || read_bind(pid, fd, address, length, &caller.ports)) {
            Ok(BindTarget::Shared(bind)) => {
                return give(listener, &notification, fd, caller, bind, sharing);
            }
            Ok(BindTarget::OtherPort { port, inode }) => {
                let mut sharing = sharing.borrow_mut();
                sharing.bound_elsewhere(caller.worker, inode, port);
                let _gone = listener.answer_continue(id);
            }
            Ok(BindTarget::NotTcp) => {
                let _gone = listener.answer_continue(id);
            }
            Err(_) => {
                let alive = listener.is_waiting(id);
                let _gone = listener.answer_continue(id);
                return alive.then_some(Finding::Unreadable);
            }
        },
        Call::Listen { fd } => {
            let inode = look_at(pid, || Ok(fs::metadata(descriptor(pid, fd))?.ino()));
            let listened = inode.map(|inode| sharing.borrow_mut().listened(caller.worker, inode));
            let _gone = listener.answer_continue(id);
            return match listened.ok()? {
                Listened::Shared { port, address } => Some(Finding::Listening { port, address }),
                Listened::Elsewhere(port) => Some(Finding::ListeningElsewhere(port)),
                Listened::Unknown => None,
            };
        }
        Call::Linger => {
            caller.resets.store(true, Ordering::SeqCst);
            let _gone = listener.answer_continue(id);
        }
        Call::Other => {
            let _gone = listener.answer_continue(id);
        }
    }
    None
}

fn give(
    listener: &Listener,
    notification: &Notification,
    fd: RawFd,
    caller: &Caller,
    bind: Bind,
    sharing: &RefCell<Sharing>,
) -> Option<Finding> {
    let id = notification.id;
    let pid = notification.pid;
    let close_on_exec = look_at(pid, || flags(pid, fd)).is_ok_and(|flags| flags & O_CLOEXEC != 0);
    // The pid could have been reused while its files were read.
    if !listener.is_waiting(id) {
        return None;
    }
    let given = sharing
        .borrow_mut()
        .bind(caller.worker, caller.generation, bind);
    let handed = given.and_then(|given| {
        listener.replace_fd(id, given.as_fd(), fd, close_on_exec)?;
        Ok(matches!(given, WorkerSocket::Shared(_)))
    });
    match handed {
        Ok(listens) => {
            let _gone = listener.answer_success(id);
            listens.then_some(Finding::TookOver(bind.port))
        }
        Err(error) => {
            tracing::error!(worker = caller.worker.0, %error, "cannot hand the app its socket");
            // EADDRNOTAVAIL is what bind(2) returns if an address is not available.
            let errno = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();
            let _gone = listener.answer_error(id, error.raw_os_error().unwrap_or(errno));
            Some(Finding::Refused)
        }
    }
}

/// The meaning of a `bind` call.
#[derive(Debug, PartialEq, Eq)]
enum BindTarget {
    Shared(Bind),
    OtherPort { port: u16, inode: u64 },
    NotTcp,
}

const O_NONBLOCK: u32 = rustix::fs::OFlags::NONBLOCK.bits();
const O_CLOEXEC: u32 = rustix::fs::OFlags::CLOEXEC.bits();

/// Reads a call of `bind(fd, address, length)`: `address` is in the caller's memory,
/// `length` is in bytes.
fn read_bind(
    pid: u32,
    fd: RawFd,
    address: u64,
    length: u64,
    shared: &[u16],
) -> io::Result<BindTarget> {
    // sizeof(struct sockaddr_in6), the longest address that matters.
    let mut bytes = [0_u8; 28];
    let length = (length as usize).min(bytes.len());
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    memory.read_exact_at(&mut bytes[..length], address)?;
    let Some((family, port)) = parse_sockaddr(&bytes[..length]) else {
        return Ok(BindTarget::NotTcp);
    };
    if !is_tcp(pid, fd)? {
        return Ok(BindTarget::NotTcp);
    }
    if !shared.contains(&port) {
        let inode = fs::metadata(descriptor(pid, fd))?.ino();
        return Ok(BindTarget::OtherPort { port, inode });
    }
    Ok(BindTarget::Shared(Bind {
        port,
        family,
        nonblocking: flags(pid, fd)? & O_NONBLOCK != 0,
    }))
}

/// The family and port of a complete `sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)).
fn parse_sockaddr(bytes: &[u8]) -> Option<(Family, u16)> {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match (family, bytes.len()) {
        (AF_INET, 8..) => Some((Family::V4, port)),
        (AF_INET6, 24..) => Some((Family::V6, port)),
        _ => None,
    }
}

fn descriptor(pid: u32, fd: RawFd) -> String {
    format!("/proc/{pid}/fd/{fd}")
}

/// Whether the socket is a TCP socket: HTTP/3 binds the same port number for UDP. Go creates
/// multipath TCP listeners, which fall back to TCP.
fn is_tcp(pid: u32, fd: RawFd) -> io::Result<bool> {
    let mut name = [0_u8; 32];
    let length = rustix::fs::getxattr(descriptor(pid, fd), "system.sockprotoname", &mut name)?;
    let name = &name[..length];
    Ok(name.starts_with(b"TCP") || name.starts_with(b"MPTCP"))
}

/// The flags of the open file: octal in the `flags:` line of `proc_pid_fdinfo(5)`.
fn flags(pid: u32, fd: RawFd) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("flags:"));
    line.and_then(|value| u32::from_str_radix(value.trim(), 8).ok())
        .ok_or_else(|| io::Error::other("fdinfo without flags"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn socket_addresses_are_read_as_the_kernel_lays_them_out() {
        let v4 = [2, 0, 0x0b, 0xb8, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse_sockaddr(&v4), Some((Family::V4, 3000)));
        let mut v6 = [0_u8; 28];
        v6[0] = 10;
        v6[3] = 80;
        assert_eq!(parse_sockaddr(&v6), Some((Family::V6, 80)));
        for unreadable in [&[][..], &[2, 0, 1], &[2, 0, 1, 1, 127], &[1, 0, b'/', b'x']] {
            assert_eq!(parse_sockaddr(unreadable), None);
        }
    }

    #[test]
    fn tcp_is_distinguished_from_udp_and_flags_are_read() {
        let pid = std::process::id();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(is_tcp(pid, tcp.as_raw_fd()).unwrap());
        assert!(!is_tcp(pid, udp.as_raw_fd()).unwrap());
        assert_eq!(flags(pid, tcp.as_raw_fd()).unwrap() & O_NONBLOCK, 0);
        tcp.set_nonblocking(true).unwrap();
        assert_ne!(flags(pid, tcp.as_raw_fd()).unwrap() & O_NONBLOCK, 0);
        assert_ne!(flags(pid, tcp.as_raw_fd()).unwrap() & O_CLOEXEC, 0);
    }
}
