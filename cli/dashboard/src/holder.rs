//! Names the process that listens on a port of this machine, for the message that the port is
//! taken.

use std::fs;

/// A name such as `node (pid 123)` for the process that listens on this port at IPv4; `None` if it is not
/// found, for example because it belongs to another user.
pub(crate) fn holder(port: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| listening(line, port))?;
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let pid = entry.file_name();
        // There are other entries, such as `self`.
        if !pid.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let directory = entry.path();
        let Ok(files) = fs::read_dir(directory.join("fd")) else {
            continue;
        };
        let mut targets = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        if targets.any(|target| target.as_os_str() == wanted.as_str()) {
            let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {})", name.trim(), pid.to_string_lossy()));
        }
    }
    None
}

/// The inode in a line of `/proc/net/tcp` (proc(5)) if it is of a socket that listens on this port.
fn listening(line: &str, port: u16) -> Option<&str> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (ip, local) = fields.get(1)?.rsplit_once(':')?;
    // 127.0.0.1 or all addresses, in the byte order of this machine.
    let is_ours = ip == "00000000" || ip == format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
    // 0A is TCP_LISTEN.
    let is_it = is_ours && local == format!("{port:04X}") && *fields.get(3)? == "0A";
    is_it.then(|| fields.get(9).copied()).flatten()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn this_process_is_found_at_its_own_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = holder(port).unwrap();
        assert!(
            holder.contains(&format!("pid {}", std::process::id())),
            "{holder}"
        );
    }

    #[test]
    fn other_lines_are_skipped() {
        let line = "  1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4711 1 x";
        assert_eq!(listening(line, 8080), Some("4711"));
        assert_eq!(listening(line, 8081), None);
        assert_eq!(listening(&line.replace("0100007F", "014E007F"), 8080), None);
        assert_eq!(listening("  sl  local_address rem_address", 8080), None);
        assert_eq!(listening("", 8080), None);
    }
}
