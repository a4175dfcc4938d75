//! How much memory may be taken before somebody looks again at what is left of the container's.
//!
//! The kernel ends a process at the moment at which its container has no memory left, and thousands
//! of connections a second can use up a small container between two looks that follow a timer. So
//! each thread gets a headroom with each look, and what it takes uses the headroom up: accepted
//! connections, and buffers that are not reused. When it is used up, the thread looks again before
//! it takes more. If nothing is left, it takes nothing: new connections are refused, and a connection
//! that needs more memory ends.
//!
//! Decides how large a headroom is and how short memory is. The kernel's figures are read in
//! `memory`.

use std::cell::Cell;

use crate::pressure::Pressure;

/// A thread gets this part of what is left, divided by the number of threads: its estimates of what
/// it takes may be wrong by that factor.
const CAUTION: u64 = 2;

/// Less than this is not worth a look, which takes a tenth of a millisecond, in bytes.
const LEAST_SHARE: u64 = 128 << 10;

/// The memory of a container, in bytes, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// What is not in use.
    pub(crate) free: u64,
    pub(crate) limit: u64,
}

impl Left {
    /// What is kept free for everything that is not counted, such as sessions of TLS, the tables of
    /// HTTP/2 and the kernel's sockets.
    fn reserve(self) -> u64 {
        (self.limit / 10).clamp(8 << 20, 32 << 20)
    }

    /// What connections may take in any case. If they hold less than this, something else uses the
    /// container's memory, and it would help nobody to end them.
    pub(crate) fn least(self) -> u64 {
        self.limit / 16
    }

    /// How short memory is.
    pub(crate) fn pressure(self) -> Pressure {
        match self.free.saturating_mul(4) / self.reserve() {
            0..4 => Pressure::Full,
            4..8 => Pressure::Critical,
            8..10 => Pressure::Scarce,
            10..12 => Pressure::Tight,
            _ => Pressure::None,
        }
    }

    /// How many bytes must be freed so that no connection must end.
    pub(crate) fn surplus(self) -> u64 {
        (self.reserve() * 3).saturating_sub(self.free)
    }

    /// What one of `threads` threads may take until the next look.
    fn share(self, threads: usize) -> u64 {
        let left = self.free.saturating_sub(self.reserve());
        let share = left / CAUTION / threads.max(1) as u64;
        if share < LEAST_SHARE { 0 } else { share }
    }

    /// Whether nothing may be taken.
    pub(crate) fn is_nothing(self, threads: usize) -> bool {
        self.share(threads) == 0
    }
}

/// What a thread may still take, in bytes.
#[derive(Debug)]
pub(crate) struct Headroom {
    left: Cell<u64>,
    /// What it may take until the next tick, even if nothing is left.
    least: Cell<u64>,
}

impl Default for Headroom {
    /// Without a limit.
    fn default() -> Self {
        Self {
            left: Cell::new(u64::MAX),
            least: Cell::new(0),
        }
    }
}

impl Headroom {
    /// Whether there is headroom for `bytes`.
    pub(crate) fn has(&self, bytes: u64) -> bool {
        self.left.get() >= bytes
    }

    /// This many bytes have been taken.
    pub(crate) fn spend(&self, bytes: u64) {
        let left = self.left.get();
        if left != u64::MAX {
            self.left.set(left.saturating_sub(bytes));
        }
    }

    /// Somebody has looked, and this is left for `threads` threads; `None`: there is no limit.
    pub(crate) fn looked(&self, left: Option<Left>, threads: usize) {
        let share = left.map_or(u64::MAX, |left| left.share(threads));
        self.left
            .set(if share == 0 { self.least.take() } else { share });
    }

    /// Another thread has looked, and this is left: a headroom from an earlier look may be too large.
    pub(crate) fn cap(&self, left: Option<Left>, threads: usize) {
        let share = left.map_or(u64::MAX, |left| left.share(threads));
        self.left.set(self.left.get().min(share));
    }

    /// Connections of all `threads` threads hold `held` bytes at this tick.
    pub(crate) fn ticked(&self, left: Left, held: u64, threads: usize) {
        let least = left.least().saturating_sub(held);
        self.least.set(least / threads.max(1) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn left(free: u64, limit: u64) -> Left {
        Left {
            free: free * MIB,
            limit: limit * MIB,
        }
    }

    #[test]
    fn a_burst_looks_before_it_can_use_up_the_container() {
        // Whatever is left, two threads that take twice what they reckon leave the reserve.
        for limit in [64, 128, 256, 512, 4096] {
            for free in 0..limit {
                let left = left(free, limit);
                let taken = left.share(2) * 2 * 2;
                let reserve = left.reserve().min(free * MIB);
                assert!(free * MIB - taken >= reserve, "{free} of {limit}");
            }
        }
        let headroom = Headroom::default();
        headroom.looked(Some(left(100, 128)), 2);
        let connections = (0..).take_while(|_| {
            let has = headroom.has(16 << 10);
            headroom.spend(16 << 10);
            has
        });
        assert_eq!(connections.count(), 1395, "a quarter of 87 MiB");
        headroom.looked(Some(left(8, 128)), 2);
        assert!(!headroom.has(1));
        headroom.looked(Some(left(100, 128)), 2);
        headroom.cap(Some(left(8, 128)), 2);
        assert!(!headroom.has(1), "another thread has taken the rest");
        headroom.looked(None, 2);
        headroom.spend(u64::MAX - 1);
        assert!(headroom.has(u64::MAX), "without a limit");
    }

    #[test]
    fn connections_that_hold_little_are_served_even_if_something_else_uses_the_memory() {
        let full = left(1, 64);
        let headroom = Headroom::default();
        headroom.ticked(full, MIB, 1);
        headroom.looked(Some(full), 1);
        assert!(headroom.has(3 * MIB) && !headroom.has(3 * MIB + 1));
        headroom.spend(3 * MIB);
        headroom.looked(Some(full), 1);
        assert!(!headroom.has(1), "only once until the next tick");
        headroom.ticked(full, 4 * MIB, 1);
        headroom.looked(Some(full), 1);
        assert!(!headroom.has(1));
    }

    #[test]
    fn more_is_given_up_as_less_is_left() {
        for (free, expected) in [
            (64, Pressure::None),
            (24, Pressure::None),
            (22, Pressure::Tight),
            (18, Pressure::Scarce),
            (9, Pressure::Critical),
            (7, Pressure::Full),
            (0, Pressure::Full),
        ] {
            assert_eq!(left(free, 64).pressure(), expected, "{free} MiB");
        }
        assert_eq!(left(3, 64).surplus() / MIB, 21);
        assert_eq!(left(24, 64).surplus(), 0);
        assert_eq!(left(512, 8192).pressure(), Pressure::None);
    }
}
