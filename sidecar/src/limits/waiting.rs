//! The accept probe under Connection dispatch: whether a worker would notice a connection
//! now, because one of its threads waits for connections.
//!
//! A single worker cannot be probed, because all workers accept from one queue. But the
//! kernel shows which system call each thread waits in (`proc_pid_syscall(5)`). Sooner
//! or later, a check finds a working event loop in such a call, but never a loop that is stuck
//! in the app's code. `silence` decides what follows from the checks.
//!
//! The main thread may wait for anything, because it runs most runtimes' event loop. Other
//! threads count only if they wait for connections: Node has a thread that waits for
//! timers on an epoll instance of its own, even if the app is stuck.

use std::collections::HashSet;
use std::fs;

use scaledapp_sys::waiting::{Waits, waits_in};

use crate::connection::open_connections::{parse_state, socket_inodes};

/// A thread that waits, and its system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitingThread {
    pid: u32,
    thread: u32,
    call: Call,
}

/// A system call and its first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Call {
    number: i64,
    first: u64,
}

/// What a check of a worker's threads found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// This thread waits for connections.
    Thread(WaitingThread),
    /// No thread waits for connections. The pid is that of a process that could accept.
    NoThread(u32),
    /// It is unknown: /proc is not readable, the process is stopped, or none of the
    /// processes has the listening socket.
    Unknown,
}

impl WaitingThread {
    /// Whether the thread is still in the same call.
    pub(crate) fn waits_still(&self) -> bool {
        call_of(self.pid, self.thread) == Ok(Some(self.call))
    }
}

/// Searches the processes `tree` of a worker for a thread that waits for connections;
/// `listeners` are the inodes of the sockets that workers accept from.
pub(crate) fn find(tree: &[u32], listeners: &HashSet<u64>) -> Waiting {
    let mut found = Waiting::Unknown;
    for pid in tree {
        if !socket_inodes(*pid).any(|inode| listeners.contains(&inode)) {
            continue;
        }
        match find_in(*pid, listeners) {
            Waiting::NoThread(pid) => found = Waiting::NoThread(pid),
            other => return other,
        }
    }
    found
}

fn find_in(pid: u32, listeners: &HashSet<u64>) -> Waiting {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Waiting::Unknown;
    };
    let threads = threads.flatten();
    let threads = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    for thread in threads {
        let call = match call_of(pid, thread) {
            Ok(Some(call)) => call,
            Ok(None) => continue,
            Err(Closed) => return Waiting::Unknown,
        };
        let counts = match waits_in(call.number) {
            Some(_) if thread == pid => true,
            Some(Waits::Epoll) => watches(pid, call.first, listeners),
            Some(Waits::Accept | Waits::Poll) => true,
            None => false,
        };
        if counts {
            return Waiting::Thread(WaitingThread { pid, thread, call });
        }
    }
    if is_stopped(pid) {
        return Waiting::Unknown;
    }
    Waiting::NoThread(pid)
}

/// The kernel or a sandbox does not show system calls.
#[derive(Debug, PartialEq, Eq)]
struct Closed;

/// The system call in which a thread waits; `None` if the thread runs, has ended, or is in no
/// system call.
fn call_of(pid: u32, thread: u32) -> Result<Option<Call>, Closed> {
    match fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")) {
        Ok(text) => Ok(parse_call(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Closed),
        // Either the kernel was built without this file, or the thread has ended. Only the
        // first is an error.
        Err(_) if fs::exists(format!("/proc/{pid}/task/{thread}")).unwrap_or(false) => Err(Closed),
        Err(_) => Ok(None),
    }
}

/// Parses `running`, or a number with arguments, or -1 outside of system calls.
fn parse_call(text: &str) -> Option<Call> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok().filter(|number| *number >= 0)?;
    let first = words.next()?.strip_prefix("0x")?;
    Some(Call {
        number,
        first: u64::from_str_radix(first, 16).ok()?,
    })
}

/// Whether an epoll instance watches one of these sockets (`proc_pid_fdinfo(5)`); true also
/// if that cannot be read.
fn watches(pid: u32, descriptor: u64, sockets: &HashSet<u64>) -> bool {
    fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).map_or(true, |text| {
        watched(&text).any(|inode| sockets.contains(&inode))
    })
}

/// The inodes in lines such as `tfd: 18 events: 19 data: 12 pos:0 ino:5a2f sdev:8`.
fn watched(text: &str) -> impl Iterator<Item = u64> {
    let lines = text.lines().filter(|line| line.starts_with("tfd:"));
    lines.filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let inode = words.find_map(|word| word.strip_prefix("ino:"))?;
        u64::from_str_radix(inode, 16).ok()
    })
}

/// Whether the process was stopped by a signal or a debugger (`proc_pid_stat(5)`).
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    matches!(parse_state(&stat), Some('T' | 't'))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_system_call_of_a_thread_is_read() {
        let call = |text| parse_call(text).map(|call| (call.number, call.first));
        let waiting = "232 0xd 0x7ffc 0x400 0xffffffff 0x0 0x8 0x7ffc3f0 0x7f2b4d\n";
        assert_eq!(call(waiting), Some((232, 13)));
        for other in ["running\n", "-1 0x7ffc3f0 0x7f2b4d\n", "", "232"] {
            assert_eq!(call(other), None, "{other}");
        }
    }

    #[test]
    fn the_descriptors_of_an_epoll_instance_are_read() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t16\nino:\t1057\n\
            tfd:       18 events:       19 data:               12  pos:0 ino:5a2f sdev:8\n\
            tfd:        9 events:       19 data:                9  pos:0 ino:421 sdev:f\n";
        assert_eq!(watched(text).collect::<Vec<_>>(), [0x5a2f, 0x421]);
    }

    #[test]
    fn a_thread_that_accepts_counts_as_waiting_until_it_does_something_else() {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let inode = rustix::fs::fstat(&*listener).unwrap().st_ino;
        let accepting = std::thread::spawn({
            let listener = Arc::clone(&listener);
            move || listener.accept()
        });
        let start = Instant::now();
        let own = std::process::id();
        let thread = loop {
            match find(&[own], &HashSet::from([inode])) {
                // Other tests of this process wait, too.
                Waiting::Thread(thread) if thread.call.first == listener.as_raw_fd() as u64 => {
                    break thread;
                }
                Waiting::Unknown => return,
                _ => assert!(start.elapsed() < Duration::from_secs(10)),
            }
        };
        assert!(thread.waits_still());
        let _client = TcpStream::connect(address).unwrap();
        accepting.join().unwrap().unwrap();
        assert!(!thread.waits_still());
        assert_eq!(find(&[own], &HashSet::new()), Waiting::Unknown);
    }
}
