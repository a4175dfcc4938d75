//! Which connections a worker still holds, for Connection dispatch.
//!
//! There the supervisor is not in the data path, so it asks the kernel:
//! /proc/net/tcp lists every socket with its inode, /proc/PID/fd says who holds
//! it. Read only while something drains, and once a second for the load report.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// States in which a socket still carries a request or an answer
/// (`include/net/tcp_states.h`): `ESTABLISHED` and `CLOSE_WAIT`. In the later
/// ones the app has closed its side and the kernel finishes without it.
const CARRYING: [&str; 2] = ["01", "08"];
/// The state of a socket that accepts.
const LISTEN: &str = "0A";

/// Inodes of the accepted connections on local `ports`, of both families.
pub(crate) fn carrying(ports: &[u16]) -> HashSet<u64> {
    let carries = |entry: &Entry<'_>| CARRYING.contains(&entry.state) && entry.inode != 0;
    let mut inodes = HashSet::new();
    for text in tables() {
        let entries = entries(&text, ports).filter(carries);
        inodes.extend(entries.map(|entry| entry.inode));
    }
    inodes
}

/// Clients' ends of all connections on local `ports`, those that are over and
/// not forgotten yet included: what is new among them has arrived.
pub(crate) fn peers(ports: &[u16]) -> HashSet<String> {
    let mut peers = HashSet::new();
    for text in tables() {
        let entries = entries(&text, ports).filter(|entry| entry.state != LISTEN);
        peers.extend(entries.map(|entry| entry.peer.to_owned()));
    }
    peers
}

/// Connections that wait to be accepted by who listens at a loopback address;
/// `None`: nobody does.
pub(crate) fn waiting(address: SocketAddr) -> Option<u32> {
    tables().find_map(|text| {
        let ports = [address.port()];
        let mut all = entries(&text, &ports);
        all.find(|entry| entry.state == LISTEN)
            .map(|entry| entry.queue)
    })
}

fn tables() -> impl Iterator<Item = String> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
}

/// A line of /proc/net/tcp.
struct Entry<'a> {
    peer: &'a str,
    state: &'a str,
    /// Of a socket that accepts: what waits for it.
    queue: u32,
    /// 0 where nobody has accepted the connection yet, or nobody holds it any more.
    inode: u64,
}

/// The lines of `proc_pid_net(5)` for local ports: `sl local rem st … inode`.
fn entries<'a>(text: &'a str, ports: &'a [u16]) -> impl Iterator<Item = Entry<'a>> {
    text.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let (_, port) = fields.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let (peer, state) = (fields.next()?, fields.next()?);
        let (_, queue) = fields.next()?.split_once(':')?;
        let queue = u32::from_str_radix(queue, 16).ok()?;
        let inode = fields.nth(4)?.parse().ok()?;
        ports.contains(&port).then_some(Entry {
            peer,
            state,
            queue,
            inode,
        })
    })
}

/// A process and its group.
pub(crate) type Member = (u32, u32);

/// The processes of each group.
pub(crate) fn members(groups: &[u32]) -> Vec<Member> {
    processes()
        .filter(|(_, group)| groups.contains(group))
        .collect()
}

/// Those of `sockets` that each group holds.
pub(crate) fn held(members: &[Member], sockets: &HashSet<u64>) -> HashMap<u32, HashSet<u64>> {
    let mut held: HashMap<u32, HashSet<u64>> = HashMap::new();
    if !sockets.is_empty() {
        for (pid, group) in members {
            let mine = socket_inodes(*pid).filter(|inode| sockets.contains(inode));
            held.entry(*group).or_default().extend(mine);
        }
    }
    held
}

/// Groups of which every thread is stopped (`SIGSTOP`), so that none can accept.
pub(crate) fn stopped(members: &[Member]) -> HashSet<u32> {
    let mut stopped: HashSet<u32> = members.iter().map(|(_, group)| *group).collect();
    for (pid, group) in members {
        if stopped.contains(group) && !is_stopped(*pid) {
            stopped.remove(group);
        }
    }
    stopped
}

fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().all(|thread| {
        // A thread that has just ended accepts nothing either.
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

/// What follows the name, which may hold anything, in `proc_pid_stat(5)`.
fn after_name(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_ascii_whitespace())
}

/// The third field.
fn parse_state(stat: &str) -> Option<char> {
    after_name(stat)?.next()?.chars().next()
}

/// The fifth field.
fn parse_group(stat: &str) -> Option<u32> {
    after_name(stat)?.nth(2)?.parse().ok()
}

fn socket_inodes(pid: u32) -> impl Iterator<Item = u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    entries.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?;
        inode.parse().ok()
    })
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
        assert!(peers(&[port]).is_empty());
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(carrying(&[port]).is_empty(), "nobody accepted it yet");
        assert_eq!(peers(&[port]).len(), 1);
        let accepted = listener.accept().unwrap();
        let sockets = carrying(&[port]);
        let held = held(&members(&[group]), &sockets);
        assert_eq!(held[&group], sockets);
        assert_eq!(sockets.len(), 1);
        // The side that closes first remembers the other for a while.
        drop(accepted);
        drop(client);
        assert!(carrying(&[port]).is_empty());
        assert_eq!(peers(&[port]).len(), 1);
    }

    #[test]
    fn a_group_is_stopped_when_all_of_it_is() {
        // Each has executed its program when it is there: a shell that is just
        // about to (vfork) would stand still in another state.
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
