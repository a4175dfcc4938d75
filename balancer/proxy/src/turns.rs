//! The order in which long computations run. Many of them at the same time must not delay a
//! request by much: a step of a TLS handshake takes as long as ten requests.
//!
//! What is computed is not decided here.

use tokio::sync::{Semaphore, SemaphorePermit};

/// How many computations run in one turn of a thread's event loop.
const STEPS: usize = 2;

/// The turns of one thread.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

/// The permission for one computation.
#[derive(Debug)]
pub(crate) struct Turn<'a>(Option<SemaphorePermit<'a>>);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(STEPS))
    }
}

impl Turns {
    /// Waits for a turn, first come, first served.
    pub(crate) async fn take(&self) -> Turn<'_> {
        // An error says that the semaphore is closed, which it never is.
        Turn(self.0.acquire().await.ok())
    }
}

impl Turn<'_> {
    /// The computation is done. Before the next one, everything that is ready runs, and the
    /// event loop checks the sockets once.
    pub(crate) async fn over(self) {
        tokio::task::yield_now().await;
        drop(self.0);
    }
}
