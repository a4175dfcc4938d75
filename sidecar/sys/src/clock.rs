//! The monotonic clock as a number, which another process can compare with its own reading.

/// Microseconds of `CLOCK_MONOTONIC`, as `clock_gettime(2)` reads it.
pub fn monotonic_micros() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for one `timespec`. The call cannot fail with this clock,
    // which every kernel has; if it did, `time` would stay zero.
    let _always_zero = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec as u64)
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_nsec as u64 / 1000)
}
