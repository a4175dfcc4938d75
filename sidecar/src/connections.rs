//! Which connections a worker still holds, for Connection dispatch.
//!
//! There the supervisor is not in the data path, so it asks the kernel:
//! /proc/net/tcp lists every socket with its inode, /proc/PID/fd says who holds
//! it. Read only while something drains, and once a second for the load report.

use std::collections::{HashMap, HashSet};
use std::fs;

/// States in which a socket still carries a request or an answer
/// (include/net/tcp_states.h): ESTABLISHED and CLOSE_WAIT. In the later ones
/// the app has closed its side and the kernel finishes without it.
const CARRYING: [&str; 2] = ["01", "08"];

/// Inodes of the accepted connections on local `port`, of both families.
pub(crate) fn carrying(port: u16) -> HashSet<u64> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| parse_table(&text, port))
        .collect()
}

/// Lines of /proc/net/tcp (proc_pid_net(5)): `sl local rem st … inode`; a
/// connection that nobody accepted yet has inode 0.
fn parse_table(text: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let local = fields.nth(1)?;
            let state = fields.nth(1)?;
            let inode: u64 = fields.nth(5)?.parse().ok()?;
            let carries = local.ends_with(&suffix) && CARRYING.contains(&state) && inode != 0;
            carries.then_some(inode)
        })
        .collect()
}

/// How many of `sockets` the processes of each group hold.
pub(crate) fn held_by_groups(groups: &[u32], sockets: &HashSet<u64>) -> HashMap<u32, u32> {
    let mut held: HashMap<u32, HashSet<u64>> = HashMap::new();
    if !sockets.is_empty() {
        for (pid, group) in processes() {
            if groups.contains(&group) {
                let mine = socket_inodes(pid).filter(|inode| sockets.contains(inode));
                held.entry(group).or_default().extend(mine);
            }
        }
    }
    held.into_iter()
        .map(|(group, inodes)| (group, inodes.len() as u32))
        .collect()
}

/// (pid, process group) of every visible process.
fn processes() -> impl Iterator<Item = (u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parse_group(&stat)?))
    })
}

/// The fifth field of proc_pid_stat(5); the second, the name, may hold anything.
fn parse_group(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(2)?.parse().ok()
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

    #[test]
    fn an_accepted_connection_is_held_by_the_group_that_accepted_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let group = rustix::process::getpgrp().as_raw_nonzero().get() as u32;
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(carrying(port).is_empty(), "nobody accepted it yet");
        let accepted = listener.accept().unwrap();
        let sockets = carrying(port);
        assert_eq!(held_by_groups(&[group], &sockets).get(&group), Some(&1));
        drop(accepted);
        assert!(carrying(port).is_empty());
    }

    #[test]
    fn a_process_name_may_hold_brackets_and_spaces() {
        assert_eq!(parse_group("12 (a) b (c)) S 1 77 3 0"), Some(77));
        assert_eq!(parse_group("rubbish"), None);
    }
}
