//! Reads /proc of a process that has dropped to another user.
//!
//! An image's entrypoint often starts as root and executes the app as another user (gosu,
//! su-exec, setpriv). In a container root may not inspect that process. The process's own
//! user may, and root may take that identity for a moment.

use std::fs;
use std::io;

use scaledapp_sys::identity::with_fs_identity;

/// Calls `look`. If that is refused, calls it again with the identity of the process's
/// user.
///
/// # Errors
/// Those of `look`. If both calls are refused, either the process forbids inspection (it has changed
/// its user and has executed no program since), or this process may not take another identity.
pub(crate) fn look_at<T>(pid: u32, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match look() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            match owner(&status) {
                Some((uid, gid)) => with_fs_identity(uid, gid, look),
                None => Err(error),
            }
        }
        done => done,
    }
}

/// The real user and group (`proc_pid_status(5)`).
fn owner(status: &str) -> Option<(u32, u32)> {
    let id = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    Some((id("Uid:")?, id("Gid:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_from_status() {
        let status = "Name:\tnode\nUid:\t1000\t1000\t1000\t1000\nGid:\t50\t50\t50\t50\n";
        assert_eq!(owner(status), Some((1000, 50)));
        assert_eq!(owner("Name:\tnode\n"), None);
    }

    #[test]
    fn a_look_that_is_not_refused_happens_once() {
        let asked = std::cell::Cell::new(0);
        let missing = look_at(std::process::id(), || {
            asked.set(asked.get() + 1);
            fs::read("/nonexistent")
        });
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(asked.get(), 1);
    }
}
