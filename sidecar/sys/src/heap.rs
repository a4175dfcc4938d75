//! Returns the allocator's free memory to the kernel.

/// Returns free memory of the allocator to the kernel (`malloc_trim(3)`): glibc keeps free
/// pages unless they are the last ones of its heap. musl returns them by itself.
///
/// The call takes the lock of each arena in turn, so other threads may have to wait; one free
/// megabyte takes several hundred microseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes a number and touches nothing but the allocator's own state,
    // which it locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_pages() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn free_memory_between_pieces_in_use_is_returned() {
        let before = resident_pages();
        let mut pieces: Vec<Vec<u8>> = (0..32_768).map(|_| vec![1; 1000]).collect();
        assert!(resident_pages() > before + 7000, "32 MiB are in use");
        // One allocation in 1024 is kept, including the last one.
        let mut at = 0;
        pieces.retain(|_| {
            at += 1;
            at % 1024 == 0
        });
        give_back();
        let after = resident_pages();
        assert!(after < before + 2000, "{before} pages, {after} afterwards");
        drop(pieces);
    }
}
