//! Reading `/proc`: children, memory, CPU time, zombies, descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// The fields of `/proc/PID/stat` after the command's name, which may contain spaces and
/// parentheses (proc(5)).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn field(pid: u32, index: usize) -> Option<u64> {
    stat(pid)?.get(index)?.parse().ok()
}

/// All process ids.
pub fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Direct children, including zombies.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = u64::from(pid);
    all()
        .into_iter()
        .filter(|child| field(*child, 1) == Some(parent))
        .collect()
}

/// All processes below `pid`: children, their children, and so on.
pub fn descendants(pid: u32) -> BTreeSet<u32> {
    let parents: Vec<(u32, u64)> = all()
        .into_iter()
        .filter_map(|child| Some((child, field(child, 1)?)))
        .collect();
    let mut found = BTreeSet::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for (child, of) in &parents {
            if *of == u64::from(parent) && found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

/// Whether the process exists and is not a zombie.
pub fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| {
        fields
            .first()
            .is_some_and(|state| state != "Z" && state != "X")
    })
}

/// Whether the process has ended but has not been reaped.
pub fn is_zombie(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state == "Z"))
}

/// Zombies below a process.
pub fn zombies(pid: u32) -> Vec<u32> {
    descendants(pid)
        .into_iter()
        .filter(|child| is_zombie(*child))
        .collect()
}

/// Resident memory in bytes (`VmRSS`).
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// User and system time used so far.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let ticks = field(pid, 11)? + field(pid, 12)?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Number of open descriptors; `None` if the process has exited or belongs to another user.
pub fn open_files(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Arguments, joined by spaces.
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

/// Running processes whose arguments contain `text`.
pub fn with_argument(text: &str) -> Vec<u32> {
    all()
        .into_iter()
        .filter(|pid| is_running(*pid) && command_line(*pid).contains(text))
        .collect()
}

/// Whether anything listens on this IPv4 address and TCP port (state `0A` of
/// `/proc/net/tcp`, addresses in host byte order).
pub fn listens(address: std::net::SocketAddrV4) -> bool {
    let octets = u32::from_ne_bytes(address.ip().octets());
    let wanted = format!("{octets:08X}:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(wanted.as_str()) && words.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described_correctly() {
        let pid = std::process::id();
        assert!(is_running(pid) && !is_zombie(pid));
        assert!(resident_bytes(pid).unwrap() > 100_000);
        assert!(open_files(pid).unwrap() >= 3);
        assert!(cpu_time(pid).is_some());
        assert!(!command_line(pid).is_empty());
    }

    #[test]
    fn a_listener_is_seen_while_it_is_open() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            panic!("asked for IPv4");
        };
        assert!(listens(address));
        drop(listener);
        assert!(!listens(address));
    }
}
