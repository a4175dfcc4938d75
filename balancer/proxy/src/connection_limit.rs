//! How many connections there may be in all threads of a proxy together.
//!
//! The limit is consulted when a connection begins and when it ends, but not for a
//! request. Each thread decides which of its connections ends for a new one (`accept`,
//! `clock`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How far the limit may be exceeded for a moment, while as many old connections end.
const MAX_BEYOND: u32 = 64;

/// The number of connections, and its limits.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    limit: u32,
    taken: AtomicU32,
    of_address: Option<OfAddress>,
    /// Threads that wait for room, and whether there are any.
    waits: Mutex<Vec<Arc<Notify>>>,
    waiting: AtomicU32,
}

/// Connections by client address.
#[derive(Debug)]
struct OfAddress {
    limit: NonZeroU32,
    taken: Mutex<HashMap<IpAddr, u32>>,
}

/// The address has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressFull;

impl ConnectionLimit {
    /// A limit of `limit` connections in total and `of_address` for each client address.
    pub(crate) fn new(limit: u32, of_address: Option<NonZeroU32>) -> Self {
        Self {
            limit: limit.max(1),
            taken: AtomicU32::new(0),
            of_address: of_address.map(|limit| OfAddress {
                limit,
                taken: Mutex::default(),
            }),
            waits: Mutex::default(),
            waiting: AtomicU32::new(0),
        }
    }

    /// Whether the limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.taken.load(Ordering::SeqCst) >= self.limit
    }

    /// Whether the limit is exceeded so far that no new connection may begin. This happens
    /// if connections that are to make room have not ended yet: a client that sends
    /// something at the last moment keeps its connection.
    pub(crate) fn is_beyond(&self) -> bool {
        self.taken.load(Ordering::SeqCst) >= self.limit.saturating_add(MAX_BEYOND)
    }

    /// Counts a connection, even above the total limit. It also counts for `address` if
    /// that is given.
    pub(crate) fn enter(&self, address: Option<IpAddr>) -> Result<(), AddressFull> {
        self.name(address)?;
        self.taken.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Counts a connection for `address` that [`Self::enter`] has counted for none.
    pub(crate) fn name(&self, address: Option<IpAddr>) -> Result<(), AddressFull> {
        if let (Some(of_address), Some(address)) = (&self.of_address, address) {
            let mut taken = lock(&of_address.taken);
            let count = taken.entry(address).or_default();
            if *count >= of_address.limit.get() {
                return Err(AddressFull);
            }
            *count += 1;
        }
        Ok(())
    }

    /// Counts a connection that has ended.
    pub(crate) fn leave(&self, address: Option<IpAddr>) {
        if let (Some(of_address), Some(address)) = (&self.of_address, address) {
            let mut taken = lock(&of_address.taken);
            if let Some(count) = taken.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    taken.remove(&address);
                }
            }
        }
        self.taken.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let mut waits = lock(&self.waits);
            let told = std::mem::take(&mut *waits);
            // Cleared under the lock, because a thread that begins to wait later sets it
            // again.
            self.waiting.store(0, Ordering::SeqCst);
            drop(waits);
            for wait in told {
                wait.notify_one();
            }
        }
    }

    /// Notifies the thread once a connection has ended. After this call, the caller must check
    /// again whether there is room.
    pub(crate) fn wait(&self, thread: &Arc<Notify>) {
        let mut waits = lock(&self.waits);
        if !waits.iter().any(|waits| Arc::ptr_eq(waits, thread)) {
            waits.push(Arc::clone(thread));
        }
        self.waiting.store(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold() {
        let [one, two] = [1, 2].map(|last| Some(IpAddr::from([10, 0, 0, last])));
        let limit = ConnectionLimit::new(3, NonZeroU32::new(2));
        assert_eq!((limit.enter(one), limit.enter(one)), (Ok(()), Ok(())));
        assert_eq!(limit.enter(one), Err(AddressFull));
        assert!(!limit.is_full(), "a refused connection does not count");
        assert_eq!(limit.enter(two), Ok(()));
        assert!(limit.is_full() && !limit.is_beyond());
        assert_eq!(limit.enter(None), Ok(()));
        for _ in 1..MAX_BEYOND {
            assert_eq!(limit.enter(None), Ok(()));
        }
        assert!(limit.is_beyond());
        for _ in 1..MAX_BEYOND {
            limit.leave(None);
        }
        limit.leave(None);
        limit.leave(one);
        assert!(!limit.is_full());
        assert_eq!(limit.enter(one), Ok(()));
        for address in [one, one, two] {
            limit.leave(address);
        }
        assert!(lock(&limit.of_address.as_ref().unwrap().taken).is_empty());
    }

    #[test]
    fn waiting_threads_are_notified_when_a_connection_has_ended() {
        let address = Some(IpAddr::from([10, 0, 0, 1]));
        let limit = ConnectionLimit::new(1, None);
        limit.enter(address).unwrap();
        let threads = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        for thread in &threads {
            limit.wait(thread);
            limit.wait(thread);
        }
        limit.leave(address);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for thread in &threads {
            let told = std::pin::pin!(thread.notified());
            assert!(told.poll(&mut context).is_ready());
        }
    }
}
