//! The open connections of a worker under Connection dispatch.
//!
//! The supervisor is not in the data path, so it asks the kernel: `sockets` lists connections with
//! their inodes, and /proc/PID/fd shows which process has which inode open. These directories are
//! read only when needed, because reading one costs a system call for each descriptor.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::owner::look_at;
use scaledapp_proc::sockets::{self, ALL_BUT_LISTEN, CLOSE_WAIT, ESTABLISHED, Found, LISTEN};

/// States in which a socket still carries a request or an answer. In later states the app has
/// closed its side, and the kernel finishes without the app.
const CARRYING: u32 = ESTABLISHED | CLOSE_WAIT;

/// Inodes of the accepted connections on local `ports`, over IPv4 and IPv6.
pub(crate) fn carrying(ports: &[u16]) -> HashSet<u64> {
    let inodes = found(ports, CARRYING).map(|socket| socket.inode);
    inodes.filter(|inode| *inode != 0).collect()
}

/// The clients' addresses of all connections on local `ports`, including closed ones that
/// the kernel still tracks. An address that was not in an earlier result belongs to a
/// new connection.
pub(crate) fn peers(ports: &[u16]) -> HashSet<SocketAddr> {
    found(ports, ALL_BUT_LISTEN)
        .map(|socket| socket.peer)
        .collect()
}

/// How many connections wait to be accepted at the port of `address`; `None` if no socket listens
/// on that port.
pub(crate) fn waiting(address: SocketAddr) -> Option<u32> {
    let ports = [address.port()];
    let mut listening = found(&ports, LISTEN);
    listening.next().map(|socket| socket.queue)
}

fn found(ports: &[u16], states: u32) -> impl Iterator<Item = Found> {
    ports.iter().flat_map(move |port| {
        let told = sockets::at_port(*port, states);
        told.unwrap_or_else(|_| sockets::listed(*port, states))
    })
}

/// The pids of a process and its process group.
pub(crate) type Member = (u32, u32);

/// The processes of each group.
pub(crate) fn members(groups: &[u32]) -> Vec<Member> {
    processes()
        .filter(|(_, group)| groups.contains(group))
        .collect()
}

/// How many descriptors a process has open; `None` if the kernel does not report it (before
/// 6.2) or if the process has ended.
pub(crate) fn open_descriptors(pid: u32) -> Option<u64> {
    let told = fs::metadata(format!("/proc/{pid}/fd")).ok()?.len();
    (told > 0).then_some(told)
}

/// The inodes of all sockets of each group, of any kind.
pub(crate) fn sockets_of(members: &[Member]) -> HashMap<u32, HashSet<u64>> {
    let mut all: HashMap<u32, HashSet<u64>> = HashMap::new();
    for (pid, group) in members {
        all.entry(*group).or_default().extend(socket_inodes(*pid));
    }
    all
}

/// Whether a worker has sockets open, but none of `shared`. Its processes are those of the group
/// `pid` and the descendants `tree`. If their descriptors cannot be read, the result is `false`.
pub(crate) fn has_closed(pid: u32, tree: &[u32], shared: &HashSet<u64>) -> bool {
    let mut members = members(&[pid]);
    members.extend(tree.iter().map(|process| (*process, pid)));
    let held = sockets_of(&members).remove(&pid).unwrap_or_default();
    !held.is_empty() && held.is_disjoint(shared)
}

/// The inodes among `sockets` that each group has open.
pub(crate) fn held_by_group(
    members: &[Member],
    sockets: &HashSet<u64>,
) -> HashMap<u32, HashSet<u64>> {
    let mut held: HashMap<u32, HashSet<u64>> = HashMap::new();
    if !sockets.is_empty() {
        for (pid, group) in members {
            let mine = socket_inodes(*pid).filter(|inode| sockets.contains(inode));
            held.entry(*group).or_default().extend(mine);
        }
    }
    held
}

/// The groups in which every thread is stopped (`SIGSTOP`), so that none can accept.
pub(crate) fn stopped(members: &[Member]) -> HashSet<u32> {
    let mut stopped: HashSet<u32> = members.iter().map(|(_, group)| *group).collect();
    for (pid, group) in members {
        if stopped.contains(group) && !is_stopped(*pid) {
            stopped.remove(group);
        }
    }
    stopped
}

/// Whether every thread of a process is stopped; also true if the process has ended.
pub(crate) fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().all(|thread| {
        // A thread that has just ended cannot accept either.
        fs::read_to_string(thread.path().join("stat"))
            .map_or(true, |stat| parse_state(&stat).is_none_or(is_still))
    })
}

/// Stopped, zombie, dead (`proc_pid_stat(5)`).
fn is_still(state: char) -> bool {
    matches!(state, 'T' | 'Z' | 'X')
}

/// (pid, process group) of every visible process.
fn processes() -> impl Iterator<Item = (u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(Path::new("/proc").join(entry.file_name()).join("stat"));
        Some((pid, parse_group(&stat.ok()?)?))
    })
}

/// The fields after the process name, which may contain anything, in `proc_pid_stat(5)`.
pub(crate) fn after_name(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_ascii_whitespace())
}

/// The third field, the state of a thread.
pub(crate) fn parse_state(stat: &str) -> Option<char> {
    after_name(stat)?.next()?.chars().next()
}

/// The fifth field, the process group.
fn parse_group(stat: &str) -> Option<u32> {
    after_name(stat)?.nth(2)?.parse().ok()
}

/// The inodes of the sockets that a process has open.
pub(crate) fn socket_inodes(pid: u32) -> impl Iterator<Item = u64> {
    let inodes = look_at(pid, || {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
        let links: Vec<io::Result<PathBuf>> =
            entries.map(|entry| fs::read_link(entry.path())).collect();
        // One refused link may be a descriptor that is being closed. If all are refused,
        // access is denied.
        let is_refused = |link: &io::Result<PathBuf>| {
            let error = link.as_ref().err();
            error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        if !links.is_empty() && links.iter().all(is_refused) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let targets = links.into_iter().flatten();
        Ok(targets
            .filter_map(|target| socket_inode(&target))
            .collect::<Vec<u64>>())
    });
    inodes.unwrap_or_default().into_iter()
}

/// The inode in `socket:[INODE]` (`proc_pid_fd(5)`).
fn socket_inode(target: &Path) -> Option<u64> {
    let inode = target.to_str()?.strip_prefix("socket:[")?;
    inode.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use rustix::process::{Pid, Signal, kill_process, kill_process_group};

    #[test]
    fn an_accepted_connection_is_held_by_the_group_that_accepted_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let group = rustix::process::getpgrp().as_raw_nonzero().get() as u32;
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let address = client.local_addr().unwrap();
        assert!(carrying(&[port]).is_empty(), "it has not been accepted yet");
        assert!(peers(&[port]).contains(&address));
        let accepted = listener.accept().unwrap();
        let sockets = carrying(&[port]);
        let held = held_by_group(&members(&[group]), &sockets);
        assert_eq!(held[&group], sockets);
        assert_eq!(sockets.len(), 1);
        // The side that closes first keeps the connection in `TIME_WAIT` for a while. A child
        // that another test starts at this moment has copies of both ends until it calls exec.
        drop(accepted);
        drop(client);
        let start = Instant::now();
        while !carrying(&[port]).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(10), "still open");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(peers(&[port]).contains(&address));
    }

    #[test]
    fn a_group_is_stopped_when_all_of_its_threads_are() {
        // `spawn` returns after the child has executed its program. A shell that is about to
        // execute one (vfork) would stop in another state.
        let sleep = |group| {
            let mut command = Command::new("sleep");
            command.arg("1000").process_group(group).spawn().unwrap()
        };
        let mut first = sleep(0);
        let group = first.id();
        let mut second = sleep(group as i32);
        let until = |wanted: bool| {
            let start = Instant::now();
            while stopped(&members(&[group])).contains(&group) != wanted {
                assert!(start.elapsed() < Duration::from_secs(10), "{wanted}");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        until(false);
        kill_process(Pid::from_child(&first), Signal::STOP).unwrap();
        until_state(group, 'T');
        until(false);
        kill_process_group(Pid::from_child(&first), Signal::STOP).unwrap();
        until(true);
        kill_process_group(Pid::from_child(&first), Signal::CONT).unwrap();
        until(false);
        kill_process_group(Pid::from_child(&first), Signal::KILL).unwrap();
        first.wait().unwrap();
        second.wait().unwrap();
    }

    fn until_state(pid: u32, wanted: char) {
        let start = Instant::now();
        let state = || parse_state(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap());
        while state() != Some(wanted) {
            assert!(start.elapsed() < Duration::from_secs(10), "{wanted}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_process_name_may_hold_brackets_and_spaces() {
        let stat = "12 (a) b (c)) S 1 77 3 0";
        assert_eq!(
            (parse_state(stat), parse_group(stat)),
            (Some('S'), Some(77))
        );
        assert_eq!(parse_group("rubbish"), None);
    }
}
