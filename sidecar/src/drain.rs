//! When a worker under Connection dispatch has nothing left to do.
//!
//! Its generation gets no new connections by then (the steering program points
//! to the next one), so it is idle once its queue is empty and none of its
//! connections carries anything. At a stop there is no next generation: then a
//! quiet time without any connection counts.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use scaledapp_engine::Generation;
use tokio::time::Instant;

use crate::connections;
use crate::sharing::Sharing;

/// A connection whose handshake began before the turn arrives in the old queue
/// when its last packet does: one round trip later, over a slow line this much.
const HANDSHAKES: Duration = Duration::from_secs(1);
/// How often the kernel is asked.
const PERIOD: Duration = Duration::from_millis(25);
/// Between `accept` and the descriptor's appearance a connection is nowhere to
/// be seen; two looks in a row do not both fall into that moment.
const LOOKS: u32 = 2;

/// What is watched.
pub(crate) struct Connections {
    /// The worker's process group.
    pub(crate) group: u32,
    /// Its generation, whose queue counts.
    pub(crate) generation: Generation,
    /// The app's port.
    pub(crate) port: u16,
    /// Where the queue is.
    pub(crate) sharing: Rc<RefCell<Sharing>>,
}

impl Connections {
    /// Resolves when the worker holds no connection that carries something.
    pub(crate) async fn gone(self) {
        let begun = Instant::now();
        let mut idle_looks = 0;
        while idle_looks < LOOKS || begun.elapsed() < HANDSHAKES {
            tokio::time::sleep(PERIOD).await;
            idle_looks = if self.is_idle() { idle_looks + 1 } else { 0 };
        }
    }

    fn is_idle(&self) -> bool {
        if self.sharing.borrow().queued(self.generation) > 0 {
            return false;
        }
        let sockets = connections::carrying(self.port);
        let held = connections::held_by_groups(&[self.group], &sockets);
        held.get(&self.group).is_none_or(|count| *count == 0)
    }
}
