//! Changes the identity by which the kernel decides what this thread may read in /proc.
//!
//! Another process's open files and memory may be read only by a thread that has that process's
//! user and group as its file-system identity, and all capabilities of that process (`ptrace(2)`,
//! access mode checking). A supervisor that runs as root does not have that identity once the app
//! has dropped to another user. `CAP_SYS_PTRACE` would replace it, but containers usually lack that
//! capability.

/// Runs `look` with `uid` and `gid` as this thread's file-system identity. Without
/// `CAP_SETUID` and `CAP_SETGID` it runs with the current identity.
///
/// The change affects only this thread (`setfsuid(2)`), so `look` must not await or switch
/// threads.
pub fn with_fs_identity<T>(uid: u32, gid: u32, look: impl FnOnce() -> T) -> T {
    struct Back(libc::uid_t, libc::gid_t);
    impl Drop for Back {
        fn drop(&mut self) {
            // SAFETY: as below.
            unsafe {
                libc::setfsuid(self.0);
                libc::setfsgid(self.1);
            }
        }
    }
    // SAFETY: both calls take a number, touch no memory and return the previous identity.
    let _back = unsafe {
        let gid_before = libc::setfsgid(gid);
        let uid_before = libc::setfsuid(uid);
        Back(uid_before as libc::uid_t, gid_before as libc::gid_t)
    };
    look()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_identity_is_back_afterwards() {
        // SAFETY: -1 is not a valid identity: the call changes nothing and returns the current one.
        let now = || unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
        let before = now();
        let within = with_fs_identity(65534, 65533, now);
        assert!(within == (65534, 65533) || before.0 != 0, "{within:?}");
        assert_eq!(now(), before);
    }
}
